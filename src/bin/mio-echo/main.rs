//! The `mio-echo` program: an echo service, and tools to check, ping and load one. See
//! `mio-echo --help`.
//!
//! - `cli`, `options`, `logging`: arguments, and the log
//! - `service`: the event loop, with `signals`, `summary`, `metrics`, `activation` and `systemd`
//! - `check`, `ping`, `load`: the subcommands. `ping` and `load` share `arguments`, `payload` and
//!   `socket`

#![forbid(unsafe_code)]

mod activation;
#[cfg(feature = "tools")]
mod arguments;
mod check;
mod cli;
#[cfg(feature = "tools")]
mod load;
mod logging;
mod metrics;
mod options;
#[cfg(feature = "tools")]
mod payload;
#[cfg(feature = "tools")]
mod ping;
mod service;
mod signals;
#[cfg(feature = "tools")]
mod socket;
mod summary;
mod systemd;

use std::process::ExitCode;
use std::time::Instant;

use log::{info, warn};
use mio_echo::{Endpoint, Network, Server};

use crate::cli::{Cli, CliError, Command, LogOptions, print_error};
use crate::metrics::Metrics;
use crate::options::ServiceOptions;
use crate::service::{FIRST_OF_METRICS, Service};
use crate::signals::Signals;
use crate::summary::Summary;
use crate::systemd::Supervisor;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error);
            error.status()
        }
    }
}

/// Runs the service or a subcommand. Returns whether all went well.
fn run() -> Result<bool, CliError> {
    let Some(cli) = Cli::parse()? else {
        return Ok(true);
    };
    let Some(command) = cli.command else {
        return serve(&cli.service, &cli.log).map(|()| true);
    };
    logging::start(&cli.log);
    match command {
        Command::Check(options) => check::check(&options).map(|()| true),
        #[cfg(feature = "tools")]
        Command::Ping(options) => ping::run(options, cli.log.quiet > 0),
        #[cfg(feature = "tools")]
        Command::Load(options) => load::run(options, cli.log.quiet > 0),
    }
}

fn serve(options: &ServiceOptions, log: &LogOptions) -> Result<(), CliError> {
    // First, because a descriptor that is announced but missing would be mistaken for whatever is
    // opened with its number.
    let descriptors = activation::descriptors()?;
    // Before anything slow: until SIGUSR1 is caught, it ends the program.
    let signals = Signals::new()?;
    signals.catch_summary()?;
    logging::start(log);
    let sockets = activation::sockets(descriptors)?;
    let config = options.config(raise_nofile_limit(), &sockets)?;
    let metrics = options.metrics()?;
    // Before the log says that the service listens: a reader of that line may stop it at once.
    signals.catch_stops()?;
    let server = with_umask_for(options, || Server::with_sockets(config, sockets))?;
    warn_if_public(server.endpoints().iter(), &options.allow);
    warn_if_public(metrics.endpoints(), &[]);
    let metrics = Metrics::listen(metrics, server.registry(), FIRST_OF_METRICS)?;
    let summary = Summary::new(options.stats_interval, Instant::now());
    let supervisor = Supervisor::from_environment();
    Service::new(server, signals, summary, metrics, supervisor)?.run()?;
    Ok(())
}

/// Calls `bind`, with a cleared umask if `--unix-mode` is given: bind(2) would take the bits of the
/// umask from that mode. There are no other threads, which would share the cleared umask.
#[cfg(unix)]
fn with_umask_for<T>(options: &ServiceOptions, bind: impl FnOnce() -> T) -> T {
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
fn with_umask_for<T>(_options: &ServiceOptions, bind: impl FnOnce() -> T) -> T {
    bind()
}

/// Where other hosts may come: all of them, or those of some networks.
fn warn_if_public<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, allowed: &[Network]) {
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
fn raise_nofile_limit() -> Option<usize> {
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
fn raise_nofile_limit() -> Option<usize> {
    None
}
