//! The `mio-echo` service: a [`Server`] that stops at a signal. See `mio-echo --help`.

#![forbid(unsafe_code)]

mod activation;
mod check;
mod cli;
mod logging;
mod signals;
mod supervisor;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use log::{info, warn};
use mio_echo::{Endpoint, Server};

use crate::cli::{Failure, Options};
use crate::signals::StopSignals;
use crate::supervisor::Supervisor;

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
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if let Some(endpoint) = &options.check {
        return check::check(endpoint);
    }
    logging::start(&options);
    let sockets = activation::sockets()?;
    let config = options.config(raise_open_files())?;
    // Before it says that it listens: whoever reads that may stop it right away.
    let signals = StopSignals::catch()?;
    let mut server = Server::with_sockets(config, sockets)?;
    let public = server.endpoints().iter().filter(|it| it.is_public());
    let public: Vec<String> = public.map(Endpoint::to_string).collect();
    if !public.is_empty() {
        warn!(
            "open to other hosts, and serves whoever can reach it: {}",
            public.join(", ")
        );
    }
    let started = Instant::now();
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready();
    signals.run(&mut server, &mut supervisor)?;
    let stats = server.stats();
    info!(
        "stopped after {:.0?}: {} bytes echoed, {} datagrams, {} unanswered; {} connections, \
         {} finished, {} failed, {} cut",
        started.elapsed(),
        stats.bytes_sent,
        stats.datagrams_sent,
        stats.unanswered.total(),
        stats.accepted,
        stats.finished,
        stats.failed,
        stats.cut,
    );
    Ok(())
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
