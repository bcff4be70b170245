//! A `Server` in a loop of poll(2): `cargo run --bin poll [ENDPOINT]`. Ctrl-C shuts it down.

use std::env;
use std::error::Error;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio_echo::{Config, Server};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::SIGINT;

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1);
    let endpoint = endpoint.as_deref().unwrap_or("tcp://127.0.0.1:7007");
    if endpoint == "--help" {
        println!("usage: poll [ENDPOINT]");
        return Ok(());
    }
    let config = Config::builder()
        .endpoint(endpoint.parse()?)
        .drain_timeout(Duration::from_secs(1));
    let mut server = Server::bind(config.build()?)?;
    println!("listening on {}", server.endpoints()[0]);

    let (mut interrupted, handler) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGINT, handler)?;

    while !server.is_finished() {
        let mut descriptors = [
            PollFd::new(server.as_fd(), PollFlags::POLLIN),
            PollFd::new(interrupted.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, timeout(&server)) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        if descriptors[1].any() == Some(true) {
            // Each signal is a byte.
            interrupted.read_exact(&mut [0])?;
            server.shutdown();
        }
        server.turn(Some(Duration::ZERO))?;
    }
    let stats = server.stats();
    println!("{} bytes in {} turns", stats.bytes_sent, stats.iterations);
    Ok(())
}

/// In milliseconds, rounded up: the server does nothing before its deadline.
fn timeout(server: &Server) -> PollTimeout {
    let Some(timeout) = server.timeout() else {
        return PollTimeout::NONE;
    };
    let rounded_up = timeout + Duration::from_nanos(999_999);
    PollTimeout::try_from(rounded_up).unwrap_or(PollTimeout::MAX)
}
