//! A `Server` in async-io, the reactor of smol and async-std: `cargo run --bin async_io [ENDPOINT]`.
//! Ctrl-C shuts it down.

use std::env;
use std::error::Error;
use std::os::fd::AsFd;
use std::time::Duration;

use async_io::{Async, Timer, block_on};
use async_signal::{Signal, Signals};
use futures_lite::{FutureExt, StreamExt};
use mio_echo::{Config, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1);
    let endpoint = endpoint.as_deref().unwrap_or("tcp://127.0.0.1:7007");
    if endpoint == "--help" {
        println!("usage: async_io [ENDPOINT]");
        return Ok(());
    }
    let config = Config::builder()
        .endpoint(endpoint.parse()?)
        .drain_timeout(Duration::from_secs(1));
    let mut server = Server::bind(config.build()?)?;
    println!("listening on {}", server.endpoints()[0]);

    // The reactor owns a duplicate of the descriptor, and the server stays outside.
    let descriptor = Async::new(server.as_fd().try_clone_to_owned()?)?;
    let mut signals = Signals::new([Signal::Int])?;
    while !server.is_finished() {
        let readable = async { descriptor.readable().await.map(|()| false) };
        let interrupted = async { Ok(signals.next().await.is_some()) };
        let deadline = async {
            server.deadline().map_or_else(Timer::never, Timer::at).await;
            Ok(false)
        };
        if block_on(interrupted.or(deadline).or(readable))? {
            server.shutdown();
        }
        server.turn(Some(Duration::ZERO))?;
    }
    let stats = server.stats();
    println!("{} bytes in {} turns", stats.bytes_sent, stats.iterations);
    Ok(())
}
