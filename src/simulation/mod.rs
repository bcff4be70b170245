//! The engine in a simulated world: deterministic simulation.
//!
//! A seed decides everything: the configuration, what the peers do and when, how much each call moves,
//! which calls fail, in which order events come, and how long the process is stopped. The engine is the
//! real one, with every feature, and runs in the real loop; only its [`System`](crate::net::System) and
//! its clock are simulated. Checks inside calls, at each close, before each sleep, after each turn of the
//! loop and at the end compare what happened with what has to hold; a broken check ends the run.
//!
//! The engine is `Engine<Simulation>` (`run.rs`). All its sockets are descriptors (`sockets.rs`), whose
//! calls go to the world of the thread, because methods like `Read::read` have no argument for it.
//!
//! If a check is broken, the run is made smaller as long as the same check is broken, and told as a story:
//! the log of the engine, with a line for each call, event, sleep and action of a peer. A run can be
//! repeated by its seed:
//!
//! ```text
//! SEED=1234 cargo test --lib simulation -- --nocapture
//! ```
//!
//! | file | what it has |
//! |---|---|
//! | `random.rs`, `plan.rs` | from a seed to a plan |
//! | `world.rs`, `errors.rs` | the clock, calls and their errors, and what all share |
//! | `facts.rs` | the facts of a socket |
//! | `sockets.rs`, `selector.rs` | descriptors, registrations and edge-triggered events |
//! | `streams.rs`, `listeners.rs`, `datagrams.rs` | the calls of each kind of socket |
//! | `peers.rs` | what peers do |
//! | `checks.rs`, `closes.rs` | what has to hold |
//! | `run.rs`, `hosts.rs` | the loop, and its host |
//!
//! The files are one program, and share their names: each begins with `use super::*`.

#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::struct_excessive_bools, reason = "facts, each on its own")]

mod checks;
mod closes;
mod datagrams;
mod errors;
mod facts;
mod hosts;
mod listeners;
mod peers;
mod plan;
pub(crate) mod random;
mod run;
mod selector;
mod sockets;
mod streams;
mod world;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::{self, Debug, Display};
use std::net::{IpAddr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use std::{env, io, mem, process, thread};

use log::{Level, LevelFilter};
use mio::{Interest, Poll, Registry, Token, event};

use crate::config::Config;
use crate::net::Readiness;
use crate::net::endpoint::Endpoint;
use crate::net::udp::Datagram;
use crate::policy::log_lines;
use crate::stats::Stats;

// The names that the files share.
use {checks::*, closes::*, datagrams::*, errors::*, facts::*, hosts::*, peers::*};
use {plan::*, random::*, run::*, selector::*, sockets::*, world::*};

/// How many seeds run by default.
const SEEDS: u64 = 5_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("a number in the environment"))
}

/// `SEED` tells the story of one seed; `SEEDS` says how many are run, and `FIRST_SEED` from which on.
#[test]
fn simulation() {
    let first = number("FIRST_SEED").unwrap_or(0);
    let end = first + number("SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = number("SEED") {
        return explain(seed, Poll::new().unwrap().registry(), usize::MAX);
    }
    let (next, totals) = (AtomicU64::new(first), Mutex::new([0; 6]));
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
            if since.elapsed() > Duration::from_secs(60) {
                eprintln!("a turn of one of the seeds before {seed} does not end");
                process::abort();
            }
        }
    });
    let [turns, calls, seconds, connections, bytes, datagrams] = totals.into_inner().unwrap();
    let (runs, hours, time) = (end - first, seconds / 3600, start.elapsed());
    println!(
        "runs: {runs}, turns: {turns}, calls: {calls}, simulated hours: {hours}, connections: \
         {connections}, bytes: {bytes}, datagrams: {datagrams}, in {time:.1?}"
    );
}

fn run_seeds(next: &AtomicU64, end: u64, totals: &Mutex<[u64; 6]>) {
    let poll = Poll::new().unwrap();
    let next = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < end);
    while let Some(seed) = next() {
        let plan = Plan::new(seed, &BTreeSet::new());
        if let Some(found) = fault(&plan, poll.registry(), LevelFilter::Warn) {
            explain(seed, poll.registry(), 40);
            panic!("{found}: seed {seed} has this fault only sometimes");
        }
        let figures = world().figures();
        for (total, figure) in totals.lock().unwrap().iter_mut().zip(figures) {
            *total += figure;
        }
    }
}

/// Runs a plan. Returns what is broken.
fn fault(plan: &Plan, registry: &Registry, level: LevelFilter) -> Option<String> {
    let panic = panic::catch_unwind(AssertUnwindSafe(|| run::run(plan, registry, level))).err()?;
    // A panic of the engine has been printed.
    let message = panic.downcast_ref::<String>().cloned();
    Some(message.unwrap_or("the engine panics".to_owned()))
}

/// Leaves out all choices that a fault does not need: peers, trouble, turns.
fn minimize(seed: u64, found: &str, registry: &Registry) -> Plan {
    // Faults that differ in numbers only are the same.
    let kind = |fault: &str| fault.replace(|char: char| char.is_ascii_digit(), "");
    let mut zeroed = BTreeSet::new();
    for draw in (0..Plan::new(seed, &zeroed).random.draws.get()).rev() {
        zeroed.insert(draw);
        let fault = fault(&Plan::new(seed, &zeroed), registry, LevelFilter::Warn);
        if fault.is_none_or(|fault| kind(&fault) != kind(found)) {
            zeroed.remove(&draw);
        }
    }
    Plan::new(seed, &zeroed)
}

/// Prints the last `count` lines of the story of a seed, and panics if a check is broken. Then the run is
/// as small as it can be.
fn explain(seed: u64, registry: &Registry, count: usize) {
    let mut plan = Plan::new(seed, &BTreeSet::new());
    if let Some(found) = fault(&plan, registry, LevelFilter::Warn) {
        plan = minimize(seed, &found, registry);
    }
    let found = fault(&plan, registry, LevelFilter::Trace);
    let mut world = world();
    world.take_log();
    let end = &world.story[world.story.len().saturating_sub(count)..];
    println!("{plan:#?}\n{}", end.join("\n"));
    if let Some(fault) = found {
        panic!("{fault}\nrepeat it: SEED={seed} cargo test --lib simulation -- --nocapture");
    }
}
