//! A peer that sends and shuts its writing half down gets everything back, then the end of the
//! stream.

use std::io::Write;
use std::net::Shutdown;

use crate::common::{
    Running, bind, config, connect, echo_to_the_end, noise, read_to_the_end, stall, turn_until,
};

#[test]
fn everything_comes_back_and_then_the_end_of_the_stream() {
    let server = Running::start(config());
    let bytes = noise(5_000_000);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().closed.peer_closed, 1);
}

#[test]
fn nothing_comes_back_of_nothing() {
    let server = Running::start(config());
    assert_eq!(echo_to_the_end(server.connect(), b""), b"");
    assert_eq!(server.stop().closed.peer_closed, 1);
}

#[test]
fn bytes_and_the_end_of_the_stream_in_one_event() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 1);
    assert_eq!(read_to_the_end(&mut client), b"last words");
}

#[test]
fn the_end_of_the_stream_while_the_peer_does_not_read() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    let bytes = noise(32 * 1024 * 1024);
    let sent = stall(&mut server, &mut client, &bytes);
    client.shutdown(Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || read_to_the_end(&mut client));
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 1);
    assert!(reader.join().unwrap() == bytes[..sent]);
}
