//! The test: runs many seeds, makes the first run with a fault as small as it can be, and tells its story.

use std::env;
use std::panic::AssertUnwindSafe;

use mio::Poll;

use super::*;

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
    let start = Instant::now();
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        for worker in 0..count {
            scope.spawn(move || run_seeds((first..end).skip(worker).step_by(count)));
        }
    });
    println!("runs: {}, in {:.1?}", end - first, start.elapsed());
}

fn run_seeds(seeds: impl Iterator<Item = u64>) {
    let poll = Poll::new().unwrap();
    for seed in seeds {
        let plan = Plan::new(seed, &BTreeSet::new());
        if let Some(found) = fault(&plan, poll.registry(), LevelFilter::Warn) {
            explain(seed, poll.registry(), 40);
            panic!("{found}: seed {seed} has this fault only sometimes");
        }
    }
}

/// Runs a plan. Returns what is broken.
fn fault(plan: &Plan, registry: &Registry, level: LevelFilter) -> Option<String> {
    let run = AssertUnwindSafe(|| run(plan, registry, level));
    let panic = panic::catch_unwind(run).err()?;
    // A panic of the engine has been printed.
    let message = panic.downcast_ref::<String>().cloned();
    Some(message.unwrap_or("the engine panics".to_owned()))
}

/// Leaves out all choices that a fault does not need: clients, trouble, iterations.
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
    let mut story = STORY.take();
    story.extend(log_lines::take());
    println!("{plan:#?}");
    for (level, line) in &story[story.len().saturating_sub(count)..] {
        println!("{level:>5} {line}");
    }
    if let Some(fault) = found {
        panic!("{fault}\nrepeat it: SEED={seed} cargo test --lib simulation -- --nocapture");
    }
}
