//! The test: runs many seeds, makes a run with a fault smaller, and tells its story.

use std::env;
use std::panic::AssertUnwindSafe;

use super::*;

/// How many seeds run by default.
const SEEDS: u64 = 10_000;

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
        return explain(seed, usize::MAX);
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        for worker in 0..count {
            let seeds = (first..end).skip(worker).step_by(count);
            scope.spawn(move || seeds.for_each(run_seed));
        }
    });
    println!("runs: {}, in {:.1?}", end - first, start.elapsed());
}

fn run_seed(seed: u64) {
    if let Some(fault) = find_fault(&Plan::new(seed, &BTreeSet::new()), LevelFilter::Warn) {
        explain(seed, 40);
        panic!("{fault}: seed {seed} has this fault only sometimes");
    }
}

/// Runs a plan. Returns the message of the check that fails.
fn find_fault(plan: &Plan, level: LevelFilter) -> Option<String> {
    let panic = panic::catch_unwind(AssertUnwindSafe(|| run(plan, level))).err()?;
    // Another panic than that of a check has been printed.
    let message = panic.downcast_ref::<String>().cloned();
    Some(message.unwrap_or("the engine panics".to_owned()))
}

/// Leaves out choices that a fault does not need: clients, failures, iterations.
fn minimize(seed: u64, fault: &str) -> Plan {
    // Faults that differ in numbers only are the same.
    let kind = |fault: &str| fault.replace(|char: char| char.is_ascii_digit(), "");
    let mut zeroed = BTreeSet::new();
    for draw in (0..Plan::new(seed, &zeroed).random.draws.get()).rev() {
        zeroed.insert(draw);
        let found = find_fault(&Plan::new(seed, &zeroed), LevelFilter::Warn);
        if found.is_none_or(|found| kind(&found) != kind(fault)) {
            zeroed.remove(&draw);
        }
    }
    Plan::new(seed, &zeroed)
}

/// Prints the last `count` lines of the story of a seed. If a check fails, it makes the run smaller before,
/// and panics at the end.
fn explain(seed: u64, count: usize) {
    let mut plan = Plan::new(seed, &BTreeSet::new());
    if let Some(fault) = find_fault(&plan, LevelFilter::Warn) {
        plan = minimize(seed, &fault);
    }
    let fault = find_fault(&plan, LevelFilter::Trace);
    let mut story = STORY.take();
    story.extend(log_lines::take());
    plan.random = Random::default();
    println!("{plan:#?}");
    for (level, line) in &story[story.len().saturating_sub(count)..] {
        println!("{level:>5} {line}");
    }
    if let Some(fault) = fault {
        panic!("{fault}\nrepeat it: SEED={seed} cargo test --lib simulation -- --nocapture");
    }
}
