//! The engine in a simulated world: deterministic simulation.
//!
//! A seed decides everything: the configuration, what the peers do and when, how much each call moves,
//! which calls fail, in which order events come, and how long the process is stopped. The engine is the
//! real one, with every feature, and runs in the real loop; only its [`System`](crate::net::System) and
//! its clock are simulated. Checks inside calls, at each close, before each sleep, after each turn of the
//! loop and at the end compare what happened with what has to hold; a broken check is a panic.
//!
//! The engine is `Engine<Simulation>` (`run.rs`). All its sockets are descriptors (`sockets.rs`), whose
//! calls go to the world of the thread, because methods like `Read::read` have no argument for it.
//!
//! If a check is broken, the run is made smaller as long as the same check is broken, and told as a story.
//! A run can be repeated by its seed:
//!
//! ```text
//! SEED=1234 cargo test --lib simulation -- --nocapture
//! ```
//!
//! | file | what it has |
//! |---|---|
//! | `random.rs`, `plan.rs` | from a seed to a plan |
//! | `world.rs`, `errors.rs` | the clock, calls and their errors, and the facts that all share |
//! | `sockets.rs`, `selector.rs` | registrations and edge-triggered events |
//! | `connections.rs`, `streams.rs`, `listeners.rs`, `datagrams.rs` | sockets |
//! | `peers.rs` | what peers do |
//! | `checks.rs`, `closes.rs` | what has to hold |
//! | `run.rs` | the loop and its host |

#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::struct_excessive_bools, reason = "facts, each on its own")]

mod checks;
mod closes;
mod connections;
mod datagrams;
mod errors;
mod listeners;
mod peers;
mod plan;
pub(crate) mod random;
mod run;
mod selector;
mod sockets;
mod streams;
mod world;

use std::cell::Cell;
use std::env;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Poll, Registry};

use plan::Plan;
use world::{World, world};

/// How many seeds run by default.
const SEEDS: u64 = 5_000;

/// More than any run takes.
const MAX_TIME: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("a number in the environment"))
}

/// `SEED` tells the story of one seed; `SEEDS` says how many are run, and `FIRST_SEED` from which on.
#[test]
fn simulation() {
    silence_runs();
    let first = number("FIRST_SEED").unwrap_or(0);
    let end = first + number("SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = number("SEED") {
        return explain(seed, Poll::new().unwrap().registry());
    }
    let (next, totals) = (AtomicU64::new(first), Mutex::new(Totals::default()));
    let start = Instant::now();
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let workers = (0..workers).map(|_| scope.spawn(|| run_seeds(&next, end, &totals)));
        let workers: Vec<_> = workers.collect();
        // A turn that never returns makes no call that could be checked.
        let (mut seed, mut since) = (first, start);
        while workers.iter().any(|it| !it.is_finished()) {
            thread::park_timeout(Duration::from_millis(10));
            if mem::replace(&mut seed, next.load(Ordering::Relaxed)) != seed {
                since = Instant::now();
            }
            if since.elapsed() > MAX_TIME {
                eprintln!("a turn of one of the seeds before {seed} does not end");
                process::abort();
            }
        }
    });
    let totals = totals.into_inner().unwrap();
    println!("{totals:?} in {:.1?}", start.elapsed());
}

/// What was simulated.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "printed")]
struct Totals {
    runs: u64,
    turns: u64,
    calls: u64,
    seconds: u64,
    connections: u64,
    bytes: u64,
    datagrams: u64,
}

fn run_seeds(next: &AtomicU64, end: u64, totals: &Mutex<Totals>) {
    let poll = Poll::new().unwrap();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        if fault(&Plan::new(seed), poll.registry(), false).is_some() {
            explain(seed, poll.registry());
        }
        let mut totals = totals.lock().unwrap();
        world(|world| {
            totals.runs += 1;
            totals.turns += world.turn;
            totals.calls += world.calls;
            totals.seconds += world.now / plan::SECOND;
            totals.connections += world.connections.len() as u64;
            totals.bytes += world.connections.iter().map(|it| it.echoed).sum::<u64>();
            totals.datagrams += world.replies;
        });
    }
}

thread_local! {
    /// A run is going on. `explain` reports its panic, at the end.
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Panics of runs print nothing: a run is repeated often to make it smaller.
fn silence_runs() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !IS_RUNNING.get() {
            report(panic);
        }
    }));
}

/// Runs a plan. Returns the message of its panic: the broken check.
fn fault(plan: &Plan, registry: &Registry, has_story: bool) -> Option<String> {
    IS_RUNNING.set(true);
    let run = AssertUnwindSafe(|| run::run(plan, registry, has_story));
    let panic = panic::catch_unwind(run).err();
    IS_RUNNING.set(false);
    panic.map(|message| match message.downcast::<String>() {
        Ok(message) => *message,
        Err(message) => (*message.downcast::<&str>().unwrap()).to_owned(),
    })
}

/// Faults that differ in numbers only are of the same kind.
fn kind(fault: &str) -> String {
    fault.replace(|char: char| char.is_ascii_digit(), "")
}

/// The smallest plan that has the same kind of fault.
fn minimize(mut plan: Plan, found: &str, registry: &Registry) -> Plan {
    let is_same =
        |it: &Plan| fault(it, registry, false).is_some_and(|fault| kind(&fault) == kind(found));
    while let Some(smaller) = plan.smaller().into_iter().find(is_same) {
        plan = smaller;
    }
    plan
}

/// Tells the story of a seed, and panics if a check is broken: then the run is as small as it can be,
/// and the end of the story is enough, unless the seed was asked for.
fn explain(seed: u64, registry: &Registry) {
    let mut plan = Plan::new(seed);
    let found = fault(&plan, registry, false);
    if let Some(found) = &found {
        plan = minimize(plan, found, registry);
    }
    fault(&plan, registry, true);
    let story = world(World::take_story);
    let count = number("SEED").map_or(40, |_| story.len());
    let end = story[story.len().saturating_sub(count)..].join("\n");
    println!("{plan:#?}\n{end}");
    if let Some(fault) = found {
        panic!("{fault}\nrepeat it: SEED={seed} cargo test --lib simulation -- --nocapture");
    }
}
