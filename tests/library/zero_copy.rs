//! Splicing: bulk streams go through pipes, with the same promises.

#![cfg(any(target_os = "linux", target_os = "android"))]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::common::{
    Running, accept_one, addresses, bind, config, connect, connect_with_buffers, echo,
    echo_to_the_end, is_served, random_bytes, read_to_the_end, read_until_blocked, reset,
    run_until_idle, send_until_blocked, turn_until, write_block,
};
use mio_echo::{Server, ZeroCopy};
use socket2::SockRef;

/// Many times the capacity of a pipe, in bytes.
const BULK: usize = 16 * 1024 * 1024;

/// The most pipes that an engine opens.
const MAX_PIPES: usize = 32;

/// The capacity of a pipe in bytes.
const PIPE_SIZE: usize = 256 * 1024;

/// Socket buffers in bytes that are soon full, and hold more than a read buffer, so that the
/// connection is spliced.
const SOCKET_BUFFER: usize = 128 * 1024;

/// A client that has sent until its connection was write-blocked, how many bytes it has sent, and
/// whether the connection has a pipe.
fn write_blocked(server: &mut Server, bytes: &[u8]) -> (TcpStream, usize, bool) {
    let address = addresses(server)[0];
    let mut client = connect_with_buffers(address, SOCKET_BUFFER, SOCKET_BUFFER);
    let before = server.stats().bytes_zero_copied;
    let sent = write_block(server, &mut client, bytes);
    (client, sent, server.stats().bytes_zero_copied > before)
}

/// A connection in splicing mode: it has sent more than one buffer at once.
fn splicing(server: &mut Server) -> TcpStream {
    let mut client = accept_one(server);
    let before = server.stats();
    let bytes = random_bytes(256 * 1024);
    let mut sent = 0;
    while server.stats().bytes_zero_copied == before.bytes_zero_copied {
        sent += send_until_blocked(&mut client, &bytes);
        run_until_idle(server);
        read_echo(server, &mut client, before.bytes_sent + sent as u64);
    }
    client
}

/// Reads until all connections together have sent that many bytes.
fn read_echo(server: &mut Server, client: &mut TcpStream, bytes_sent: u64) {
    let mut buffer = vec![0; 1024 * 1024];
    turn_until(server, |server| {
        read_until_blocked(client, &mut buffer);
        server.stats().bytes_sent == bytes_sent
    });
    read_until_blocked(client, &mut buffer);
}

#[test]
fn bulk_stream_is_spliced_and_echoed() {
    let server = Running::start(config());
    let bytes = random_bytes(BULK);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    let stats = server.stop();
    assert_eq!(stats.bytes_sent, BULK as u64);
    assert!(
        stats.bytes_zero_copied > BULK as u64 / 2,
        "only {} bytes were spliced",
        stats.bytes_zero_copied
    );
}

#[test]
fn zero_copy_can_be_disabled() {
    let server = Running::start(config().zero_copy(ZeroCopy::Off));
    let bytes = random_bytes(BULK);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().bytes_zero_copied, 0);
}

#[test]
fn small_messages_and_small_buffers_are_copied() {
    let server = Running::start(config());
    let mut client = server.connect();
    for size in 1..2_000 {
        assert_eq!(echo(&mut client, &random_bytes(size)).len(), size);
    }
    drop(client);
    assert_eq!(server.stop().bytes_zero_copied, 0);

    let server = Running::start(config().buffer_size(16 * 1024 - 1));
    let bytes = random_bytes(1024 * 1024);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    assert_eq!(server.stop().bytes_zero_copied, 0);
}

#[test]
fn small_messages_after_a_bulk_stream_are_copied() {
    let (mut server, _) = bind(config());
    let mut client = splicing(&mut server);
    for round in 0..10 {
        let before = server.stats();
        client.write_all(b"small").unwrap();
        read_echo(&mut server, &mut client, before.bytes_sent + 5);
        let copied = server.stats().bytes_zero_copied == before.bytes_zero_copied;
        assert!(copied || round == 0, "still spliced");
    }
}

#[test]
fn urgent_bytes_in_a_bulk_stream_are_echoed_in_place() {
    let server = Running::start(config());
    let bytes = random_bytes(BULK);
    let mut client = server.connect();
    let mut reader = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // The last byte of each chunk is urgent. The end of the stream is behind the last mark.
            for chunk in bytes.chunks(300_000) {
                let (urgent, rest) = chunk.split_last().unwrap();
                client.write_all(rest).unwrap();
                let sent = SockRef::from(&client).send_out_of_band(&[*urgent]);
                assert_eq!(sent.unwrap(), 1);
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(read_to_the_end(&mut reader) == bytes);
    });
    let stats = server.stop();
    assert!(stats.bytes_zero_copied > 0, "never spliced");
    assert_eq!((stats.closed.peer_closed, stats.closed.error), (1, 0));
}

#[test]
fn urgent_mark_while_splicing_is_not_taken_for_eof() {
    let (mut server, _) = bind(config());
    let mut client = splicing(&mut server);
    let before = server.stats();
    assert_eq!(SockRef::from(&client).send_out_of_band(b"!").unwrap(), 1);
    client.write_all(b"behind").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    turn_until(&mut server, |server| server.stats().active == 0);
    assert_eq!(server.stats().bytes_sent - before.bytes_sent, 7);
    assert_eq!(read_to_the_end(&mut client), b"!behind");
}

#[test]
fn write_blocked_connections_hold_one_pipe_each_and_others_are_copied() {
    let (mut server, address) = bind(config().socket_buffer(SOCKET_BUFFER));
    let bytes = random_bytes(BULK);
    let mut clients = Vec::new();
    for count in 1..=MAX_PIPES + 8 {
        let (client, sent, has_pipe) = write_blocked(&mut server, &bytes);
        assert_eq!(has_pipe, count <= MAX_PIPES, "connection {count}");
        clients.push((client, sent));
        let pending = server.stats().bytes_received - server.stats().bytes_sent;
        assert!(pending <= (count * PIPE_SIZE) as u64, "{pending} bytes");
    }
    let mut other = connect(address);
    let handle = server.shutdown_handle();
    let server = thread::spawn(move || {
        server.run().unwrap();
        server.stats()
    });
    assert!(is_served(&mut other));
    drop(other);
    for (mut client, sent) in clients {
        let mut echoed = vec![0; sent];
        client.read_exact(&mut echoed).unwrap();
        assert!(echoed == bytes[..sent]);
    }
    handle.shutdown().unwrap();
    let stats = server.join().unwrap();
    assert_eq!(
        (stats.closed.peer_closed, stats.closed.error),
        (MAX_PIPES as u64 + 9, 0)
    );
}

#[test]
fn reset_releases_the_pipe() {
    let (mut server, _) = bind(config().socket_buffer(SOCKET_BUFFER));
    let bytes = random_bytes(BULK);
    for _ in 0..=MAX_PIPES {
        let (client, _, has_pipe) = write_blocked(&mut server, &bytes);
        assert!(has_pipe);
        reset(client);
        turn_until(&mut server, |server| server.stats().active == 0);
    }
    splicing(&mut server);
}
