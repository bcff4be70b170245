//! What a connection makes of each thing that a call can return.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use super::{MORE_BEHIND, READABLE, WRITABLE, connect};
use crate::connection::{Connection, Next, Stream};
use crate::readiness::SHORT_MEANS_EXHAUSTED;
use crate::stats::{Reason, Stats};

/// The calls that are expected, in this order, and what they return.
#[derive(Debug)]
enum Call {
    Read(Result<&'static str, ErrorKind>),
    /// What it is given, and how much of that it takes.
    Write(&'static str, Result<usize, ErrorKind>),
    Shutdown(Result<(), ErrorKind>),
}
use Call::{Read as R, Shutdown, Write as W};

/// A stream that plays a script, and fails the test where it is asked for anything else.
struct Script(VecDeque<Call>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(R(result)) => {
                let bytes = result?.as_bytes();
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            other => panic!("a read, where {other:?} was expected"),
        }
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(W(expected, result)) => {
                assert_eq!(bytes, expected.as_bytes());
                Ok(result?)
            }
            other => panic!("a write of {bytes:?}, where {other:?} was expected"),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        panic!("a socket has nothing to flush")
    }
}

impl Stream for Script {
    fn shutdown_write(&mut self) -> io::Result<()> {
        match self.0.pop_front() {
            Some(Shutdown(result)) => Ok(result?),
            other => panic!("a shutdown, where {other:?} was expected"),
        }
    }
}

/// A connection with a script and a scratch buffer of 8 bytes.
struct Play {
    connection: Connection<Script>,
    stats: Stats,
}

impl Play {
    fn new(calls: impl IntoIterator<Item = Call>) -> Self {
        Play {
            connection: connect(Script(calls.into_iter().collect())),
            stats: Stats::default(),
        }
    }

    fn turn(&mut self) -> Next {
        self.connection.turn(&mut [0; 8], &mut self.stats)
    }

    fn is_played(&self) -> bool {
        self.connection.stream.0.is_empty()
    }
}

/// What follows a read or write that moved less than it might have.
fn waits_after_short(next: &Next) -> bool {
    if SHORT_MEANS_EXHAUSTED {
        matches!(next, Next::Wait)
    } else {
        matches!(next, Next::Again)
    }
}

#[test]
fn a_short_read_is_echoed_and_the_next_edge_awaited() {
    let mut play = Play::new([R(Ok("hello")), W("hello", Ok(5))]);
    assert!(waits_after_short(&play.turn()));
    assert!(play.is_played());
    assert_eq!((play.stats.bytes_received, play.stats.bytes_sent), (5, 5));
}

#[test]
fn a_full_read_is_followed_by_another_turn() {
    let mut play = Play::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(8)),
        R(Err(ErrorKind::WouldBlock)),
    ]);
    assert!(
        matches!(play.turn(), Next::Again),
        "there may be more, and no edge will say so"
    );
    assert!(matches!(play.turn(), Next::Wait));
    assert!(play.is_played());
}

#[test]
fn an_interrupted_call_is_made_again() {
    let interrupted = ErrorKind::Interrupted;
    let mut play = Play::new([
        R(Err(interrupted)),
        R(Err(interrupted)),
        R(Ok("abc")),
        W("abc", Err(interrupted)),
        W("abc", Ok(3)),
    ]);
    assert!(waits_after_short(&play.turn()));
    assert!(play.is_played());
}

#[test]
fn what_a_write_leaves_is_kept_and_sent_before_anything_is_read() {
    let mut play = Play::new([
        R(Ok("abcdef")),
        W("abcdef", Ok(2)),
        W("cdef", Err(ErrorKind::WouldBlock)),
        W("cdef", Ok(3)),
        W("f", Ok(1)),
        R(Err(ErrorKind::WouldBlock)),
    ]);
    assert!(waits_after_short(&play.turn()));
    assert!(matches!(play.turn(), Next::Wait));
    assert!(waits_after_short(&play.turn()));
    assert!(
        matches!(play.turn(), Next::Again),
        "input may have come while it was stalled"
    );
    assert!(play.connection.unsent.is_empty());
    assert!(matches!(play.turn(), Next::Wait));
    assert!(play.is_played());
    assert_eq!((play.stats.bytes_received, play.stats.bytes_sent), (6, 6));
}

#[test]
fn a_write_that_takes_nothing_leaves_everything_kept() {
    let mut play = Play::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
    ]);
    assert!(matches!(play.turn(), Next::Wait));
    assert_eq!(play.connection.unsent.unsent(), b"abc");
    assert!(matches!(play.turn(), Next::Again));
}

#[test]
fn each_state_is_woken_by_its_own_edge_only() {
    let mut play = Play::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
    ]);
    assert!(play.connection.wake(READABLE));
    assert!(
        !play.connection.wake(WRITABLE),
        "a waiting connection has nothing to write"
    );
    play.turn();
    assert!(
        !play.connection.wake(READABLE),
        "a stalled connection must not be woken to read"
    );
    assert!(play.connection.wake(WRITABLE));
    play.turn();
    assert!(play.connection.wake(READABLE));
}

#[test]
fn what_stands_behind_the_bytes_is_read_for() {
    let mut play = Play::new([
        R(Ok("abc")),
        W("abc", Ok(3)),
        R(Ok("d")),
        W("d", Ok(1)),
        R(Err(ErrorKind::WouldBlock)),
        R(Ok("e")),
        W("e", Ok(1)),
    ]);
    assert!(play.connection.wake(MORE_BEHIND));
    assert!(
        matches!(play.turn(), Next::Again),
        "the short read stopped at a mark"
    );
    assert!(
        matches!(play.turn(), Next::Again),
        "it may have been another"
    );
    assert!(matches!(play.turn(), Next::Wait));
    assert!(
        waits_after_short(&play.turn()),
        "the mark was passed long ago"
    );
}

#[test]
fn what_was_behind_the_bytes_is_not_forgotten_in_a_stall() {
    let mut play = Play::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
        R(Ok("d")),
        W("d", Ok(1)),
        R(Ok("")),
        Shutdown(Ok(())),
    ]);
    play.turn();
    play.connection.wake(MORE_BEHIND);
    assert!(matches!(play.turn(), Next::Again));
    assert!(
        matches!(play.turn(), Next::Again),
        "the end of the stream was announced, and once"
    );
    assert!(matches!(play.turn(), Next::Close(Reason::Finished)));
}

#[test]
fn the_end_of_the_stream_is_passed_on() {
    let mut play = Play::new([R(Ok("")), Shutdown(Ok(()))]);
    assert!(matches!(play.turn(), Next::Close(Reason::Finished)));
    assert!(play.is_played());
}

#[test]
fn an_error_of_any_call_closes_the_connection_with_that_error() {
    let reset = ErrorKind::ConnectionReset;
    for script in [
        vec![R(Err(reset))],
        vec![R(Ok("abc")), W("abc", Err(reset))],
        vec![R(Ok("")), Shutdown(Err(reset))],
    ] {
        let mut play = Play::new(script);
        let Next::Close(Reason::Failed(error)) = play.turn() else {
            panic!("still open")
        };
        assert_eq!(error.kind(), reset);
    }

    let mut play = Play::new([R(Ok("abc")), W("abc", Ok(1)), W("bc", Err(reset))]);
    play.turn();
    assert!(matches!(play.turn(), Next::Close(Reason::Failed(_))));
}

#[test]
fn a_connection_that_is_ended_reads_to_the_end_and_writes_nothing() {
    let mut play = Play::new([
        Shutdown(Ok(())),
        R(Ok("8 bytes!")),
        R(Err(ErrorKind::WouldBlock)),
        R(Ok("")),
    ]);
    play.connection.end();
    assert!(matches!(play.turn(), Next::Again));
    assert!(matches!(play.turn(), Next::Again));
    assert!(matches!(play.turn(), Next::Wait));
    assert!(play.connection.wake(READABLE));
    assert!(matches!(play.turn(), Next::Close(Reason::Cut)));
    assert_eq!(
        play.stats.bytes_received, 0,
        "discarded bytes are not echoed"
    );
}

#[test]
fn a_stalled_connection_that_is_ended_sends_what_was_kept_first() {
    let mut play = Play::new([
        R(Ok("abc")),
        W("abc", Ok(1)),
        W("bc", Ok(1)),
        W("c", Ok(1)),
        Shutdown(Ok(())),
        R(Ok("")),
    ]);
    play.turn();
    play.connection.end();
    assert!(waits_after_short(&play.turn()));
    assert!(!play.connection.wake(READABLE));
    assert!(play.connection.wake(WRITABLE));
    assert!(matches!(play.turn(), Next::Again));
    assert!(matches!(play.turn(), Next::Close(Reason::Cut)));
    assert_eq!((play.stats.bytes_received, play.stats.bytes_sent), (3, 3));
}

#[test]
fn a_connection_that_cannot_be_ended_is_closed() {
    let mut play = Play::new([Shutdown(Err(ErrorKind::NotConnected))]);
    play.connection.end();
    assert!(matches!(play.turn(), Next::Close(Reason::Failed(_))));
}
