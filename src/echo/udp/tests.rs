//! A datagram socket over a system that plays a script, call by call.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::*;

use crate::net::udp::packet_info::PacketInfo;
use crate::policy::cidr::AllowList;
use crate::policy::log_lines::logged;

/// What the system answers to a call.
#[derive(Debug)]
enum Answer {
    /// Receives that many datagrams, or sends them.
    Count(usize),
    Fails(io::ErrorKind),
    #[cfg(unix)]
    NoBuffers,
}

impl Answer {
    fn result(self) -> io::Result<usize> {
        match self {
            Answer::Count(count) => Ok(count),
            Answer::Fails(kind) => Err(kind.into()),
            #[cfg(unix)]
            Answer::NoBuffers => Err(nix::errno::Errno::ENOBUFS.into()),
        }
    }
}

use Answer::{Count, Fails};
use io::ErrorKind::{
    ConnectionRefused, HostUnreachable, Interrupted, OutOfMemory, PermissionDenied, WouldBlock,
};

/// A system with numbered datagrams, each from a port of that number.
#[derive(Debug, Default)]
struct Script {
    receive: VecDeque<Answer>,
    send: VecDeque<Answer>,
    received: u16,
    /// The numbers of those that were sent, by where they were sent to.
    sent: Vec<u16>,
}

impl DatagramIo for Script {
    fn receive(&mut self, buffers: &mut [u8], datagrams: &mut Vec<Datagram>) -> io::Result<usize> {
        assert!(
            datagrams.is_empty(),
            "received before the last batch is done"
        );
        let count = self
            .receive
            .pop_front()
            .expect("a receive too many")
            .result()?;
        for slot in 0..count {
            let number = FIRST + self.received;
            self.received += 1;
            buffers[slot * SLOT_SIZE..][..2].copy_from_slice(&number.to_be_bytes());
            datagrams.push(Datagram {
                slot,
                size: 2,
                peer: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
                info: PacketInfo::default(),
                drops: None,
            });
        }
        Ok(count)
    }

    fn send(&mut self, buffers: &[u8], datagrams: &[Datagram]) -> io::Result<usize> {
        let count = self.send.pop_front().expect("a send too many").result()?;
        for datagram in &datagrams[..count] {
            let number = datagram.peer.port();
            assert_eq!(datagram.bytes(buffers), number.to_be_bytes());
            self.sent.push(number);
        }
        Ok(count)
    }

    fn source_mut(&mut self) -> &mut dyn mio::event::Source {
        panic!("a script is not registered")
    }
}

/// The port of the first datagram; a port that is answered.
const FIRST: u16 = 10_000;

fn udp() -> Udp {
    Udp::new(ReplyFilter::new(AllowList::default(), vec![7007], false))
}

struct Played {
    socket: DatagramSocket<Script>,
    udp: Udp,
    stats: Stats,
}

impl Played {
    fn new(receive: Vec<Answer>, send: Vec<Answer>) -> Self {
        let script = Script {
            receive: receive.into(),
            send: send.into(),
            ..Script::default()
        };
        Played {
            socket: DatagramSocket::over(script, "udp://127.0.0.1:7007".parse().unwrap()),
            udp: udp(),
            stats: Stats::default(),
        }
    }

    fn turn(&mut self) -> Next {
        self.socket
            .turn(&mut self.udp, &mut self.stats, Instant::now())
    }

    /// What was sent since it was asked last, as numbers from 0 on.
    fn sent(&mut self) -> Vec<u16> {
        let sent = mem::take(&mut self.socket.socket.sent);
        sent.into_iter().map(|number| number - FIRST).collect()
    }

    /// Every call was made, and everything that came has been accounted for.
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
fn a_few_datagrams_were_all() {
    let mut played = Played::new(
        vec![Count(POLL_THRESHOLD - 1)],
        vec![Count(POLL_THRESHOLD - 1)],
    );
    assert_eq!(played.turn(), Next::WaitReadable);
    assert_eq!(played.sent().len(), POLL_THRESHOLD - 1);
    played.check();
}

/// Without a registration no event can be lost: there is one when it is made, if there is need.
#[test]
fn while_datagrams_keep_coming_events_are_neither_needed_nor_had() {
    let mut played = Played::new(
        vec![Count(POLL_THRESHOLD), Count(1), Fails(WouldBlock), Count(1)],
        vec![Count(POLL_THRESHOLD), Count(1), Count(1)],
    );
    assert!(!played.socket.is_polled);
    assert_eq!(played.turn(), Next::Again);
    assert!(played.socket.is_polled);
    assert_eq!(played.turn(), Next::Again, "one may have come meanwhile");
    assert!(played.socket.is_polled);
    assert_eq!(played.turn(), Next::WaitReadable);
    assert!(!played.socket.is_polled);
    assert_eq!(played.turn(), Next::WaitReadable);
    assert!(!played.socket.is_polled);
    played.check();
}

#[test]
fn behind_a_full_batch_there_may_be_more() {
    let mut played = Played::new(vec![Count(BATCH), Fails(WouldBlock)], vec![Count(BATCH)]);
    assert_eq!(played.turn(), Next::Again);
    assert_eq!(played.turn(), Next::WaitReadable);
    assert_eq!(played.sent().len(), BATCH);
    played.check();
}

#[test]
fn interrupted_calls_are_made_again() {
    let mut played = Played::new(
        vec![Fails(Interrupted), Count(1)],
        vec![Fails(Interrupted), Count(1)],
    );
    assert_eq!(played.turn(), Next::WaitReadable);
    assert_eq!(played.sent(), [0]);
    played.check();
}

#[test]
fn what_is_sent_in_parts_is_sent_in_order() {
    let mut played = Played::new(vec![Count(5)], vec![Count(2), Count(1), Count(2)]);
    assert_eq!(played.turn(), Next::Again);
    assert_eq!(played.sent(), [0, 1, 2, 3, 4]);
    played.check();
}

#[test]
fn without_room_the_rest_of_the_batch_is_dropped_and_receiving_goes_on() {
    for no_room in [
        Fails(WouldBlock),
        Fails(OutOfMemory),
        #[cfg(unix)]
        Answer::NoBuffers,
    ] {
        let mut played = Played::new(
            vec![Count(BATCH), Count(2)],
            vec![Count(1), no_room, Count(2)],
        );
        assert_eq!(played.turn(), Next::Again);
        assert_eq!(played.sent(), [0]);
        assert_eq!(played.stats.send_buffer_drops, BATCH as u64 - 1);
        played.turn();
        assert_eq!(played.sent().len(), 2);
        assert_eq!(played.stats.datagram_errors, 0);
        played.check();
    }
}

#[test]
fn an_error_of_one_peer_costs_its_datagram_alone() {
    for kind in [
        ConnectionRefused,
        HostUnreachable,
        PermissionDenied,
        io::ErrorKind::Other,
    ] {
        let mut played = Played::new(vec![Count(3)], vec![Count(1), Fails(kind), Count(1)]);
        assert_eq!(played.turn(), Next::WaitReadable);
        assert_eq!(played.sent(), [0, 2]);
        assert_eq!(played.stats.datagram_errors, 1, "{kind}");
        played.check();
    }
}

#[test]
fn an_error_in_place_of_a_datagram_is_counted() {
    for (kind, next) in [
        (ConnectionRefused, Next::Again),
        (io::ErrorKind::ConnectionReset, Next::Again),
        (HostUnreachable, Next::Again),
        (io::ErrorKind::NetworkUnreachable, Next::Again),
        (OutOfMemory, Next::Later),
        // Whatever it is, it may go on for ever, which is not to be spun on.
        (io::ErrorKind::Other, Next::Later),
    ] {
        let mut played = Played::new(vec![Fails(kind), Count(1)], vec![Count(1)]);
        assert_eq!(played.turn(), next, "{kind}");
        assert_eq!(played.stats.receive_errors, 1);
        assert_eq!(played.turn(), Next::WaitReadable);
        assert_eq!(played.sent(), [0]);
        played.check();
    }
}

#[test]
fn those_without_an_answer_are_left_out() {
    let mut played = Played::new(vec![Count(3), Count(1)], vec![Count(2)]);
    let ports = vec![FIRST + 1, FIRST + 3];
    played.udp = Udp::new(ReplyFilter::new(AllowList::default(), ports, false));
    assert_eq!(played.turn(), Next::WaitReadable);
    assert_eq!(played.sent(), [0, 2]);
    assert_eq!(played.turn(), Next::WaitReadable);
    assert_eq!(played.stats.dropped.own_port, 2);
    played.check();
}

#[test]
fn one_that_finishes_answers_what_has_come() {
    let mut played = Played::new(
        vec![Count(BATCH), Count(1), Fails(WouldBlock)],
        vec![Count(BATCH), Count(1)],
    );
    played.socket.finish();
    assert_eq!(played.turn(), Next::Again);
    assert_eq!(played.turn(), Next::Again);
    assert_eq!(played.turn(), Next::Close);
    assert_eq!(played.sent().len(), BATCH + 1);
    played.check();
}

#[test]
fn one_that_finishes_does_so_even_if_somebody_goes_on_sending() {
    let batches = || {
        (0..MAX_DRAIN_BATCHES)
            .map(|_| Count(BATCH))
            .collect::<Vec<_>>()
    };
    let mut played = Played::new(batches(), batches());
    played.socket.finish();
    for _ in 0..MAX_DRAIN_BATCHES {
        assert_eq!(played.turn(), Next::Again);
    }
    assert_eq!(played.turn(), Next::Close);
    played.check();
}

/// Datagrams as pairs of a peer and a TTL, as they are sent: one list for each call.
fn calls(received: &[(u16, u8)]) -> Vec<Vec<(u16, u8)>> {
    let datagram = |&(peer, ttl)| Datagram {
        slot: 0,
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

/// For tests of the counter.
fn received_with(socket: &mut DatagramSocket<Script>, drops: &[Option<u32>]) -> u64 {
    let mut stats = Stats::default();
    socket.batch = drops
        .iter()
        .map(|&drops| Datagram {
            slot: 0,
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

/// Also where the first one of its peer is skipped: the second is not to overtake it.
#[test]
fn no_datagram_overtakes_a_skipped_one_of_its_peer() {
    let received = [(1, 64), (2, 63), (2, 64), (1, 64)];
    assert_eq!(
        calls(&received),
        [vec![(1, 64), (1, 64)], vec![(2, 63)], vec![(2, 64)]]
    );
}

#[test]
fn receive_buffer_drops_are_counted_across_the_wrap() {
    let mut socket = Played::new(vec![], vec![]).socket;
    socket.drops = Some(0);
    assert_eq!(
        received_with(&mut socket, &[None, Some(2), None, Some(2)]),
        2
    );
    assert_eq!(received_with(&mut socket, &[Some(5)]), 3);
    socket.drops = Some(u32::MAX);
    assert_eq!(received_with(&mut socket, &[Some(1)]), 2);
}

#[test]
fn first_report_at_a_shared_socket_is_the_baseline() {
    let mut socket = Played::new(vec![], vec![]).socket;
    assert_eq!(
        received_with(&mut socket, &[None, Some(1000), Some(1001)]),
        1
    );
}

#[test]
fn drops_are_counted_by_reason_and_warned_of_once_a_minute() {
    let datagram = |port, info| Datagram {
        slot: 0,
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
    let (mut udp, mut stats) = (udp(), Stats::default());
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
        let lines = logged(|| assert!(!udp.admits(&datagram(port, info), &mut stats, now)));
        assert_eq!(lines[0].0, log::Level::Debug);
        let warning = lines.get(1).map(|(level, line)| (*level, line.as_str()));
        match (warned, warning) {
            (None, None) => {}
            (Some(count), Some((log::Level::Warn, line))) => {
                assert!(line.starts_with(&format!("{count} datagrams")), "{line}");
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
    assert!(udp.admits(&datagram(50_000, nothing), &mut stats, last));
}
