//! A `Server` in tokio: `cargo run --bin tokio [ENDPOINT]`. Ctrl-C shuts it down.

use std::env;
use std::error::Error;
use std::future::pending;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio_echo::{Config, Server};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep_until;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1);
    let endpoint = endpoint.as_deref().unwrap_or("tcp://127.0.0.1:7007");
    if endpoint == "--help" {
        println!("usage: tokio [ENDPOINT]");
        return Ok(());
    }
    let config = Config::builder()
        .endpoint(endpoint.parse()?)
        .drain_timeout(Duration::from_secs(1));
    let mut server = Server::bind(config.build()?)?;
    println!("listening on {}", server.endpoints()[0]);

    // The reactor owns a duplicate of the descriptor, so that the server can be changed without unsafe
    // code. tokio 1.54 deprecates this function for sources whose descriptor can change: this one cannot.
    let descriptor = server.as_fd().try_clone_to_owned()?;
    #[allow(deprecated)]
    let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    while !server.is_finished() {
        tokio::select! {
            // tokio watches edge-triggered: what is reported from here on counts for the next turn.
            readable = descriptor.readable() => readable?.clear_ready(),
            () = until(server.deadline()) => {}
            _ = interrupts.recv() => server.shutdown(),
        }
        server.turn(Some(Duration::ZERO))?;
    }
    let stats = server.stats();
    println!("{} bytes in {} turns", stats.bytes_sent, stats.iterations);
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
