//! The engine in a simulated world: deterministic simulation.
//!
//! A seed decides everything: the configuration, what the clients do and when, how much each call moves,
//! which calls fail, in which order events come, and how long the process is stopped. The engine is the
//! real one, with every feature, and runs in the real loop; only its [`System`](crate::net::System) and
//! its clock are simulated. Checks inside calls, at each close, before each sleep, after each iteration of
//! a loop and at the end compare what happened with what has to hold; a broken check ends the run.
//!
//! What makes it deterministic: every choice is a number that follows from the seed (`random.rs`), time is a
//! number that only the simulation moves (`step` in `selector.rs`, and each call in `calls.rs` a little), a run
//! has one thread, and the engine reaches the system by one interface. A run ends with a calm part, in which nothing fails and all clients read: what is
//! not echoed then was forgotten.
//!
//! The engine is `Engine<Simulation>` (`host.rs`). All its sockets are descriptors (`calls.rs`), whose
//! calls go to the world of the thread, because methods like `Read::read` have no argument for it.
//!
//! If a check is broken, the run is made smaller as long as the same check is broken, and told as a story:
//! the log of the engine, with a line for each call, event, sleep and action of a client. A run can be
//! repeated by its seed:
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
//! | `random.rs`, `plan.rs` | from a seed to a plan |
//! | `host.rs`, `changes.rs` | the application, with the engines in their loops |
//! | `clients.rs` | what clients do |
//! | `sockets.rs` | the facts of a socket |
//! | `calls.rs`, `errors.rs` | what all calls have in common, and their errors |
//! | `selector.rs` | edge-triggered events, and the clock |
//! | `listeners.rs`, `streams.rs`, `datagrams.rs` | the calls of each kind of socket |
//! | `checks.rs`, `closes.rs` | what has to hold |
//!
//! A service is an engine with its loop and its sockets. An iteration is one of its loop; a turn is that of
//! a socket, as in the engine. The files are one program, and share their names: each begins with
//! `use super::*`.

#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::struct_excessive_bools, reason = "facts, each on its own")]

/// Adds a line to the story: it is logged as the engine's own lines are.
macro_rules! tell {
    ($world:expr, $($line:tt)+) => {
        let seconds = Duration::from_micros($world.now).as_secs_f64();
        log::trace!("{seconds:>13.6} {}", format_args!($($line)+));
    };
}

mod calls;
mod changes;
mod checks;
mod clients;
mod closes;
mod datagrams;
mod errors;
mod host;
mod listeners;
mod plan;
pub(crate) mod random;
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
use mio::{Interest, Registry, Token, event};

use crate::config::Config;
use crate::net::Readiness;
use crate::net::udp::Datagram;
use crate::policy::log_lines;
use crate::stats::Stats;

// The names that the files share.
use {calls::*, checks::*, clients::*, closes::*, errors::*, host::*, listeners::*};
use {plan::*, random::*, selector::*, sockets::*};

thread_local! {
    /// Never freed, so that it can be borrowed for any time.
    static WORLD: &'static RefCell<World> = Box::leak(Box::default());
}

/// The world of this thread. A statement can borrow it once.
fn world() -> RefMut<'static, World> {
    WORLD.with(|world| world.borrow_mut())
}

/// The facts of one run: which bytes were sent and received, which call returned what, which end closed.
///
/// The checks judge the engine by them, by its counters and by its log, and never by its private state.
#[derive(Default)]
struct World {
    plan: Plan,
    random: Random,
    /// The clock. Only the simulation moves it.
    now: Micros,
    /// Iterations of all loops.
    iteration: u64,
    /// When the present iteration began: the time that the engine knows.
    engine_now: Micros,
    /// Calls and events in the present iteration.
    work: u64,
    failures: u64,
    /// What the system lacks, as the error that its calls return, and until when.
    shortage: (&'static str, Micros),
    /// From here on no call fails, and all clients read and close.
    is_calm: bool,
    /// Nothing can happen any more without the engines, and they wait.
    is_asleep: bool,
    /// When the drain time of the shutdown is over; `NEVER` before the shutdown.
    drained_at: Micros,
    /// When the host last changed the limits.
    limits_changed_at: Micros,
    /// The host closes a connection.
    is_host_closing: bool,
    services: Vec<Service>,
    /// First [`SOCKETS`] for each service, then connections.
    sockets: Vec<Socket>,
    clients: Vec<Client>,
    datagrams: Vec<Datagram>,
    /// Open pipes.
    pipes: u64,
    /// When each kind of warning was logged last.
    warned_at: HashMap<String, Micros>,
    /// All that was logged.
    story: Vec<(Level, String)>,
}

/// The facts of a service.
#[derive(Default)]
struct Service {
    /// Its waker was called.
    is_woken: bool,
    /// When listeners may be called again: later after a shortage, `NEVER` while the host pauses them.
    accepts_at: Micros,
    /// The connections that were closed, and not reported yet.
    closes: VecDeque<Close>,
    /// Connections that were reset at once.
    rejected: u64,
    /// Datagrams that were answered, and those that get no reply.
    replies: u64,
    unwanted: u64,
    /// Bytes of datagrams.
    received: u64,
    sent: u64,
    /// The first iteration after the drain time.
    lingers_at: Option<Micros>,
    /// Iterations in a row without a call or an event.
    idle_iterations: u32,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let clients = plan.clients.iter().map(|&number| Client::new(plan, number));
        let mut world = World {
            plan: plan.clone(),
            random: Random::new(plan.seed ^ (1 << 63)),
            drained_at: NEVER,
            clients: clients.collect(),
            ..World::default()
        };
        for service in 0..plan.services {
            world.add_service(service);
        }
        world
    }
}
