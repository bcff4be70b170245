//! The test: runs the plans of many seeds, makes a run with a fault smaller, and tells its story.

use std::env;
use std::panic::AssertUnwindSafe;

use super::*;

fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().expect("a number"))
}

/// `SEED` tells the story of one seed; `SEEDS` says how many are run, and `FIRST_SEED` from which on.
#[test]
fn simulation() {
    let first = number("FIRST_SEED").unwrap_or(0);
    let end = first + number("SEEDS").unwrap_or(10_000);
    if let Some(seed) = number("SEED") {
        // Also without a fault.
        return run_seed(seed, usize::MAX);
    }
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        for worker in 0..count {
            let seeds = (first..end).skip(worker).step_by(count);
            scope.spawn(move || seeds.for_each(|it| run_seed(it, 40)));
        }
    });
    println!("runs: {}", end - first);
}

/// Runs a plan: the loops of its services, one iteration after the other.
fn run(plan: &Plan, level: LevelFilter) {
    log_lines::start(level);
    (0..2).for_each(|it| *world_of(it) = World::new(plan, it));
    // Only for its registry, which mio requires.
    let poll = Poll::new().unwrap();
    let hosts = (0..plan.services).filter_map(|service| Host::new(service, poll.registry()));
    let mut hosts: Vec<_> = hosts.collect();
    while !hosts.is_empty() {
        hosts.retain_mut(|host| {
            PRESENT.set(host.service);
            host.iterate(plan);
            world().check_warnings();
            !host.engine.is_finished()
        });
    }
    (0..plan.services).for_each(|it| world_of(it).check_end());
}

/// Runs a plan. Returns the message of the check that fails.
fn find_fault(plan: &Plan, level: LevelFilter) -> Option<String> {
    let panic = panic::catch_unwind(AssertUnwindSafe(|| run(plan, level))).err()?;
    // A panic of the engine has been printed.
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

/// Runs a seed. If a check fails, makes the run smaller, prints the last `count` lines of its story, and
/// panics. With a `count` without limit, prints the story in any case.
fn run_seed(seed: u64, count: usize) {
    let mut plan = Plan::new(seed, &BTreeSet::new());
    let fault = find_fault(&plan, LevelFilter::Warn);
    match &fault {
        Some(fault) => plan = minimize(seed, fault),
        None if count < usize::MAX => return,
        None => {}
    }
    let fault = find_fault(&plan, LevelFilter::Trace).or(fault);
    plan.random = Random::default();
    println!("{plan:#?}");
    for (level, line) in log_lines::all().iter().rev().take(count).rev() {
        println!("{level:>5} {line}");
    }
    if let Some(fault) = fault {
        panic!("{fault}\nrepeat it: SEED={seed} cargo test --lib simulation -- --nocapture");
    }
}
