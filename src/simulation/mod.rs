//! The engine in a simulated world: deterministic simulation.
//!
//! A seed decides everything: the configuration, what the clients do and when, how much each call moves,
//! which calls fail, in which order events come, and how long the process is stopped. The engine is the
//! real one, with every feature, and runs in the real loop; only its [`System`](crate::net::System) and
//! its clock are simulated. Checks inside calls, at each close, before each sleep, after each iteration of
//! the loop and at the end compare what happened with what has to hold; a check that fails ends the run.
//!
//! What makes it deterministic: every choice is a number that follows from the seed (`plan.rs`), time is a
//! number that only the simulation moves (`selector.rs`), a run has one thread, and the engine reaches
//! the system by one interface. After a number of iterations the run is calm: no failure is simulated, and no
//! client connects or sends. When nothing can happen any more, the service is shut down, unless the shutdown
//! comes before. Before each sleep no socket may have work that no event announces: it would be forgotten.
//!
//! The engine is `Engine<Simulation>` (`host.rs`). All its sockets are descriptors (`calls.rs`), whose
//! calls go to the world of the service that runs at present (`world` below; there can be two services),
//! because methods like `Stream::recv` have no argument for it.
//!
//! If a check fails, the run is made smaller as long as the same check fails, and told as a story:
//! the log of the engine, with a line for each iteration, call and action of a client. A run can be repeated
//! by its seed:
//!
//! ```text
//! SEED=1234 cargo test --lib simulation -- --nocapture
//! ```
//!
//! The files, in the order to read them:
//!
//! | file | what it has |
//! |---|---|
//! | `seeds.rs` | the test: many seeds, and the story of one |
//! | `plan.rs` | from a seed to random numbers, and to a plan |
//! | `sockets.rs` | the facts of a socket |
//! | `clients.rs` | what clients do |
//! | `calls.rs` | what all calls have in common, and their errors |
//! | `selector.rs` | edge-triggered events, and the clock |
//! | `host.rs` | the host, which is the program around the engine, and what it changes |
//! | `listeners.rs`, `streams.rs`, `datagrams.rs` | the calls of each kind of descriptor |
//! | `checks.rs`, `closes.rs` | what has to hold |
//!
//! An iteration is one of the loop, which `EventLoop::turn` makes; a turn is that of a socket, as in the
//! engine. The files are one program, and share their names: each has `use super::*`.

#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::struct_excessive_bools, reason = "facts, each on its own")]

/// Adds a line to the story: it is logged as the engine's own lines are.
macro_rules! tell {
    ($world:expr, $($line:tt)+) => {
        log::trace!("{:>12?} {}", Duration::from_micros($world.now), format_args!($($line)+));
    };
}

/// Ends the run if something does not hold. Not a panic, which would be printed: a run is repeated often
/// to make it smaller.
macro_rules! check {
    ($holds:expr, $($fault:tt)+) => {
        if !$holds {
            panic::resume_unwind(Box::new(format!($($fault)+)));
        }
    };
}

/// A struct whose fields are drawn one after the other, so that each can depend on those before it.
macro_rules! drawn {
    ($(#[$meta:meta])* $name:ident($($input:ident: $input_type:ty),*):
     $($(#[$doc:meta])* $field:ident: $type:ty = $value:expr;)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        #[allow(dead_code, reason = "`max` and `max_clients` are there for others")]
        pub(super) struct $name {
            $($(#[$doc])* pub(super) $field: $type),+
        }

        impl $name {
            pub(super) fn new($($input: $input_type),*) -> Self {
                $(let $field = $value;)+
                $name { $($field),+ }
            }
        }
    };
}

mod calls;
mod checks;
mod clients;
mod closes;
mod datagrams;
mod host;
mod listeners;
pub(crate) mod plan;
mod seeds;
mod selector;
mod sockets;
mod streams;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::{self, Debug, Display};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{io, mem, panic, thread};

use log::{Level, LevelFilter};
use mio::{Interest, Poll, Registry, Token, event};

use crate::config::Config;
use crate::net::Readiness;
use crate::net::udp::Datagram;
use crate::policy::log_lines;
use crate::stats::Stats;

// The names that the files share.
use {calls::*, checks::*, clients::*, host::*, listeners::*, plan::*, selector::*, sockets::*};

thread_local! {
    /// One for each service. Never freed, so that they can be borrowed for any time.
    static WORLDS: &'static [RefCell<World>; 2] = Box::leak(Box::default());
    /// The service that runs at present.
    static PRESENT: Cell<usize> = const { Cell::new(0) };
}

/// The world of the service that runs, borrowed until the end of the statement: a second call in it
/// panics.
fn world() -> RefMut<'static, World> {
    world_of(PRESENT.get())
}

fn world_of(service: usize) -> RefMut<'static, World> {
    WORLDS.with(|worlds| worlds[service].borrow_mut())
}

/// A service with its sockets and clients: which bytes were sent and received, which call returned what,
/// which end closed. Two services have a world each. They exchange datagrams, and run one after the other.
///
/// The checks judge the engine by these facts, by its counters, events and log, and never by its private
/// state.
#[derive(Default)]
struct World {
    service: usize,
    plan: Plan,
    random: Random,
    /// The clock. Only the simulation moves it.
    now: Micros,
    /// Iterations of the loop; also changes and shutdowns by the host.
    iteration: u64,
    /// When the present iteration began: the time that the engine knows.
    engine_now: Micros,
    /// The numbers of the first connection, and of the first datagram, that come in the present iteration.
    first_new: [usize; 2],
    /// Calls and events in the present iteration.
    work: u64,
    /// Iterations in a row without a call or an event.
    empty_iterations: u32,
    /// What the system lacks, as the error that its calls return, and until when.
    shortage: (&'static str, Micros),
    /// From here on no failure is simulated, and no client connects or sends.
    is_calm: bool,
    /// No client, event or timeout can wake the loop any more.
    is_at_rest: bool,
    /// When the selector was last asked for events.
    polled_at: Micros,
    /// The waker of the loop was called.
    is_woken: bool,
    /// When listeners may be called again: later after an error, `NEVER` while the host pauses them.
    accepts_at: Micros,
    /// Until when a listener or UDP socket may back off after an error.
    retries_at: Micros,
    /// When the drain time of the shutdown is over; `NEVER` before the shutdown.
    drained_at: Micros,
    /// When the first iteration after the drain time began; `None` until then.
    lingers_at: Option<Micros>,
    /// When the host last changed the limits.
    limits_changed_at: Micros,
    /// The host closes a connection.
    is_host_closing: bool,
    /// First those of the endpoints, then connections.
    sockets: Vec<Socket>,
    clients: Vec<Client>,
    datagrams: Vec<Datagram>,
    /// Until when the send buffer for datagrams is full.
    full_until: Micros,
    /// Open pipes.
    pipes: u64,
    /// What the engine has to report of connections: the token, and `Opened`, or the reasons for the close.
    reports: VecDeque<(Option<Token>, Vec<&'static str>)>,
    /// The counters of the engine, as they have to be.
    expected: Stats,
    /// When each kind of warning was logged last.
    warned_at: HashMap<String, Micros>,
}

impl World {
    fn new(plan: &Plan, service: usize) -> Self {
        let numbers = plan.clients.iter().map(|it| it + CLIENTS * service as u64);
        World {
            service,
            plan: plan.clone(),
            random: Random::new(plan.random.seed ^ (1 << 63) ^ service as u64),
            drained_at: NEVER,
            sockets: endpoints(service),
            clients: numbers.map(|it| Client::new(plan, it)).collect(),
            ..World::default()
        }
    }
}
