//! How `mio-echo` compares: the same load on it and on other echo servers, on the same cores.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml
//! ```
//!
//! builds the service and its load generator, and measures; `-- --help` has the options. Each
//! server runs on one core and the load generator on another. Machines are noisy, so the servers
//! take turns, in another order each round, and each gets a new process for each measurement. What
//! is told of a figure is its median over the rounds, its spread, and the median of its ratios to
//! that of `mio-echo` in the same round. The load generator compares every byte: where not
//! everything came back as it was sent, there is no figure, but the reason.
//!
//! The tables go to the standard output. What was measured goes to `results/results.json`, round by
//! round, and the charts are drawn beside it.
//!
//! From servers to charts:
//!
//! - `servers`, `workloads`: what is compared, and by which load; new ones are a line more there
//! - `metrics`: what is read off the load generator's results
//! - `build`, `programs`: what is to be built, and what is installed
//! - `measure`: one server under one load; `ready`: when it can begin; `process`: cores, and an end
//!   for every process that was started
//! - `statistics`, `results`: the figures
//! - `table`, `charts`, `svg`: how they are shown
//! - `bin` and `../servers`: the servers that are there for comparison

#![forbid(unsafe_code)]

mod build;
mod charts;
mod machine;
mod measure;
mod metrics;
mod options;
mod process;
mod programs;
mod ready;
mod results;
mod servers;
mod statistics;
mod stop;
mod svg;
mod table;
mod workloads;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::measure::Bench;
use crate::options::Options;
use crate::programs::Programs;
use crate::results::{Results, Round, ServerResults, WorkloadResults};
use crate::servers::Server;
use crate::stop::Stop;
use crate::workloads::Workload;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.draw {
        return draw(&options.results);
    }
    let stop = Stop::catch()?;
    process::raise_open_files()?;
    let programs = Programs::find()?;
    let bench = Bench {
        programs: &programs,
        options,
        stop: &stop,
    };
    let mut results = Results::begin(options, &programs);
    println!("{}", table::LEGEND);
    for workload in options.workloads() {
        let servers = contenders(workload, options, &programs);
        if servers.is_empty() {
            continue;
        }
        let measured = compare(&bench, workload, &servers)?;
        println!("\n{}", table::of(workload, &measured).trim_end());
        results.workloads.push(measured);
    }
    ensure!(!results.workloads.is_empty(), "nothing to measure");
    results.save(&options.results)?;
    draw(&options.results)
}

/// Who takes part, of those who are here.
fn contenders(workload: &Workload, options: &Options, programs: &Programs) -> Vec<&'static Server> {
    let takes_part =
        |it: &&Server| workload.is_for(it) && options.has(it) && programs.lacks(it).is_none();
    servers::SERVERS.iter().filter(takes_part).collect()
}

/// All rounds of a workload.
fn compare(bench: &Bench, workload: &Workload, servers: &[&Server]) -> Result<WorkloadResults> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); servers.len()];
    for round in 0..bench.options.rounds {
        for place in order(round, servers.len()) {
            let server = servers[place];
            eprintln!(
                "{}, round {} of {}: {}",
                workload.title,
                round + 1,
                bench.options.rounds,
                server.title
            );
            rounds[place].push(bench.round(workload, server)?);
        }
    }
    let named = |(server, rounds): (&&Server, _)| ServerResults::new(server, workload, rounds);
    let servers = servers.iter().zip(rounds).map(named).collect();
    Ok(WorkloadResults::new(workload, servers))
}

/// Who comes when: the order rotates, and every other round has it backwards, so that nobody is always
/// behind the same one.
fn order(round: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.rotate_left(round % count);
    if round % 2 == 1 {
        places.reverse();
    }
    places
}

fn draw(directory: &Path) -> Result<()> {
    let results = Results::load(directory)?;
    for file in charts::draw(&results, directory).context("charts")? {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_all_in_another_order() {
        let rounds: Vec<Vec<usize>> = (0..5).map(|round| order(round, 3)).collect();
        let expected = [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0], [1, 2, 0]];
        assert_eq!(rounds, expected);
        assert_eq!(order(7, 1), [0]);
    }
}
