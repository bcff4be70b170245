//! The `mio-echo` service: a [`Server`] that stops at a signal. See `mio-echo --help`.

#![forbid(unsafe_code)]

mod cli;
mod logging;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use log::{info, warn};
use mio_echo::Server;

use crate::cli::{Failure, Options};

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
    logging::start(&options);
    let config = options.config(raise_open_files())?;
    let mut server = Server::bind(config)?;
    for endpoint in server
        .endpoints()
        .iter()
        .filter(|endpoint| endpoint.is_public())
    {
        warn!("{endpoint} is open to other hosts, and serves whoever can reach it");
    }
    let started = Instant::now();
    run(&mut server)?;
    let stats = server.stats();
    info!(
        "stopped after {:.0?}: {} connections, {} bytes echoed; {} finished, {} failed, {} cut",
        started.elapsed(),
        stats.accepted,
        stats.bytes_sent,
        stats.finished,
        stats.failed,
        stats.cut,
    );
    Ok(())
}

/// Turns until a signal has stopped the server.
#[cfg(unix)]
fn run(server: &mut Server) -> io::Result<()> {
    use mio::{Interest, Token};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::low_level::signal_name;
    use signal_hook_mio::v1_0::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let token = Token(Server::GUEST_TOKENS.start);
    server
        .registry()
        .register(&mut signals, token, Interest::READABLE)?;
    end_at_second([SIGINT, SIGTERM])?;

    while !server.is_finished() {
        // The signals are the only guest.
        let signalled = !server.turn(None)?.is_empty();
        if signalled {
            for signal in signals.pending() {
                info!("{}", signal_name(signal).unwrap_or("signal"));
                server.shutdown();
            }
        }
    }
    Ok(())
}

/// Has any second signal do what it does by default, in its handler: to end the program, whatever
/// the loop is doing.
#[cfg(unix)]
fn end_at_second<const N: usize>(signals: [std::ffi::c_int; N]) -> io::Result<()> {
    use signal_hook::flag;
    use std::sync::{Arc, atomic::AtomicBool};

    let is_second = Arc::new(AtomicBool::new(false));
    for signal in signals {
        // In this order: the first signal finds the flag down, and raises it.
        flag::register_conditional_default(signal, Arc::clone(&is_second))?;
        flag::register(signal, Arc::clone(&is_second))?;
    }
    Ok(())
}

/// Turns for ever: there are no signals to stop it.
#[cfg(not(unix))]
fn run(server: &mut Server) -> io::Result<()> {
    server.run()
}

/// Raises the soft limit on open files to the hard one (see getrlimit(2)) and gives the limit that
/// then holds. `None` where the system has none that could be told.
#[cfg(unix)]
fn raise_open_files() -> Option<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            warn!("the limit on open files stays at {soft}: {error}");
            soft
        }
    };
    usize::try_from(limit).ok()
}

/// There is no such limit here.
#[cfg(not(unix))]
fn raise_open_files() -> Option<usize> {
    None
}
