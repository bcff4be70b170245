//! A load generator for echo services: `cargo run --release --example load -- 127.0.0.1:7007`.
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

#![forbid(unsafe_code)]

#[path = "../shared/arguments.rs"]
mod arguments;
mod chart;
mod connection;
mod generator;
mod opener;
mod options;
mod pace;
mod pattern;
#[path = "../shared/payload.rs"]
mod payload;
mod progress;
mod report;
#[path = "../shared/signals.rs"]
mod signals;
#[path = "../shared/socket.rs"]
mod socket;
mod tally;
mod usage;
mod window;

use std::process::ExitCode;

use crate::arguments::{Failure, complain, print};
use crate::generator::Generator;
use crate::options::Options;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            complain("load", &failure);
            failure.status.into()
        }
    }
}

/// Gives whether everything came back as it was sent.
fn run() -> Result<bool, Failure> {
    let Some(options) = arguments::read::<Options>()? else {
        return Ok(true);
    };
    let endpoints = options.endpoints()?;
    opener::make_room(options.connections()).map_err(|text| Failure::new(text, 2))?;
    let is_for_machines = options.json;
    let results = Generator::new(options, &endpoints)?.run()?;
    if is_for_machines {
        print(format_args!("{}", results.json()))?;
    } else {
        print(format_args!("{results}"))?;
    }
    Ok(results.is_clean())
}
