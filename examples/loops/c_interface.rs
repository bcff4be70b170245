//! `Server` for C and for `python.py`. The pointer is that of `echo_new`, valid until `echo_free`, and
//! used by one thread at a time.

use std::ffi::c_int;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio_echo::{Config, Endpoint, Server};

/// Serves at a TCP port of 127.0.0.1, and prints it; 0 is a free one. Returns null if that fails.
#[unsafe(no_mangle)]
pub extern "C" fn echo_new(port: u16) -> Option<Box<Server>> {
    let endpoint = Endpoint::Tcp((Ipv4Addr::LOCALHOST, port).into());
    let config = Config::builder()
        .endpoint(endpoint)
        .drain_timeout(Duration::from_secs(1));
    let server = Server::bind(config.build().ok()?);
    let server = server.inspect_err(|error| eprintln!("{error}")).ok()?;
    println!("listening on {}", server.endpoints()[0]);
    Some(Box::new(server))
}

/// The descriptor to watch for reading.
#[unsafe(no_mangle)]
pub extern "C" fn echo_fd(server: &Server) -> RawFd {
    server.as_raw_fd()
}

/// How long the loop may wait, in milliseconds, rounded up; -1 is without limit.
#[unsafe(no_mangle)]
pub extern "C" fn echo_timeout(server: &Server) -> c_int {
    let milliseconds = |timeout: Duration| timeout.as_nanos().div_ceil(1_000_000);
    let timeout = server.timeout().map(milliseconds);
    timeout.map_or(-1, |timeout| timeout.try_into().unwrap_or(c_int::MAX))
}

/// Does what there is to do, without waiting. Returns 0, or the number of an error.
#[unsafe(no_mangle)]
pub extern "C" fn echo_turn(server: &mut Server) -> c_int {
    let error = server.turn(Some(Duration::ZERO)).err();
    error.map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// Begins a shutdown, which makes the descriptor readable.
#[unsafe(no_mangle)]
pub extern "C" fn echo_shutdown(server: &mut Server) {
    server.shutdown();
}

/// Whether the shutdown is complete.
#[unsafe(no_mangle)]
pub extern "C" fn echo_is_finished(server: &Server) -> bool {
    server.is_finished()
}

/// Closes every socket.
#[unsafe(no_mangle)]
pub extern "C" fn echo_free(_server: Option<Box<Server>>) {}
