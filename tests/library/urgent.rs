//! TCP urgent data is echoed in place, and does not wedge a connection.

use std::io::{Read, Write};

use crate::common::{accept_one, bind, config, turn_until};
use socket2::SockRef;

#[test]
fn bytes_behind_an_urgent_mark_are_echoed() {
    let (mut server, _) = bind(config());
    let mut client = accept_one(&mut server);

    // All of it arrives before the next turn: one event, and a read that stops at the mark.
    client.write_all(b"before").unwrap();
    assert_eq!(SockRef::from(&client).send_out_of_band(b"!").unwrap(), 1);
    client.write_all(b"behind").unwrap();
    turn_until(&mut server, |server| server.stats().bytes_sent == 13);
    let mut echoed = [0; 13];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"before!behind");

    // After the mark.
    client.write_all(b"later").unwrap();
    turn_until(&mut server, |server| server.stats().bytes_sent == 18);
}

#[test]
fn stream_with_many_urgent_marks_is_echoed() {
    let (mut server, _) = bind(config().buffer_size(4));
    let mut client = accept_one(&mut server);
    let mut sent = Vec::new();
    for round in 0..100_u8 {
        let bytes = [round; 7];
        client.write_all(&bytes[..usize::from(round % 7)]).unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        sent.extend_from_slice(&bytes[..usize::from(round % 7)]);
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
