//! The `mio-echo` service: a [`Server`] that stops at a signal. See `mio-echo --help`.

#![forbid(unsafe_code)]

mod cli;
mod logging;
mod metrics;
mod service;
mod signals;
mod summary;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use log::warn;
use mio_echo::{Endpoint, Server};

use crate::cli::{Failure, Options};
use crate::metrics::Metrics;
use crate::service::{FIRST_OF_METRICS, Service};
use crate::signals::Signals;
use crate::summary::Summary;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where even this cannot be written, the exit status says it.
            let _ = writeln!(io::stderr(), "mio-echo: {failure}");
            failure.status()
        }
    }
}

fn serve() -> Result<(), Failure> {
    // Before anything that takes time: until then a summary that is asked for is the end.
    let signals = Signals::catch()?;
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    logging::start(&options);
    let config = options.config(raise_open_files())?;
    let metrics = options.metrics()?;
    // Before it says that it listens: whoever reads that may stop it right away.
    signals.catch_stops()?;
    let server = Server::bind(config)?;
    warn_if_public(server.endpoints().iter().chain(metrics.endpoints()));
    let metrics = Metrics::listen(metrics, server.registry(), FIRST_OF_METRICS)?;
    let summary = Summary::new(options.stats_interval, Instant::now());
    Service::new(server, signals, summary, metrics)?.run()?;
    Ok(())
}

fn warn_if_public<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) {
    let public = endpoints.filter(|it| it.is_public());
    let public: Vec<String> = public.map(Endpoint::to_string).collect();
    if !public.is_empty() {
        warn!(
            "open to other hosts, and serves whoever can reach it: {}",
            public.join(", ")
        );
    }
}

/// Raises the soft limit on open files to the hard one (see getrlimit(2)) and gives the limit that
/// then holds. `None` where the system has none that could be told.
#[cfg(unix)]
fn raise_open_files() -> Option<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        warn!("the limit on open files stays at {soft}: {error}");
    }
    // Asked for again, because not every system gives all that it agrees to.
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    usize::try_from(soft).ok()
}

/// There is no such limit here.
#[cfg(not(unix))]
fn raise_open_files() -> Option<usize> {
    None
}
