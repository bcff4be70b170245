//! `mio-echo load`: a load generator for echo services.
//!
//! One thread and one event loop, as in the service. It has to be faster than what it measures, and
//! to report if it is not, so it also measures itself.
//!
//! - `options`: the arguments
//! - `generator`: the event loop, with:
//!   - `connecting`: opens and closes connections
//!   - `modes`: decides when the next message is sent
//!   - `phases`: connecting, warm-up, measuring, holding, draining; and the results
//! - `connection`: a socket and the messages in both directions
//! - `in_flight`: the unanswered messages of a connection
//! - `pattern`: the bytes of a message
//! - `train`: datagrams that are sent and received together
//! - `schedule`: when messages are due, in the open loop
//! - `connector`: source addresses, and limits on sockets
//! - `counters`, `process_stats`: what is measured
//! - `report`, `chart`, `progress`: the output

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
mod train;

use self::generator::Generator;
pub(crate) use self::options::Options;
use crate::arguments::print;
use crate::cli::CliError;

/// Returns whether everything came back as it was sent.
pub(crate) fn run(options: Options, is_quiet: bool) -> Result<bool, CliError> {
    let endpoints = options.endpoints()?;
    connector::make_room(options.connections()).map_err(CliError::usage)?;
    let is_json = options.json;
    let results = Generator::new(options, is_quiet, &endpoints)?.run()?;
    if is_json {
        print(format_args!("{}", results.json()))?;
    } else {
        print(format_args!("{results}"))?;
    }
    Ok(results.is_clean())
}
