//! A `Server` in calloop: `cargo run --bin calloop [ENDPOINT]`. Ctrl-C shuts it down.

use std::env;
use std::error::Error;
use std::os::fd::AsFd;
use std::time::Duration;

use calloop::generic::Generic;
use calloop::signals::{Signal, Signals};
use calloop::{EventLoop, Interest, Mode, PostAction};
use mio_echo::{Config, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1);
    let endpoint = endpoint.as_deref().unwrap_or("tcp://127.0.0.1:7007");
    if endpoint == "--help" {
        println!("usage: calloop [ENDPOINT]");
        return Ok(());
    }
    let config = Config::builder()
        .endpoint(endpoint.parse()?)
        .drain_timeout(Duration::from_secs(1));
    let mut server = Server::bind(config.build()?)?;
    println!("listening on {}", server.endpoints()[0]);

    let mut event_loop: EventLoop<Server> = EventLoop::try_new()?;
    let handle = event_loop.handle();
    handle.insert_source(
        Signals::new(&[Signal::SIGINT])?,
        |_, (), server: &mut Server| server.shutdown(),
    )?;

    // calloop owns a duplicate of the descriptor, so that the server can be changed without unsafe code.
    let descriptor = server.as_fd().try_clone_to_owned()?;
    let readable = Generic::new(descriptor, Interest::READ, Mode::Level);
    handle.insert_source(readable, |_, _, _| Ok(PostAction::Continue))?;

    while !server.is_finished() {
        event_loop.dispatch(server.timeout(), &mut server)?;
        server.turn(Some(Duration::ZERO))?;
    }
    let stats = server.stats();
    println!("{} bytes in {} turns", stats.bytes_sent, stats.iterations);
    Ok(())
}
