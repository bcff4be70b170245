//! A UDP socket over a script of calls.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;

use crate::net::udp::packet_info::PacketInfo;
use crate::policy::cidr::AllowList;
use crate::policy::log_lines::logged;

/// The result of a call.
#[derive(Debug)]
enum CallResult {
    /// Receives or sends that many datagrams.
    Count(usize),
    Fails(io::ErrorKind),
    #[cfg(unix)]
    NoBuffers,
}

impl CallResult {
    fn into_result(self) -> io::Result<usize> {
        match self {
            CallResult::Count(count) => Ok(count),
            CallResult::Fails(kind) => Err(kind.into()),
            #[cfg(unix)]
            CallResult::NoBuffers => Err(nix::errno::Errno::ENOBUFS.into()),
        }
    }
}

use CallResult::{Count, Fails};
use io::ErrorKind::{
    ConnectionRefused, HostUnreachable, Interrupted, OutOfMemory, PermissionDenied, WouldBlock,
};

/// A socket that receives numbered datagrams, each from a port of that number.
#[derive(Debug, Default)]
struct Script {
    receive: VecDeque<CallResult>,
    send: VecDeque<CallResult>,
    received: u16,
    /// The destination ports of all replies.
    sent: Vec<u16>,
}

impl DatagramIo for Script {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        assert!(
            datagrams.is_empty(),
            "received before the last batch was sent"
        );
        let count = self
            .receive
            .pop_front()
            .expect("an unexpected receive")
            .into_result()?;
        for slot in 0..count {
            let number = FIRST + self.received;
            self.received += 1;
            buffers[slot * SLOT_SIZE..][..2].copy_from_slice(&number.to_be_bytes());
            datagrams.push(Datagram {
                start: slot * SLOT_SIZE,
                size: 2,
                peer: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
                info: PacketInfo::default(),
                drops: None,
            });
        }
        Ok(count)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let count = self
            .send
            .pop_front()
            .expect("an unexpected send")
            .into_result()?;
        for datagram in &datagrams[..count] {
            let number = datagram.peer.port();
            assert_eq!(datagram.bytes(buffers), number.to_be_bytes());
            self.sent.push(number);
        }
        Ok(count)
    }

    fn source_mut(&mut self) -> &mut dyn mio::event::Source {
        panic!("scripts are not registered")
    }
}

/// The source port of the first datagram; it gets a reply.
const FIRST: u16 = 10_000;

/// Without replies to these ports.
fn udp(own_ports: Vec<u16>) -> Udp {
    Udp::new(ReplyFilter {
        allowed: AllowList::default(),
        own_ports,
        answer_any_port: false,
    })
}

struct Scripted {
    socket: DatagramSocket<Script>,
    udp: Udp,
    stats: Stats,
}

impl Scripted {
    fn new(receive: Vec<CallResult>, send: Vec<CallResult>) -> Self {
        let script = Script {
            receive: receive.into(),
            send: send.into(),
            ..Script::default()
        };
        Scripted {
            socket: DatagramSocket::over(script, "udp://127.0.0.1:7007".parse().unwrap()),
            udp: udp(vec![7007]),
            stats: Stats::default(),
        }
    }

    fn turn(&mut self) -> AfterBatch {
        self.socket
            .turn(&mut self.udp, &mut self.stats, Instant::now())
    }

    /// Takes the numbers of the replies so far, counted from 0.
    fn take_sent(&mut self) -> Vec<u16> {
        let sent = mem::take(&mut self.socket.socket.sent);
        sent.into_iter().map(|number| number - FIRST).collect()
    }

    /// Asserts that every call was made and every datagram is counted.
    fn check(&self) {
        let script = &self.socket.socket;
        assert!(
            script.receive.is_empty() && script.send.is_empty(),
            "{script:?}"
        );
        let stats = &self.stats;
        assert_eq!(stats.datagrams_received, u64::from(script.received));
        assert_eq!(
            stats.datagrams_received,
            stats.datagrams_sent
                + stats.dropped.total()
                + stats.datagram_errors
                + stats.send_buffer_drops
        );
    }
}

#[test]
fn small_batch_drains_the_socket() {
    let mut test = Scripted::new(
        vec![Count(POLL_THRESHOLD - 1)],
        vec![Count(POLL_THRESHOLD - 1)],
    );
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert_eq!(test.take_sent().len(), POLL_THRESHOLD - 1);
    test.check();
}

/// No event is lost meanwhile: registering a readable socket gives one.
#[test]
fn large_batch_switches_to_polling_until_the_socket_is_drained() {
    let mut test = Scripted::new(
        vec![Count(POLL_THRESHOLD), Count(1), Fails(WouldBlock), Count(1)],
        vec![Count(POLL_THRESHOLD), Count(1), Count(1)],
    );
    assert!(!test.socket.is_polled);
    assert_eq!(test.turn(), AfterBatch::Again);
    assert!(test.socket.is_polled);
    assert_eq!(test.turn(), AfterBatch::Again, "more may have arrived");
    assert!(test.socket.is_polled);
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert!(!test.socket.is_polled);
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert!(!test.socket.is_polled);
    test.check();
}

#[test]
fn full_batch_is_followed_by_another_turn() {
    let mut test = Scripted::new(vec![Count(BATCH), Fails(WouldBlock)], vec![Count(BATCH)]);
    assert_eq!(test.turn(), AfterBatch::Again);
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert_eq!(test.take_sent().len(), BATCH);
    test.check();
}

#[test]
fn interrupted_calls_are_repeated() {
    let mut test = Scripted::new(
        vec![Fails(Interrupted), Count(1)],
        vec![Fails(Interrupted), Count(1)],
    );
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert_eq!(test.take_sent(), [0]);
    test.check();
}

#[test]
fn partial_sends_keep_the_order() {
    let mut test = Scripted::new(vec![Count(5)], vec![Count(2), Count(1), Count(2)]);
    assert_eq!(test.turn(), AfterBatch::Again);
    assert_eq!(test.take_sent(), [0, 1, 2, 3, 4]);
    test.check();
}

#[test]
fn full_send_buffer_drops_the_batch_and_receiving_goes_on() {
    for no_room in [
        Fails(WouldBlock),
        Fails(OutOfMemory),
        #[cfg(unix)]
        CallResult::NoBuffers,
    ] {
        let mut test = Scripted::new(
            vec![Count(BATCH), Count(2)],
            vec![Count(1), no_room, Count(2)],
        );
        assert_eq!(test.turn(), AfterBatch::Again);
        assert_eq!(test.take_sent(), [0]);
        assert_eq!(test.stats.send_buffer_drops, BATCH as u64 - 1);
        test.turn();
        assert_eq!(test.take_sent().len(), 2);
        assert_eq!(test.stats.datagram_errors, 0);
        test.check();
    }
}

#[test]
fn send_error_drops_one_reply() {
    for kind in [
        ConnectionRefused,
        HostUnreachable,
        PermissionDenied,
        io::ErrorKind::Other,
    ] {
        let mut test = Scripted::new(vec![Count(3)], vec![Count(1), Fails(kind), Count(1)]);
        assert_eq!(test.turn(), AfterBatch::WaitReadable);
        assert_eq!(test.take_sent(), [0, 2]);
        assert_eq!(test.stats.datagram_errors, 1, "{kind}");
        test.check();
    }
}

#[test]
fn receive_error_is_counted_and_retried() {
    for (kind, next) in [
        (ConnectionRefused, AfterBatch::Again),
        (io::ErrorKind::ConnectionReset, AfterBatch::Again),
        (HostUnreachable, AfterBatch::Again),
        (io::ErrorKind::NetworkUnreachable, AfterBatch::Again),
        (OutOfMemory, AfterBatch::Later),
        // An unknown error may repeat without end, so back off instead of spinning.
        (io::ErrorKind::Other, AfterBatch::Later),
    ] {
        let mut test = Scripted::new(vec![Fails(kind), Count(1)], vec![Count(1)]);
        assert_eq!(test.turn(), next, "{kind}");
        assert_eq!(test.stats.receive_errors, 1);
        assert_eq!(test.turn(), AfterBatch::WaitReadable);
        assert_eq!(test.take_sent(), [0]);
        test.check();
    }
}

#[test]
fn filtered_datagrams_get_no_reply() {
    let mut test = Scripted::new(vec![Count(3), Count(1)], vec![Count(2)]);
    let ports = vec![FIRST + 1, FIRST + 3];
    test.udp = udp(ports);
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert_eq!(test.take_sent(), [0, 2]);
    assert_eq!(test.turn(), AfterBatch::WaitReadable);
    assert_eq!(test.stats.dropped.own_port, 2);
    test.check();
}

#[test]
fn finishing_socket_replies_to_queued_datagrams() {
    let mut test = Scripted::new(
        vec![Count(BATCH), Count(1), Fails(WouldBlock)],
        vec![Count(BATCH), Count(1)],
    );
    test.socket.finish();
    assert_eq!(test.turn(), AfterBatch::Again);
    assert_eq!(test.turn(), AfterBatch::Again);
    assert_eq!(test.turn(), AfterBatch::Close);
    assert_eq!(test.take_sent().len(), BATCH + 1);
    test.check();
}

#[test]
fn finishing_socket_closes_even_if_a_peer_keeps_sending() {
    let batches = || {
        (0..MAX_DRAIN_BATCHES)
            .map(|_| Count(BATCH))
            .collect::<Vec<_>>()
    };
    let mut test = Scripted::new(batches(), batches());
    test.socket.finish();
    for _ in 0..MAX_DRAIN_BATCHES {
        assert_eq!(test.turn(), AfterBatch::Again);
    }
    assert_eq!(test.turn(), AfterBatch::Close);
    test.check();
}

/// The replies to datagrams (pairs of peer and TTL), grouped by send call.
fn calls(received: &[(u16, u8)]) -> Vec<Vec<(u16, u8)>> {
    let datagram = |&(peer, ttl)| Datagram {
        start: 0,
        size: 0,
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, peer)),
        info: PacketInfo {
            ttl: Some(ttl),
            ..PacketInfo::default()
        },
        drops: None,
    };
    let mut batch: Vec<Datagram> = received.iter().map(datagram).collect();
    let mut calls = Vec::new();
    while !batch.is_empty() {
        let count = group(&mut batch);
        let sent = batch.drain(..count);
        calls.push(
            sent.map(|it| (it.peer.port(), it.info.ttl.unwrap()))
                .collect(),
        );
    }
    calls
}

/// Receives datagrams with these drop counters. Returns how many drops are counted.
fn count_drops(socket: &mut DatagramSocket<Script>, drops: &[Option<u32>]) -> u64 {
    let mut stats = Stats::default();
    socket.batch = drops
        .iter()
        .map(|&drops| Datagram {
            start: 0,
            size: 0,
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST)),
            info: PacketInfo::default(),
            drops,
        })
        .collect();
    socket.count_received(&mut stats);
    stats.receive_buffer_drops
}

#[test]
fn datagrams_of_one_ttl_are_sent_with_one_call() {
    let received: Vec<_> = (0..32)
        .map(|number: u8| (number.into(), number % 8))
        .collect();
    let calls = calls(&received);
    assert_eq!(calls.len(), 8, "{calls:?}");
    assert!(calls.iter().all(|call| call.is_sorted()), "{calls:?}");
    assert_eq!(calls[1], [(1, 1), (9, 1), (17, 1), (25, 1)]);
}

#[test]
fn each_peer_keeps_its_order_when_its_ttl_changes() {
    let received = [(1, 64), (1, 63), (2, 64), (1, 64), (3, 63), (2, 63)];
    assert_eq!(
        calls(&received),
        [
            vec![(1, 64), (2, 64)],
            vec![(1, 63), (3, 63), (2, 63)],
            vec![(1, 64)],
        ]
    );
}

/// If the first datagram of a peer is skipped, the second must not be sent before it.
#[test]
fn datagram_does_not_overtake_a_skipped_one_of_its_peer() {
    let received = [(1, 64), (2, 63), (2, 64), (1, 64)];
    assert_eq!(
        calls(&received),
        [vec![(1, 64), (1, 64)], vec![(2, 63)], vec![(2, 64)]]
    );
}

#[test]
fn receive_buffer_drops_are_counted_across_the_wrap() {
    let mut socket = Scripted::new(vec![], vec![]).socket;
    socket.drops = Some(0);
    assert_eq!(count_drops(&mut socket, &[None, Some(2), None, Some(2)]), 2);
    assert_eq!(count_drops(&mut socket, &[Some(5)]), 3);
    socket.drops = Some(u32::MAX);
    assert_eq!(count_drops(&mut socket, &[Some(1)]), 2);
}

#[test]
fn first_drop_counter_of_an_inherited_socket_is_the_baseline() {
    let mut socket = Scripted::new(vec![], vec![]).socket;
    assert_eq!(count_drops(&mut socket, &[None, Some(1000), Some(1001)]), 1);
}

#[test]
fn drops_are_counted_by_reason_and_logged_once_a_minute() {
    let datagram = |port, info| Datagram {
        start: 0,
        size: 0,
        peer: SocketAddr::from(([192, 0, 2, 1], port)),
        info,
        drops: None,
    };
    let nothing = PacketInfo::default();
    let mut multicast = nothing;
    multicast.multicast = true;
    let mut expired = nothing;
    expired.ttl = Some(1);
    let (mut udp, mut stats) = (udp(vec![7007]), Stats::default());
    let endpoint = "udp://127.0.0.1:7007".parse().unwrap();
    let start = Instant::now();
    for (seconds, port, info, warned) in [
        (0, 0, nothing, Some(1)),
        (1, 7, nothing, None),
        (2, 2049, nothing, None),
        (59, 7007, nothing, None),
        (60, 50_000, multicast, Some(4)),
        (119, 50_000, expired, None),
        (1000, 50_000, expired, Some(2)),
    ] {
        let now = start + Duration::from_secs(seconds);
        let datagram = datagram(port, info);
        let lines = logged(|| assert!(!udp.admits(&endpoint, &datagram, &mut stats, now)));
        assert_eq!(lines[0].0, log::Level::Debug);
        let warning = lines.get(1).map(|(level, line)| (*level, line.as_str()));
        match (warned, warning) {
            (None, None) => {}
            (Some(count), Some((log::Level::Warn, line))) => {
                assert!(
                    line.starts_with(&format!("udp://127.0.0.1:7007: {count} datagrams")),
                    "{line}"
                );
            }
            other => panic!("{other:?} after {seconds} s"),
        }
    }
    let expected = Dropped {
        port_zero: 1,
        reserved_port: 1,
        nfs_port: 1,
        own_port: 1,
        destination: 1,
        hop_limit: 2,
        ..Dropped::default()
    };
    assert_eq!(stats.dropped, expected);
    let last = start + Duration::from_secs(2000);
    assert!(udp.admits(&endpoint, &datagram(50_000, nothing), &mut stats, last));
}

/// A socket that receives a train of five datagrams of two bytes and one of one byte.
#[derive(Debug, Default)]
struct Train {
    takes_trains: bool,
    /// A datagram that has no route alone.
    has_no_route: Option<u8>,
    /// The bytes of each message of each call, in order.
    sent: Vec<Vec<u8>>,
}

impl DatagramIo for Train {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        let bytes: Vec<u8> = (1..=11).collect();
        buffers[..bytes.len()].copy_from_slice(&bytes);
        datagrams.push(Datagram {
            start: 0,
            size: bytes.len(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST)),
            info: PacketInfo {
                segment: std::num::NonZero::new(2),
                ..PacketInfo::default()
            },
            drops: None,
        });
        Ok(1)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let first = &datagrams[0];
        if first.count() > 1 && !self.takes_trains {
            return Err(io::Error::from_raw_os_error(
                nix::errno::Errno::EINVAL as i32,
            ));
        }
        let bytes = first.bytes(buffers).to_vec();
        if Some(bytes[0]) == self.has_no_route {
            return Err(HostUnreachable.into());
        }
        self.sent.push(bytes);
        Ok(1)
    }

    fn source_mut(&mut self) -> &mut dyn mio::event::Source {
        panic!("not registered")
    }
}

#[test]
fn train_is_sent_back_with_one_call_or_by_its_datagrams() {
    let whole: Vec<u8> = (1..=11).collect();
    let parts: Vec<Vec<u8>> = whole.chunks(2).map(<[u8]>::to_vec).collect();
    for (takes_trains, has_no_route, sent, errors) in [
        (true, None, vec![whole.clone()], 0),
        (false, None, parts.clone(), 0),
        (false, Some(5), [&parts[..2], &parts[3..]].concat(), 1),
        // An error that is not about trains is one of all datagrams.
        (true, Some(1), Vec::new(), 6),
    ] {
        let train = Train {
            takes_trains,
            has_no_route,
            ..Train::default()
        };
        let endpoint = "udp://127.0.0.1:7007".parse().unwrap();
        let mut socket = DatagramSocket::over(train, endpoint);
        let mut stats = Stats::default();
        socket.turn(&mut udp(vec![7007]), &mut stats, Instant::now());
        assert_eq!(socket.socket.sent, sent);
        let counts = (
            stats.datagrams_received,
            stats.datagrams_sent,
            stats.datagram_errors,
        );
        assert_eq!(counts, (6, 6 - errors, errors));
        let bytes: usize = sent.iter().map(Vec::len).sum();
        assert_eq!((stats.bytes_received, stats.bytes_sent), (11, bytes as u64));
    }
    let mut stats = Stats::default();
    let mut socket =
        DatagramSocket::over(Train::default(), "udp://127.0.0.1:7007".parse().unwrap());
    socket.turn(&mut udp(vec![FIRST]), &mut stats, Instant::now());
    assert_eq!((stats.dropped.own_port, stats.datagrams_received), (6, 6));
}
