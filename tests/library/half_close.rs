//! Half-close: a peer that sends and shuts down its write half receives every byte, then the end of
//! the stream.

use std::io::Write;
use std::net::Shutdown;

use crate::common::{
    Running, bind, config, connect, connect_small, echo_to_the_end, random_bytes, read_to_the_end,
    small_buffers, turn_until, write_block,
};

#[test]
fn half_close_gets_every_byte_then_eof() {
    let server = Running::start(config());
    let bytes = random_bytes(5_000_000);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().closed.peer_closed, 1);
}

#[test]
fn half_close_without_a_byte_gets_eof() {
    let server = Running::start(config());
    assert_eq!(echo_to_the_end(server.connect(), b""), b"");
    assert_eq!(server.stop().closed.peer_closed, 1);
}

#[test]
fn bytes_and_eof_in_one_event() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 1);
    assert_eq!(read_to_the_end(&mut client), b"last words");
}

#[test]
fn eof_while_write_blocked() {
    let (mut server, address) = bind(small_buffers());
    let mut client = connect_small(address);
    let bytes = random_bytes(4 * 1024 * 1024);
    let sent = write_block(&mut server, &mut client, &bytes);
    client.shutdown(Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || read_to_the_end(&mut client));
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 1);
    assert!(reader.join().unwrap() == bytes[..sent]);
}
