//! The `mio-echo` service: a [`Server`] that stops at a signal. See `mio-echo --help`.

#![forbid(unsafe_code)]

mod activation;
mod check;
mod cli;
mod logging;
mod metrics;
mod service;
mod signals;
mod summary;
mod systemd;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use log::{info, warn};
use mio_echo::{Endpoint, Network, Server};

use crate::cli::{Failure, Options};
use crate::metrics::Metrics;
use crate::service::{FIRST_OF_METRICS, Service};
use crate::signals::Signals;
use crate::summary::Summary;
use crate::systemd::Supervisor;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where even this cannot be written, the exit status says it.
            let failure_text = logging::escape_controls(&failure.to_string());
            let _ = writeln!(io::stderr(), "mio-echo: {failure_text}");
            failure.status()
        }
    }
}

fn serve() -> Result<(), Failure> {
    let descriptors = activation::descriptors()?;
    // Before anything that takes time: until then a summary that is asked for is the end.
    let signals = Signals::catch()?;
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if let Some(endpoint) = &options.check {
        return check::check(endpoint);
    }
    logging::start(&options);
    let sockets = activation::sockets(descriptors)?;
    let config = options.config(raise_open_files(), &sockets)?;
    let metrics = options.metrics()?;
    // Before it says that it listens: whoever reads that may stop it right away.
    signals.catch_stops()?;
    let server = with_umask_for(&options, || Server::with_sockets(config, sockets))?;
    tell_who_is_served(server.endpoints().iter(), &options.allow);
    tell_who_is_served(metrics.endpoints(), &[]);
    let metrics = Metrics::listen(metrics, server.registry(), FIRST_OF_METRICS)?;
    let summary = Summary::new(options.stats_interval, Instant::now());
    let supervisor = Supervisor::from_environment();
    Service::new(server, signals, summary, metrics, supervisor)?.run()?;
    Ok(())
}

/// Calls `bind`, with a cleared umask if `--unix-mode` is given: bind(2) would take the bits of the
/// umask from that mode. There are no other threads, which would share the cleared umask.
#[cfg(unix)]
fn with_umask_for<T>(options: &Options, bind: impl FnOnce() -> T) -> T {
    use nix::sys::stat::{Mode, umask};

    if options.unix_mode.is_none() {
        return bind();
    }
    let before = umask(Mode::empty());
    let bound = bind();
    umask(before);
    bound
}

/// There is no umask here.
#[cfg(not(unix))]
fn with_umask_for<T>(_options: &Options, bind: impl FnOnce() -> T) -> T {
    bind()
}

/// Where other hosts may come: all of them, or those of some networks.
fn tell_who_is_served<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, allowed: &[Network]) {
    let public = endpoints.filter(|it| it.is_public());
    let public: Vec<String> = public.map(Endpoint::to_string).collect();
    let allowed: Vec<String> = allowed.iter().map(Network::to_string).collect();
    if public.is_empty() {
        return;
    }
    let (public, allowed) = (public.join(", "), allowed.join(", "));
    if allowed.is_empty() {
        warn!("open to other hosts, and serves whoever can reach it: {public}");
    } else {
        info!("open to other hosts, and serves those in {allowed} alone: {public}");
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
