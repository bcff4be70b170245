//! Urgent data does not wedge a connection, and comes back in its place.

use std::io::{Read, Write};

use crate::common::{bind, config, connect, turn_until};
use socket2::SockRef;

#[test]
fn bytes_behind_an_urgent_mark_come_back() {
    let (mut server, address) = bind(config());
    let mut client = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);

    // All of it is there before the server looks: one event, and a read that stops at the mark.
    client.write_all(b"before").unwrap();
    assert_eq!(SockRef::from(&client).send_out_of_band(b"!").unwrap(), 1);
    client.write_all(b"behind").unwrap();
    turn_until(&mut server, |server| server.stats().bytes_sent == 13);
    let mut echoed = [0; 13];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"before!behind");

    // And what comes later, when there is no mark any more.
    client.write_all(b"later").unwrap();
    turn_until(&mut server, |server| server.stats().bytes_sent == 18);
}

#[test]
fn a_mark_in_every_piece_of_a_stream() {
    let (mut server, address) = bind(config().buffer_size(4));
    let mut client = connect(address);
    turn_until(&mut server, |server| server.stats().active == 1);
    let mut sent = Vec::new();
    for round in 0..100_u8 {
        let piece = [round; 7];
        client.write_all(&piece[..usize::from(round % 7)]).unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        sent.extend_from_slice(&piece[..usize::from(round % 7)]);
        sent.push(b'!');
        if round % 3 == 0 {
            server.turn(Some(std::time::Duration::ZERO)).unwrap();
        }
    }
    turn_until(&mut server, |server| {
        server.stats().bytes_sent == sent.len() as u64
    });
    let mut echoed = vec![0; sent.len()];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, sent);
}
