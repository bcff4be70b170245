//! What a connection makes of each thing that a call can return.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use super::{END_AHEAD, List, NO_PIPES, READABLE, WRITABLE, connect, shared};
use crate::echo::connection::{Connection, Next, Shared};
use crate::echo::shared::MAX_PIPES;
use crate::net::{SHORT_READ_DRAINS_SOCKET, Stream};
use crate::stats::{CloseReason, Stats};

/// The calls that are expected, in this order, and what they return.
#[derive(Debug)]
enum Call {
    Read(Result<&'static str, ErrorKind>),
    /// What it is given, and how much of that it takes.
    Write(&'static str, Result<usize, ErrorKind>),
    Shutdown(Result<(), ErrorKind>),
    /// What comes into the pipe.
    In(Result<&'static str, ErrorKind>),
    /// What is in the pipe, and how much of that leaves it.
    Out(&'static str, Result<usize, ErrorKind>),
}
use Call::{In, Out, Read as R, Shutdown, Write as W};

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
    type Pipe = List;

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self.0.pop_front() {
            Some(Shutdown(result)) => Ok(result?),
            other => panic!("a shutdown, where {other:?} was expected"),
        }
    }

    fn splice_in(&mut self, pipe: &mut List) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(In(result)) => {
                let bytes = result?.as_bytes();
                pipe.0.extend(bytes);
                Ok(bytes.len())
            }
            other => panic!("a splice in, where {other:?} was expected"),
        }
    }

    fn splice_out(&mut self, pipe: &mut List) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(Out(expected, result)) => {
                assert_eq!(pipe.0, expected.as_bytes());
                let count = result?;
                pipe.0.drain(..count);
                Ok(count)
            }
            other => panic!("a splice out, where {other:?} was expected"),
        }
    }
}

/// A connection with a script and a shared buffer of 8 bytes.
struct Play {
    connection: Connection<Script>,
    shared: Shared<List>,
    stats: Stats,
}

impl Play {
    fn new(calls: impl IntoIterator<Item = Call>) -> Self {
        Play {
            connection: connect(Script(calls.into_iter().collect())),
            shared: shared(8, NO_PIPES),
            stats: Stats::default(),
        }
    }

    /// After a read that filled the buffer; where moves of 4 bytes are worth a pipe.
    fn in_bulk(calls: impl IntoIterator<Item = Call>) -> Self {
        let first = [R(Ok("8 bytes!")), W("8 bytes!", Ok(8))];
        let mut play = Play::new(first.into_iter().chain(calls));
        play.shared = shared(8, 4);
        assert!(matches!(play.turn(), Next::Again));
        play
    }

    fn turn(&mut self) -> Next {
        self.connection.turn(&mut self.shared, &mut self.stats)
    }

    fn pending(&self) -> usize {
        self.connection.pending.len()
    }

    fn is_played(&self) -> bool {
        self.connection.stream.0.is_empty()
    }
}

fn waits(next: &Next) -> bool {
    matches!(next, Next::WaitReadable | Next::WaitWritable)
}

/// What follows a read or write that moved less than it might have.
fn waits_after_short(next: &Next) -> bool {
    if SHORT_READ_DRAINS_SOCKET {
        waits(next)
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
    assert!(waits(&play.turn()));
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
    assert!(waits(&play.turn()));
    assert!(waits_after_short(&play.turn()));
    assert!(
        matches!(play.turn(), Next::Again),
        "input may have come while it was stalled"
    );
    assert_eq!(play.pending(), 0);
    assert!(waits(&play.turn()));
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
    assert!(matches!(play.turn(), Next::WaitWritable));
    assert_eq!(play.pending(), 3);
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
    assert!(play.connection.wake(END_AHEAD));
    assert!(
        matches!(play.turn(), Next::Again),
        "the short read stopped at a mark"
    );
    assert!(
        matches!(play.turn(), Next::Again),
        "it may have been another"
    );
    assert!(waits(&play.turn()));
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
    ]);
    play.turn();
    play.connection.wake(END_AHEAD);
    assert!(matches!(play.turn(), Next::Again));
    assert!(
        matches!(play.turn(), Next::Again),
        "the end of the stream was announced, and once"
    );
    assert!(matches!(play.turn(), Next::Close(CloseReason::PeerClosed)));
}

#[test]
fn the_end_of_the_stream_is_passed_on() {
    let mut play = Play::new([R(Ok(""))]);
    assert!(matches!(play.turn(), Next::Close(CloseReason::PeerClosed)));
    assert!(play.is_played());
}

#[test]
fn error_of_any_call_closes_the_connection_with_that_error() {
    let timed_out = ErrorKind::TimedOut;
    for script in [
        vec![R(Err(timed_out))],
        vec![R(Ok("abc")), W("abc", Err(timed_out))],
    ] {
        let mut play = Play::new(script);
        let Next::Close(CloseReason::Error(error)) = play.turn() else {
            panic!("still open")
        };
        assert_eq!(error.kind(), timed_out);
    }

    let mut play = Play::new([R(Ok("abc")), W("abc", Ok(1)), W("bc", Err(timed_out))]);
    play.turn();
    assert!(matches!(play.turn(), Next::Close(CloseReason::Error(_))));
}

#[test]
fn reset_is_no_other_error_whichever_call_meets_it() {
    let (reset, broken_pipe) = (ErrorKind::ConnectionReset, ErrorKind::BrokenPipe);
    for script in [
        vec![R(Err(reset))],
        vec![R(Ok("abc")), W("abc", Err(reset))],
        vec![R(Ok("abc")), W("abc", Err(broken_pipe))],
    ] {
        let mut play = Play::new(script);
        assert!(matches!(play.turn(), Next::Close(CloseReason::Reset)));
    }
    let mut play = Play::new([Shutdown(Err(ErrorKind::NotConnected))]);
    play.connection.end();
    assert!(matches!(play.turn(), Next::Close(CloseReason::Reset)));
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
    assert!(waits(&play.turn()));
    assert!(play.connection.wake(READABLE));
    assert!(matches!(play.turn(), Next::Close(CloseReason::Aborted)));
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
    assert!(matches!(play.turn(), Next::Close(CloseReason::Aborted)));
    assert_eq!((play.stats.bytes_received, play.stats.bytes_sent), (3, 3));
}

#[test]
fn a_connection_that_cannot_be_ended_is_closed() {
    let mut play = Play::new([Shutdown(Err(ErrorKind::InvalidInput))]);
    play.connection.end();
    assert!(matches!(play.turn(), Next::Close(CloseReason::Error(_))));
}

#[test]
fn a_stream_in_bulk_goes_through_a_pipe() {
    let mut play = Play::in_bulk([
        In(Ok("as much.")),
        Out("as much.", Ok(8)),
        In(Err(ErrorKind::WouldBlock)),
        R(Err(ErrorKind::WouldBlock)),
        In(Ok("later")),
        Out("later", Ok(5)),
    ]);
    assert!(matches!(play.turn(), Next::Again));
    assert!(waits(&play.turn()), "a read was asked why nothing came");
    assert!(play.connection.wake(READABLE));
    assert!(
        matches!(play.turn(), Next::Again),
        "a short move says nothing about what is left"
    );
    assert!(play.is_played());
    assert_eq!((play.stats.bytes_received, play.stats.bytes_sent), (21, 21));
}

#[test]
fn what_the_peer_does_not_take_stays_in_the_pipe() {
    let mut play = Play::in_bulk([
        In(Ok("abcdef")),
        Out("abcdef", Ok(2)),
        Out("cdef", Err(ErrorKind::WouldBlock)),
        Out("cdef", Ok(4)),
        In(Ok("ghij")),
        Out("ghij", Ok(4)),
    ]);
    assert!(
        matches!(play.turn(), Next::Again),
        "a short move says nothing about the room that is left"
    );
    assert!(!play.connection.wake(READABLE));
    assert!(matches!(play.turn(), Next::WaitWritable));
    assert_eq!(play.pending(), 4);
    assert!(play.connection.wake(WRITABLE));
    assert!(matches!(play.turn(), Next::Again));
    assert_eq!(play.pending(), 0);
    assert!(matches!(play.turn(), Next::Again));
    assert!(play.is_played());
}

#[test]
fn a_stream_that_stalls_at_once_is_in_bulk_all_the_same() {
    let mut play = Play::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(3)),
        W("ytes!", Ok(5)),
        In(Ok("more")),
        Out("more", Ok(4)),
    ]);
    play.shared = shared(8, 4);
    for _ in 0..3 {
        play.turn();
    }
    assert!(play.is_played());
}

#[test]
fn small_messages_are_read_and_written_again() {
    let mut play = Play::in_bulk([
        In(Ok("abc")),
        Out("abc", Ok(3)),
        R(Ok("def")),
        W("def", Ok(3)),
    ]);
    assert!(matches!(play.turn(), Next::Again));
    assert!(waits_after_short(&play.turn()));
    assert!(play.is_played());
}

#[test]
fn a_read_decides_whether_the_stream_has_ended() {
    let mut play = Play::in_bulk([
        In(Ok("")),
        R(Ok("urgent")),
        W("urgent", Ok(6)),
        In(Ok("")),
        R(Ok("")),
    ]);
    assert!(waits_after_short(&play.turn()));
    assert!(matches!(play.turn(), Next::Close(CloseReason::PeerClosed)));
    assert!(play.is_played());
}

/// Also one that could be taken for a refusal of splice(2): the socket's own error is returned too.
#[test]
fn splice_error_closes_that_connection_with_that_error() {
    for kind in [ErrorKind::TimedOut, ErrorKind::PermissionDenied] {
        for script in [
            vec![In(Err(kind))],
            vec![In(Ok("abcd")), Out("abcd", Err(kind))],
        ] {
            let mut play = Play::in_bulk(script);
            let Next::Close(CloseReason::Error(error)) = play.turn() else {
                panic!("still open")
            };
            assert_eq!(error.kind(), kind);
        }
    }
}

#[test]
fn an_interrupted_splice_is_made_again() {
    let interrupted = ErrorKind::Interrupted;
    let mut play = Play::in_bulk([
        In(Err(interrupted)),
        In(Ok("abcd")),
        Out("abcd", Err(interrupted)),
        Out("abcd", Ok(4)),
    ]);
    assert!(matches!(play.turn(), Next::Again));
    assert!(play.is_played());
}

#[test]
fn a_connection_that_is_ended_drains_its_pipe_first() {
    let mut play = Play::in_bulk([
        In(Ok("abcdef")),
        Out("abcdef", Ok(2)),
        Out("cdef", Ok(4)),
        Shutdown(Ok(())),
        R(Ok("8 bytes!")),
        R(Ok("")),
    ]);
    play.turn();
    play.connection.end();
    assert!(matches!(play.turn(), Next::Again));
    assert!(
        matches!(play.turn(), Next::Again),
        "what is discarded needs no pipe"
    );
    assert!(matches!(play.turn(), Next::Close(CloseReason::Aborted)));
    assert!(play.is_played());
}

#[test]
fn pipes_are_few_and_come_back() {
    let mut plays: Vec<Play> = Vec::new();
    let mut pipes = shared(8, 4);
    // Each stalls with a pipe, for as long as there are any.
    for _ in 0..MAX_PIPES {
        let mut play = Play::in_bulk([In(Ok("abcdef")), Out("abcdef", Err(ErrorKind::WouldBlock))]);
        play.shared = pipes;
        assert!(waits(&play.turn()));
        pipes = play.shared.clone();
        plays.push(play);
    }
    let mut play = Play::in_bulk([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(8)),
        In(Ok("")),
        R(Ok("")),
    ]);
    play.shared = pipes;
    assert!(matches!(play.turn(), Next::Again), "reads and writes serve");

    // One that is closed, with bytes in its pipe, makes room for another.
    let mut closed = plays.pop().unwrap();
    assert_eq!(closed.stats.buffered, 6);
    let (shared, stats) = (&mut play.shared, &mut closed.stats);
    closed.connection.release(shared, stats);
    assert_eq!(closed.stats.buffered, 0);
    assert!(matches!(play.turn(), Next::Close(CloseReason::PeerClosed)));
}

/// A peer that takes all but one byte of each buffer must not hold more than is counted.
#[test]
fn pending_buffer_counts_whole_until_its_last_byte_is_sent() {
    let mut play = Play::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(1)),
        W(" bytes!", Ok(6)),
        W("!", Ok(1)),
    ]);
    play.turn();
    assert_eq!(play.stats.buffered, 7);
    play.turn();
    assert_eq!((play.pending(), play.stats.buffered), (1, 7));
    play.turn();
    assert_eq!(play.stats.buffered, 0);
}
