//! The `mio-echo` program: an echo service, and tools to check, ping and load one. See
//! `mio-echo --help`.
//!
//! - `cli`, `options`, `logging`: arguments, and the log
//! - `service`: the event loop, with `signals`, `summary`, `metrics` and `systemd`
//! - `check`, `ping`, `load`: the subcommands. `ping` and `load` share `arguments`, `payload` and
//!   `socket`
//! - `man`: the manual pages and the completions of shells

#![forbid(unsafe_code)]

#[cfg(feature = "tools")]
mod arguments;
mod check;
mod cli;
#[cfg(feature = "tools")]
mod load;
mod logging;
#[cfg(feature = "man")]
mod man;
mod metrics;
#[cfg(test)]
mod near_valid;
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
use mio_echo::{BoundSocket, Config, Endpoint, Network, Server};
#[cfg(unix)]
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

use crate::cli::{Cli, CliError, Command, LogOptions};
use crate::logging::print_error;
use crate::metrics::Metrics;
use crate::options::ServiceOptions;
use crate::service::{Service, TOKEN};
use crate::signals::Signals;
use crate::summary::Summary;
use crate::systemd::Notifier;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error.message);
            error.status.into()
        }
    }
}

/// Runs the service or a subcommand. Returns whether all went well.
fn run() -> Result<bool, CliError> {
    let Some(cli) = Cli::parse()? else {
        return Ok(true);
    };
    // Before the first error that is not in the arguments.
    logging::set_format(cli.log.log_format);
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
        #[cfg(feature = "man")]
        Command::Man(options) => man::print_page(&options).map(|()| true),
        #[cfg(feature = "man")]
        Command::Completions(options) => man::print_completions(&options).map(|()| true),
    }
}

fn serve(options: &ServiceOptions, log: &LogOptions) -> Result<(), CliError> {
    // First, before anything is opened.
    let sockets = systemd::sockets()?;
    // Before anything slow: until SIGUSR1 is caught, it ends the program.
    let mut signals = Signals::new().map_err(CliError::cannot("catch signals"))?;
    logging::start(log);
    for (label, socket) in &sockets {
        info!("{label} is {}", socket.endpoint());
    }
    let sockets: Vec<BoundSocket> = sockets.into_iter().map(|(_, socket)| socket).collect();
    let config = options.config(raise_nofile_limit(), &sockets)?;
    // Before the service listens: if this fails, no client has reached this process.
    let listen = |endpoint: &str| metrics::listen(endpoint, options.dual_stack);
    let metrics = options.metrics.as_deref().map(listen).transpose()?;
    // Before the log says that the service listens: a reader of that line may stop it at once.
    signals.catch_stops()?;
    let server = bind(config, sockets, options.unix_mode)?;
    let registered = signals.register(server.registry(), TOKEN);
    registered.map_err(CliError::cannot("watch for signals"))?;
    warn_if_public(server.endpoints(), &options.allow);
    let metrics = metrics.map(|listener| Metrics::new(listener, server.registry()));
    let service = Service {
        signals,
        summary: Summary::new(options.stats_interval, Instant::now()),
        metrics: metrics.transpose()?,
        notifier: Notifier::from_environment(Instant::now()),
        server,
    };
    let result = service.run();
    result.map_err(|error| CliError::failure(format!("cannot wait for events: {error}")))
}

/// Binds and listens. With `--unix-mode`, the umask is cleared meanwhile: bind(2) removes its bits from
/// the mode. No other thread shares the cleared umask.
#[cfg_attr(not(unix), allow(unused_variables, reason = "there is no umask"))]
fn bind(
    config: Config,
    sockets: Vec<BoundSocket>,
    unix_mode: Option<u32>,
) -> Result<Server, CliError> {
    #[cfg(unix)]
    let umask_before = unix_mode.map(|_| umask(Mode::empty()));
    let server = Server::with_sockets(config, sockets);
    #[cfg(unix)]
    umask_before.map(umask);
    server.map_err(|error| match error.raw_os_error() {
        // An error about an endpoint names it. This one is the system's own.
        Some(_) => CliError::cannot("create the event loop")(error),
        None => error.into(),
    })
}

/// Warns of endpoints that other hosts can reach, unless an allow list limits their clients.
pub(crate) fn warn_if_public(endpoints: &[Endpoint], allowed: &[Network]) {
    let public: Vec<_> = endpoints.iter().filter(|it| it.is_public()).collect();
    let (public, allowed) = (list(&public), list(allowed));
    match (&*public, &*allowed) {
        ("", _) => {}
        (_, "") => warn!("open to all hosts that can reach it: {public}"),
        _ => info!("open to other hosts, limited to {allowed}: {public}"),
    }
}

pub(crate) fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Raises the soft limit on open files to the hard one (see getrlimit(2)). Returns the new limit, or
/// `None` if it is unknown.
pub(crate) fn raise_nofile_limit() -> Option<usize> {
    #[cfg(unix)]
    {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        // If this fails, the soft limit holds. Some systems set a lower limit than they accept.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        usize::try_from(soft).ok()
    }
    #[cfg(not(unix))]
    None
}
