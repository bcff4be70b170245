//! The reaction of a connection to each result of a call.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::Ipv4Addr;
use std::time::Duration;

use log::LevelFilter;
use mio::Token;

use super::{Connection, Name, Next, Shared, Stream};
use crate::echo::shared::{MAX_PIPES, Pipes};
use crate::net::stream::Peer;
use crate::net::{EVENT_FOLLOWS_SHORT_IO, Pipe, Readiness};
use crate::policy::log_lines;
use crate::stats::{CloseReason, Stats};

/// An expected call and its result.
#[derive(Debug)]
enum Call {
    Read(Result<&'static str, ErrorKind>),
    /// The bytes to write, and how many of them are written.
    Write(&'static str, Result<usize, ErrorKind>),
    Shutdown(Result<(), ErrorKind>),
    /// The bytes that are spliced into the pipe.
    In(Result<&'static str, ErrorKind>),
    /// The bytes in the pipe, and how many of them are spliced out.
    Out(&'static str, Result<usize, ErrorKind>),
}
use Call::{In, Out, Read as R, Shutdown, Write as W};

/// A stream that expects calls in this order.
struct Script(VecDeque<Call>);

impl Stream for Script {
    type Pipe = MemoryPipe;

    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(R(result)) => {
                let bytes = result?.as_bytes();
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            other => panic!("a read instead of {other:?}"),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(W(expected, result)) => {
                assert_eq!(bytes, expected.as_bytes());
                Ok(result?)
            }
            other => panic!("a write of {bytes:?} instead of {other:?}"),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self.0.pop_front() {
            Some(Shutdown(result)) => Ok(result?),
            other => panic!("a shutdown instead of {other:?}"),
        }
    }

    fn splice_in(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(In(result)) => {
                let bytes = result?.as_bytes();
                pipe.0.extend(bytes);
                Ok(bytes.len())
            }
            other => panic!("a splice in instead of {other:?}"),
        }
    }

    fn splice_out(&mut self, pipe: &mut MemoryPipe) -> io::Result<usize> {
        match self.0.pop_front() {
            Some(Out(expected, result)) => {
                assert_eq!(pipe.0, expected.as_bytes());
                let count = result?;
                pipe.0.drain(..count);
                Ok(count)
            }
            other => panic!("a splice out instead of {other:?}"),
        }
    }

    fn set_user_timeout(&self, _limit: Duration) {
        panic!("the engine does this")
    }

    fn reset(self) {
        panic!("the engine does this")
    }

    fn source_mut(&mut self) -> &mut dyn mio::event::Source {
        panic!("the engine does this")
    }
}

/// A connection with a script and a read buffer of 8 bytes.
struct Scripted {
    connection: Connection<Script>,
    shared: Shared<MemoryPipe>,
    stats: Stats,
}

impl Scripted {
    fn new(calls: impl IntoIterator<Item = Call>) -> Self {
        Scripted {
            connection: connect(Script(calls.into_iter().collect())),
            shared: shared(8, NO_PIPES),
            stats: Stats::default(),
        }
    }

    /// In splicing mode, after a read that filled the buffer. The minimum for splicing is 4 bytes.
    fn splicing(calls: impl IntoIterator<Item = Call>) -> Self {
        let first = [R(Ok("8 bytes!")), W("8 bytes!", Ok(8))];
        let mut test = Scripted::new(first.into_iter().chain(calls));
        test.shared = shared(8, 4);
        assert!(matches!(test.turn(), Next::Again));
        test
    }

    fn turn(&mut self) -> Next {
        self.connection.turn(&mut self.shared, &mut self.stats)
    }

    fn pending(&self) -> usize {
        self.connection.pending.len()
    }

    fn is_complete(&self) -> bool {
        self.connection.stream.0.is_empty()
    }
}

fn connect<S: Stream>(stream: S) -> Connection<S> {
    Connection::new(
        stream,
        Name {
            peer: Peer::Tcp((Ipv4Addr::LOCALHOST, 7).into()),
            token: Token(1),
        },
        0,
    )
}

/// A pipe in memory.
#[derive(Debug, Clone, Default)]
struct MemoryPipe(Vec<u8>);

impl Pipe for MemoryPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        Ok(MemoryPipe::default())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A read buffer of that size, and pipes for streams that move at least `splice_min` bytes at once.
fn shared(buffer_size: usize, splice_min: usize) -> Shared<MemoryPipe> {
    Shared {
        read_buffer: vec![u8::MAX; buffer_size].into(),
        pipes: Pipes::with_splice_min(splice_min),
        now: 0,
    }
}

/// A value of `splice_min` that disables splicing.
const NO_PIPES: usize = usize::MAX;

const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    read_until_would_block: false,
};
const WRITABLE: Readiness = Readiness {
    readable: false,
    writable: true,
    read_until_would_block: false,
};
const READ_UNTIL_WOULD_BLOCK: Readiness = Readiness {
    readable: true,
    writable: true,
    read_until_would_block: true,
};

fn waits(next: &Next) -> bool {
    matches!(next, Next::WaitReadable | Next::WaitWritable)
}

/// Whether `next` fits a short read or write.
fn waits_after_short(next: &Next) -> bool {
    if EVENT_FOLLOWS_SHORT_IO {
        waits(next)
    } else {
        matches!(next, Next::Again)
    }
}

#[test]
fn short_read_is_echoed_and_followed_by_a_wait() {
    let mut test = Scripted::new([R(Ok("hello")), W("hello", Ok(5))]);
    assert!(waits_after_short(&test.turn()));
    assert!(test.is_complete());
    assert_eq!((test.stats.bytes_received, test.stats.bytes_sent), (5, 5));
}

#[test]
fn full_read_is_followed_by_another_turn() {
    let mut test = Scripted::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(8)),
        R(Err(ErrorKind::WouldBlock)),
    ]);
    assert!(
        matches!(test.turn(), Next::Again),
        "there may be more, and no event announces it"
    );
    assert!(waits(&test.turn()));
    assert!(test.is_complete());
}

#[test]
fn interrupted_call_is_repeated() {
    let interrupted = ErrorKind::Interrupted;
    let mut test = Scripted::new([
        R(Err(interrupted)),
        R(Err(interrupted)),
        R(Ok("abc")),
        W("abc", Err(interrupted)),
        W("abc", Ok(3)),
    ]);
    assert!(waits_after_short(&test.turn()));
    assert!(test.is_complete());
}

#[test]
fn short_write_leaves_pending_bytes_that_are_sent_before_the_next_read() {
    let mut test = Scripted::new([
        R(Ok("abcdef")),
        W("abcdef", Ok(2)),
        W("cdef", Err(ErrorKind::WouldBlock)),
        W("cdef", Ok(3)),
        W("f", Ok(1)),
        R(Err(ErrorKind::WouldBlock)),
    ]);
    assert!(waits_after_short(&test.turn()));
    assert!(waits(&test.turn()));
    assert!(waits_after_short(&test.turn()));
    assert!(
        matches!(test.turn(), Next::Again),
        "input may have arrived while it was write-blocked"
    );
    assert_eq!(test.pending(), 0);
    assert!(waits(&test.turn()));
    assert!(test.is_complete());
    assert_eq!((test.stats.bytes_received, test.stats.bytes_sent), (6, 6));
}

#[test]
fn blocked_write_leaves_all_bytes_pending() {
    let mut test = Scripted::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
    ]);
    assert!(matches!(test.turn(), Next::WaitWritable));
    assert_eq!(test.pending(), 3);
    assert!(matches!(test.turn(), Next::Again));
}

#[test]
fn each_state_is_woken_by_its_own_event_only() {
    let mut test = Scripted::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
    ]);
    assert!(test.connection.wake(READABLE));
    assert!(!test.connection.wake(WRITABLE), "nothing is pending");
    test.turn();
    assert!(
        !test.connection.wake(READABLE),
        "write-blocked connections do not read"
    );
    assert!(test.connection.wake(WRITABLE));
    test.turn();
    assert!(test.connection.wake(READABLE));
}

#[test]
fn short_read_before_a_mark_or_eof_is_followed_by_another_read() {
    let mut test = Scripted::new([
        R(Ok("abc")),
        W("abc", Ok(3)),
        R(Ok("d")),
        W("d", Ok(1)),
        R(Err(ErrorKind::WouldBlock)),
        R(Ok("e")),
        W("e", Ok(1)),
    ]);
    assert!(test.connection.wake(READ_UNTIL_WOULD_BLOCK));
    assert!(
        matches!(test.turn(), Next::Again),
        "the short read stopped at a mark"
    );
    assert!(
        matches!(test.turn(), Next::Again),
        "there may be another mark"
    );
    assert!(waits(&test.turn()));
    assert!(waits_after_short(&test.turn()), "the mark is behind");
}

#[test]
fn eof_while_write_blocked_is_read_after_the_flush() {
    let mut test = Scripted::new([
        R(Ok("abc")),
        W("abc", Err(ErrorKind::WouldBlock)),
        W("abc", Ok(3)),
        R(Ok("d")),
        W("d", Ok(1)),
        R(Ok("")),
    ]);
    test.turn();
    test.connection.wake(READ_UNTIL_WOULD_BLOCK);
    assert!(matches!(test.turn(), Next::Again));
    assert!(
        matches!(test.turn(), Next::Again),
        "the end of the stream is announced only once"
    );
    assert!(matches!(test.turn(), Next::Close(CloseReason::PeerClosed)));
}

#[test]
fn eof_closes_the_connection() {
    let mut test = Scripted::new([R(Ok(""))]);
    assert!(matches!(test.turn(), Next::Close(CloseReason::PeerClosed)));
    assert!(test.is_complete());
}

#[test]
fn error_of_any_call_closes_the_connection_with_that_error() {
    let timed_out = ErrorKind::TimedOut;
    for script in [
        vec![R(Err(timed_out))],
        vec![R(Ok("abc")), W("abc", Err(timed_out))],
    ] {
        let mut test = Scripted::new(script);
        let Next::Close(CloseReason::Error(error)) = test.turn() else {
            panic!("still open")
        };
        assert_eq!(error.kind(), timed_out);
    }

    let mut test = Scripted::new([R(Ok("abc")), W("abc", Ok(1)), W("bc", Err(timed_out))]);
    test.turn();
    assert!(matches!(test.turn(), Next::Close(CloseReason::Error(_))));
}

#[test]
fn received_bytes_are_sent_or_discarded() {
    let reset = ErrorKind::ConnectionReset;
    let blocked = ErrorKind::WouldBlock;
    for (calls, discarded) in [
        (vec![R(Err(reset))], 0),
        (vec![R(Ok("abc")), W("abc", Err(reset))], 3),
        (vec![R(Ok("abc")), W("abc", Ok(1)), W("bc", Err(reset))], 2),
        (
            vec![R(Ok("abc")), W("abc", Err(blocked)), W("abc", Err(reset))],
            3,
        ),
        (vec![R(Ok("abc")), W("abc", Ok(3)), R(Err(reset))], 0),
    ] {
        let mut test = Scripted::new(calls);
        while !matches!(test.turn(), Next::Close(_)) {}
        test.connection.release(&mut test.shared, &mut test.stats);
        let stats = test.stats;
        assert_eq!(stats.bytes_discarded, discarded);
        assert_eq!(stats.bytes_received, stats.bytes_sent + discarded);
    }
}

#[test]
fn reset_is_its_own_close_reason_in_any_call() {
    let (reset, broken_pipe) = (ErrorKind::ConnectionReset, ErrorKind::BrokenPipe);
    for script in [
        vec![R(Err(reset))],
        vec![R(Ok("abc")), W("abc", Err(reset))],
        vec![R(Ok("abc")), W("abc", Err(broken_pipe))],
    ] {
        let mut test = Scripted::new(script);
        assert!(matches!(test.turn(), Next::Close(CloseReason::Reset)));
    }
    let mut test = Scripted::new([Shutdown(Err(ErrorKind::NotConnected))]);
    test.connection.end();
    assert!(matches!(test.turn(), Next::Close(CloseReason::Reset)));
}

#[test]
fn ended_connection_shuts_down_then_discards_until_eof() {
    let mut test = Scripted::new([
        Shutdown(Ok(())),
        R(Ok("8 bytes!")),
        R(Err(ErrorKind::WouldBlock)),
        R(Ok("")),
    ]);
    test.connection.end();
    assert!(matches!(test.turn(), Next::Again));
    assert!(matches!(test.turn(), Next::Again));
    assert!(waits(&test.turn()));
    assert!(test.connection.wake(READABLE));
    assert!(matches!(test.turn(), Next::Close(CloseReason::Aborted)));
    assert_eq!(
        test.stats.bytes_received, 0,
        "discarded bytes are not echoed"
    );
}

#[test]
fn ended_connection_flushes_before_the_shutdown() {
    let mut test = Scripted::new([
        R(Ok("abc")),
        W("abc", Ok(1)),
        W("bc", Ok(1)),
        W("c", Ok(1)),
        Shutdown(Ok(())),
        R(Ok("")),
    ]);
    test.turn();
    test.connection.end();
    assert!(waits_after_short(&test.turn()));
    assert!(!test.connection.wake(READABLE));
    assert!(test.connection.wake(WRITABLE));
    assert!(matches!(test.turn(), Next::Again));
    assert!(matches!(test.turn(), Next::Close(CloseReason::Aborted)));
    assert_eq!((test.stats.bytes_received, test.stats.bytes_sent), (3, 3));
}

#[test]
fn failed_shutdown_closes_the_connection() {
    let mut test = Scripted::new([Shutdown(Err(ErrorKind::InvalidInput))]);
    test.connection.end();
    assert!(matches!(test.turn(), Next::Close(CloseReason::Error(_))));
}

#[test]
fn full_read_switches_to_splicing() {
    let mut test = Scripted::splicing([
        In(Ok("as much.")),
        Out("as much.", Ok(8)),
        In(Err(ErrorKind::WouldBlock)),
        R(Err(ErrorKind::WouldBlock)),
        In(Ok("later")),
        Out("later", Ok(5)),
    ]);
    assert!(matches!(test.turn(), Next::Again));
    assert!(waits(&test.turn()), "an empty splice is followed by a read");
    assert!(test.connection.wake(READABLE));
    assert!(
        matches!(test.turn(), Next::Again),
        "a short splice does not drain the socket"
    );
    assert!(test.is_complete());
    assert_eq!((test.stats.bytes_received, test.stats.bytes_sent), (21, 21));
}

#[test]
fn pending_bytes_stay_in_the_pipe() {
    let mut test = Scripted::splicing([
        In(Ok("abcdef")),
        Out("abcdef", Ok(2)),
        Out("cdef", Err(ErrorKind::WouldBlock)),
        Out("cdef", Ok(4)),
        In(Ok("ghij")),
        Out("ghij", Ok(4)),
    ]);
    assert!(
        matches!(test.turn(), Next::Again),
        "a short splice does not fill the socket"
    );
    assert!(!test.connection.wake(READABLE));
    assert!(matches!(test.turn(), Next::WaitWritable));
    assert_eq!(test.pending(), 4);
    assert!(test.connection.wake(WRITABLE));
    assert!(matches!(test.turn(), Next::Again));
    assert_eq!(test.pending(), 0);
    assert!(matches!(test.turn(), Next::Again));
    assert!(test.is_complete());
}

#[test]
fn write_blocked_full_read_switches_to_splicing_after_the_flush() {
    let mut test = Scripted::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(3)),
        W("ytes!", Ok(5)),
        In(Ok("more")),
        Out("more", Ok(4)),
    ]);
    test.shared = shared(8, 4);
    for _ in 0..3 {
        test.turn();
    }
    assert!(test.is_complete());
}

#[test]
fn small_splice_switches_back_to_copying() {
    let mut test = Scripted::splicing([
        In(Ok("abc")),
        Out("abc", Ok(3)),
        R(Ok("def")),
        W("def", Ok(3)),
    ]);
    assert!(matches!(test.turn(), Next::Again));
    assert!(waits_after_short(&test.turn()));
    assert!(test.is_complete());
}

#[test]
fn empty_splice_is_eof_only_if_a_read_agrees() {
    let mut test = Scripted::splicing([
        In(Ok("")),
        R(Ok("urgent")),
        W("urgent", Ok(6)),
        In(Ok("")),
        R(Ok("")),
    ]);
    assert!(waits_after_short(&test.turn()));
    assert!(matches!(test.turn(), Next::Close(CloseReason::PeerClosed)));
    assert!(test.is_complete());
}

/// Also an error that could mean that splice(2) is not permitted: splice(2) returns the pending error
/// of the socket, too.
#[test]
fn splice_error_closes_that_connection_with_that_error() {
    for kind in [ErrorKind::TimedOut, ErrorKind::PermissionDenied] {
        for script in [
            vec![In(Err(kind))],
            vec![In(Ok("abcd")), Out("abcd", Err(kind))],
        ] {
            let mut test = Scripted::splicing(script);
            let Next::Close(CloseReason::Error(error)) = test.turn() else {
                panic!("still open")
            };
            assert_eq!(error.kind(), kind);
        }
    }
}

#[test]
fn interrupted_splice_is_repeated() {
    let interrupted = ErrorKind::Interrupted;
    let mut test = Scripted::splicing([
        In(Err(interrupted)),
        In(Ok("abcd")),
        Out("abcd", Err(interrupted)),
        Out("abcd", Ok(4)),
    ]);
    assert!(matches!(test.turn(), Next::Again));
    assert!(test.is_complete());
}

#[test]
fn ended_connection_drains_its_pipe_before_the_shutdown() {
    let mut test = Scripted::splicing([
        In(Ok("abcdef")),
        Out("abcdef", Ok(2)),
        Out("cdef", Ok(4)),
        Shutdown(Ok(())),
        R(Ok("8 bytes!")),
        R(Ok("")),
    ]);
    test.turn();
    test.connection.end();
    assert!(matches!(test.turn(), Next::Again));
    assert!(
        matches!(test.turn(), Next::Again),
        "bytes to discard are not spliced"
    );
    assert!(matches!(test.turn(), Next::Close(CloseReason::Aborted)));
    assert!(test.is_complete());
}

#[test]
fn falls_back_to_copy_without_pipes() {
    let mut blocked: Vec<Scripted> = Vec::new();
    let mut pipes = shared(8, 4);
    // Each is write-blocked with a pipe, until there are none left.
    for _ in 0..MAX_PIPES {
        let mut test =
            Scripted::splicing([In(Ok("abcdef")), Out("abcdef", Err(ErrorKind::WouldBlock))]);
        test.shared = pipes;
        assert!(waits(&test.turn()));
        pipes = mem::replace(&mut test.shared, shared(8, NO_PIPES));
        blocked.push(test);
    }
    let mut test = Scripted::splicing([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(8)),
        In(Ok("")),
        R(Ok("")),
    ]);
    test.shared = pipes;
    assert!(matches!(test.turn(), Next::Again), "not copied");

    // A connection that is closed with bytes in its pipe releases the pipe.
    let mut closed = blocked.pop().unwrap();
    assert_eq!(closed.stats.buffered, 6);
    let (shared, stats) = (&mut test.shared, &mut closed.stats);
    closed.connection.release(shared, stats);
    assert_eq!(closed.stats.buffered, 0);
    assert!(matches!(test.turn(), Next::Close(CloseReason::PeerClosed)));
}

/// A peer that takes all but one byte of each buffer must not hold more than is counted.
#[test]
fn pending_buffer_counts_whole_until_its_last_byte_is_sent() {
    let mut test = Scripted::new([
        R(Ok("8 bytes!")),
        W("8 bytes!", Ok(1)),
        W(" bytes!", Ok(6)),
        W("!", Ok(1)),
    ]);
    test.turn();
    assert_eq!(test.stats.buffered, 7);
    test.turn();
    assert_eq!((test.pending(), test.stats.buffered), (1, 7));
    test.turn();
    assert_eq!(test.stats.buffered, 0);
}

#[test]
fn trace_has_each_call_and_its_result() {
    log_lines::start(LevelFilter::Trace);
    let mut test = Scripted::splicing([
        In(Ok("abcdef")),
        Out("abcdef", Ok(2)),
        Out("cdef", Err(ErrorKind::WouldBlock)),
        Out("cdef", Ok(4)),
        In(Ok("")),
        R(Ok("gh")),
        W("gh", Err(ErrorKind::WouldBlock)),
        W("gh", Ok(1)),
        W("h", Ok(1)),
        Shutdown(Ok(())),
        R(Err(ErrorKind::WouldBlock)),
        R(Ok("")),
    ]);
    for _ in 0..5 {
        test.turn();
    }
    test.connection.end();
    while !test.is_complete() {
        test.turn();
    }
    let lines = log_lines::take();
    log_lines::start(LevelFilter::Off);
    let of_connection = |(_, line): &(_, String)| {
        line.strip_prefix("127.0.0.1:7 (Token 1): ")
            .unwrap_or(line)
            .to_owned()
    };
    let lines: Vec<_> = lines.iter().map(of_connection).collect();
    let expected = [
        "recv 8 of 8 bytes",
        "send 8 of 8 bytes",
        "splice in 6 bytes",
        "splice out 2 of 6 bytes",
        "write-blocked with 4 bytes pending",
        "splice out: EAGAIN",
        "write-blocked with 4 bytes pending",
        "splice out 4 of 4 bytes",
        "splice in 0 bytes",
        "recv 2 of 8 bytes",
        "send: EAGAIN",
        "write-blocked with 2 bytes pending",
        "send 1 of 2 bytes",
        "write-blocked with 1 bytes pending",
        "send 1 of 1 bytes",
        "shutdown(SHUT_WR): 0",
        "recv: EAGAIN",
        "recv 0 bytes: end of stream",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn summary_has_the_age_in_seconds() {
    let connection = connect(Script(VecDeque::new()));
    for (now, age) in [(0, "0.000s"), (7, "0.007s"), (86_400_007, "86400.007s")] {
        let summary = connection.summary(now);
        let expected = format!("0 bytes echoed, 0 pending, after {age}");
        assert_eq!(summary, expected);
    }
}
