//! Compares `mio-echo` with other echo servers under the same load, on the same cores.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml
//! ```
//!
//! builds the servers, and measures them with `mio-echo load`; `-- --help` lists the options. The server
//! runs on one core and the load generator on another.
//!
//! Machines are noisy. So the servers take turns, in another order each round, and every measurement
//! starts a new process. A figure is reported as its median over the rounds, its range, and its ratio
//! to `mio-echo` in the same round, with a confidence interval: a difference is real only if the
//! interval does not contain 1. Before each measurement, the two cores should be idle; whether they were
//! stands below the charts. The load generator compares every byte: if an echo is lost, late or wrong,
//! the reason is reported instead of a figure.
//!
//! The tables go to standard output, the figures of every round to `results/results.json`, and the
//! charts to the same directory.
//!
//! # Layout
//!
//! A module imports only modules above it:
//!
//! - `servers`, `metrics`, `workloads`: what is compared, by which figures, under which load; a new one
//!   is an entry in a table
//! - `stop`, `process`, `ready`: signals, child processes pinned to a core, and waiting for a server
//! - `options`: the command line
//! - `build`, `native`, `programs`: builds the programs of this repository and finds installed ones
//! - `quiet`: whether other programs disturb a measurement
//! - `machine`, `statistics`, `results`: the contents of `results.json`
//! - `measure`: one server under one workload, once
//! - `table`, `svg`, `charts`: output
//!
//! `bin` and `../servers` hold the servers to compare with.

#![forbid(unsafe_code)]

mod build;
mod charts;
mod machine;
mod measure;
mod metrics;
mod native;
mod options;
mod process;
mod programs;
mod quiet;
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
use std::time::Duration;

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
    process::raise_nofile_limit()?;
    let programs = Programs::find(options)?;
    require_quiet(options)?;
    let bench = Bench {
        programs: &programs,
        options,
        stop: &stop,
    };
    let mut results = Results::new(options, &programs);
    println!("{}", table::LEGEND);
    for workload in options.workloads() {
        let servers = participants(workload, options, &programs);
        if servers.is_empty() {
            continue;
        }
        let compared = compare(&bench, workload, &servers)?;
        println!("\n{}", table::render(workload, &compared).trim_end());
        results.workloads.push(compared);
    }
    ensure!(
        !results.workloads.is_empty(),
        "nothing to measure: no selected server fits a selected workload"
    );
    println!("\n{}", charts::disturbance(&results));
    results.save(&options.results)?;
    draw(&options.results)
}

/// Fails if other programs use the two cores, unless the options allow it.
fn require_quiet(options: &Options) -> Result<()> {
    const WATCH: Duration = Duration::from_secs(2);

    let busy = quiet::disturbance(options.cores(), WATCH).unwrap_or(0.0);
    ensure!(
        options.noisy || busy <= quiet::LIMIT,
        "the machine is not quiet: other programs use {:.0} % of a core; end them, or measure with --noisy",
        busy * 100.0
    );
    Ok(())
}

/// Returns the servers that are installed, selected and fit for the workload.
fn participants(
    workload: &Workload,
    options: &Options,
    programs: &Programs,
) -> Vec<&'static Server> {
    let takes_part = |it: &&Server| {
        workload.includes(it) && options.includes(it) && programs.missing_for(it).is_none()
    };
    servers::SERVERS.iter().filter(takes_part).collect()
}

/// Runs all rounds of a workload.
fn compare(bench: &Bench, workload: &Workload, servers: &[&Server]) -> Result<WorkloadResults> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); servers.len()];
    for round in 0..bench.options.rounds {
        for index in order(round, servers.len()) {
            let server = servers[index];
            eprintln!(
                "{}, round {} of {}: {}",
                workload.title,
                round + 1,
                bench.options.rounds,
                server.title
            );
            rounds[index].push(bench.run_round(workload, server)?);
        }
    }
    let named = |(server, rounds): (&&Server, _)| ServerResults::new(server, workload, rounds);
    let servers = servers.iter().zip(rounds).map(named).collect();
    Ok(WorkloadResults::new(workload, servers))
}

/// Returns the order of the servers in a round, as indices.
///
/// It rotates, and every other round reverses it, so that no server always follows the same server.
fn order(round: usize, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..count).collect();
    indices.rotate_left(round % count);
    if round % 2 == 1 {
        indices.reverse();
    }
    indices
}

/// Draws the charts of the results in `directory`, and writes their summaries again.
fn draw(directory: &Path) -> Result<()> {
    let results = Results::load(directory)?;
    results.save(directory)?;
    for file in charts::draw(&results, directory).context("cannot draw the charts")? {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_changes_each_round() {
        let rounds: Vec<Vec<usize>> = (0..5).map(|round| order(round, 3)).collect();
        let expected = [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0], [1, 2, 0]];
        assert_eq!(rounds, expected);
        assert_eq!(order(7, 1), [0]);
    }
}
