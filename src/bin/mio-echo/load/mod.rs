//! `mio-echo load`: a load generator for echo services.
//!
//! One thread and one event loop, as in the service. It is to be faster than what it measures, and
//! it is to know when it is not: it measures itself as well. What lies where:
//!
//! - here: from the command line to the exit status
//! - `options`: the command line
//! - `generator`: the loop, and in `generator/` what it does:
//!   - `connecting`: how connections come to be, and how they go
//!   - `modes`: when the next message is sent
//!   - `phases`: warming up, measuring, holding, draining; and the results
//! - `connection`: a socket, and the messages in both directions
//! - `window`: which messages are on their way
//! - `pattern`: what they carry
//! - `pace`: when they are due, in the open loop
//! - `opener`: from where to connect, and how often
//! - `tally`, `usage`: what is counted, and what the system says about both processes
//! - `report`, `chart`, `progress`: what people and machines are told
//! - in `../shared`, with another example: `arguments`, of which command lines are made; `socket`,
//!   which is TCP, UDP or Unix; `payload`, numbers and noise; `signals`, how the loop is told to end

mod chart;
mod connection;
mod connector;
mod counters;
mod generator;
mod in_flight;
mod options;
mod pattern;
mod process_stats;
mod progress;
mod report;
mod schedule;

use self::generator::Generator;
pub(crate) use self::options::Options;
use crate::arguments::print;
use crate::cli::CliError;

/// Gives whether everything came back as it was sent.
pub(crate) fn run(options: Options, is_quiet: bool) -> Result<bool, CliError> {
    let endpoints = options.endpoints()?;
    connector::make_room(options.connections()).map_err(CliError::usage)?;
    let is_for_machines = options.json;
    let results = Generator::new(options, is_quiet, &endpoints)?.run()?;
    if is_for_machines {
        print(format_args!("{}", results.json()))?;
    } else {
        print(format_args!("{results}"))?;
    }
    Ok(results.is_clean())
}
