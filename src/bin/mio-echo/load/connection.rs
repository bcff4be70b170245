//! A connection: what the system says about its socket, and the messages in both directions.

use std::io::{self, ErrorKind};
use std::time::Instant;

use mio::event::Event;

use crate::load::counters::Tally;
use crate::load::in_flight::{Answer, Window};
use crate::load::pattern::Pattern;
use crate::payload::NUMBER;
use crate::socket::Socket;

/// A read or write that moves less than it might has exhausted the socket, where the selector is
/// epoll (epoll(7), question 9 of its "Questions and answers"); it saves the call that would say
/// so. Elsewhere there is no event before a call would block.
const SHORT_MEANS_EXHAUSTED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What all connections have in common. One set of buffers is enough, because what is sent follows
/// from the numbers, and what comes is verified as it comes: nothing is kept for a connection.
pub(crate) struct Bench {
    pub(crate) pattern: Pattern,
    pub(crate) tally: Tally,
    origin: Instant,
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

impl Bench {
    const BUFFER: usize = 256 * 1024;

    pub(crate) fn new(size: usize) -> Self {
        Bench {
            pattern: Pattern::new(size),
            tally: Tally::new(),
            origin: Instant::now(),
            incoming: vec![0; Self::BUFFER].into_boxed_slice(),
            outgoing: vec![0; Self::BUFFER.min(size * 64)].into_boxed_slice(),
        }
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("585 years")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected, or not any more.
    Closed,
    Connecting,
    Open,
}

pub(crate) struct Connection {
    pub(crate) state: State,
    socket: Option<Socket>,
    pub(crate) window: Window,
    is_stream: bool,
    trusts_short_reads: bool,
    ready: Readiness,
    /// Up to where it is sent: a message, and so many bytes of it.
    sent: u64,
    sent_bytes: usize,
    incoming: Incoming,
}

/// What is possible; it holds until a call says otherwise, because events come only once.
#[derive(Default)]
struct Readiness {
    read: bool,
    write: bool,
    /// The end of the stream is behind the bytes, and a short read has not reached it.
    end_is_ahead: bool,
}

/// The message that is coming in.
#[derive(Default)]
struct Incoming {
    /// How many bytes of it have come.
    filled: usize,
    /// Its number, as far as that has come; and the message that this is of, where there is one.
    header: [u8; NUMBER],
    claimed: Option<u64>,
    /// Whether the rest is what that message should have, as far as it has come.
    is_intact: bool,
}

impl Connection {
    /// How often at most it reads before others get their turn: a peer may send without end.
    const READS: usize = 16;

    pub(crate) fn new(number: usize, outstanding: usize) -> Self {
        Connection {
            state: State::Closed,
            socket: None,
            window: Window::new(number, outstanding),
            is_stream: false,
            trusts_short_reads: false,
            ready: Readiness::default(),
            sent: 0,
            sent_bytes: 0,
            incoming: Incoming::default(),
        }
    }

    /// Takes a socket that has begun to connect.
    pub(crate) fn connect(&mut self, socket: Socket) {
        self.is_stream = !matches!(socket, Socket::Udp(_));
        // A Unix socket reads short behind a message that carried descriptors (unix(7)), too.
        self.trusts_short_reads = SHORT_MEANS_EXHAUSTED && matches!(socket, Socket::Tcp(_));
        self.state = State::Connecting;
        self.socket = Some(socket);
        self.ready = Readiness::default();
        self.sent = self.window.next();
        self.sent_bytes = 0;
        self.incoming = Incoming::default();
    }

    /// Ends it: the socket is closed.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.socket = None;
    }

    pub(crate) fn note(&mut self, event: &Event) {
        let error = event.is_error();
        self.ready.end_is_ahead |= event.is_read_closed();
        self.ready.read |= event.is_readable() || event.is_read_closed() || error;
        self.ready.write |= event.is_writable() || event.is_write_closed() || error;
    }

    /// Whether it is connected by now, or how that failed.
    pub(crate) fn has_connected(&mut self) -> io::Result<bool> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        let is_connected = self.ready.write && socket.is_connected()?;
        if is_connected {
            self.state = State::Open;
        }
        Ok(is_connected)
    }

    /// Sends what has been issued, as far as the system takes it.
    pub(crate) fn send(&mut self, bench: &mut Bench) -> io::Result<()> {
        while self.ready.write && self.sent < self.window.next() {
            let count = self.fill(bench);
            let Some(socket) = &mut self.socket else {
                return Ok(());
            };
            match socket.send(&bench.outgoing[..count]) {
                Ok(taken) => {
                    self.advance(taken, bench.pattern.size);
                    self.ready.write = taken == count || !SHORT_MEANS_EXHAUSTED;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.write = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.is_stream => return Err(error),
                Err(error) => {
                    // Of a datagram sent earlier, mostly: that nobody listens. This one counts as
                    // sent, and no answer will come.
                    bench.tally.note_error(error.to_string());
                    self.advance(count, bench.pattern.size);
                }
            }
        }
        Ok(())
    }

    /// Fills the buffer with what is to be sent next: a datagram, or all of a stream that fits.
    fn fill(&self, bench: &mut Bench) -> usize {
        let (mut seq, mut offset, mut filled) = (self.sent, self.sent_bytes, 0);
        loop {
            let room = &mut bench.outgoing[filled..];
            filled += bench.pattern.copy(self.window.number(seq), offset, room);
            seq += 1;
            offset = 0;
            if !self.is_stream || seq == self.window.next() || filled == bench.outgoing.len() {
                return filled;
            }
        }
    }

    fn advance(&mut self, count: usize, size: usize) {
        let bytes = self.sent_bytes + count;
        if bytes == size {
            self.sent += 1;
            self.sent_bytes = 0;
        } else {
            self.sent += (bytes / size) as u64;
            self.sent_bytes = bytes % size;
        }
    }

    /// Receives and verifies what has come. Gives when that was, if anything has; and whether there
    /// may be more, which no event will announce. With `all`, what nobody waits for is received
    /// as well.
    pub(crate) fn receive(
        &mut self,
        bench: &mut Bench,
        all: bool,
    ) -> io::Result<(Option<u64>, bool)> {
        let mut latest = None;
        self.ready.read |= all;
        for _ in 0..Self::READS {
            // A datagram that nobody waits for can wait until there is another one: its event
            // tells of both.
            let is_idle = !self.is_stream && self.window.outstanding() == 0;
            if !self.ready.read || is_idle && !all {
                return Ok((latest, false));
            }
            if let Some(count) = self.read(bench)? {
                let now = bench.now();
                latest = Some(now);
                let (pattern, tally) = (&bench.pattern, &mut bench.tally);
                self.judge(pattern, tally, &bench.incoming[..count], now);
            }
        }
        Ok((latest, self.ready.read))
    }

    fn read(&mut self, bench: &mut Bench) -> io::Result<Option<usize>> {
        let Some(socket) = &mut self.socket else {
            self.ready.read = false;
            return Ok(None);
        };
        match socket.receive(&mut bench.incoming) {
            Ok(0) if self.is_stream => {
                let text = "the other end closed the connection";
                Err(io::Error::new(ErrorKind::UnexpectedEof, text))
            }
            Ok(count) => {
                let is_short = count < bench.incoming.len();
                self.ready.read = !(is_short && self.trusts_short_reads) || self.ready.end_is_ahead;
                Ok(Some(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready.read = false;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) if self.is_stream => Err(error),
            Err(error) => {
                // Of a datagram sent earlier, brought by ICMP. The next one may well arrive.
                bench.tally.note_error(error.to_string());
                Ok(None)
            }
        }
    }

    fn judge(&mut self, pattern: &Pattern, tally: &mut Tally, bytes: &[u8], now: u64) {
        if !self.is_stream && bytes.len() != pattern.size {
            self.judge_wrong_length(pattern, tally, bytes);
            return;
        }
        let mut bytes = bytes;
        while !bytes.is_empty() {
            bytes = self.take_header(pattern, bytes);
            bytes = self.take_noise(pattern, bytes);
            if self.incoming.filled == pattern.size {
                self.incoming.filled = 0;
                self.conclude(tally, now);
            }
        }
    }

    /// Takes what is missing of a message's number, and gives the rest of the bytes.
    fn take_header<'a>(&mut self, pattern: &Pattern, bytes: &'a [u8]) -> &'a [u8] {
        let Some(missing) = pattern.header.checked_sub(self.incoming.filled) else {
            return bytes;
        };
        if missing == 0 {
            return bytes;
        }
        let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
        self.incoming.header[self.incoming.filled..][..piece.len()].copy_from_slice(piece);
        self.incoming.filled += piece.len();
        if self.incoming.filled == pattern.header {
            self.incoming.claimed = self
                .window
                .claimed_by(&self.incoming.header[..pattern.header]);
            self.incoming.is_intact = self.incoming.claimed.is_some();
        }
        rest
    }

    /// Compares what has come of a message behind its number, and gives the rest of the bytes.
    fn take_noise<'a>(&mut self, pattern: &Pattern, bytes: &'a [u8]) -> &'a [u8] {
        let Some(place) = self.incoming.filled.checked_sub(pattern.header) else {
            return bytes;
        };
        let count = bytes.len().min(pattern.size - self.incoming.filled);
        let (piece, rest) = bytes.split_at(count);
        if let (Some(seq), true) = (self.incoming.claimed, self.incoming.is_intact) {
            let noise = pattern.noise(self.window.number(seq));
            self.incoming.is_intact = noise[place..place + count] == *piece;
        }
        self.incoming.filled += count;
        rest
    }

    /// A whole message has come.
    fn conclude(&mut self, tally: &mut Tally, now: u64) {
        let faults = &mut tally.faults;
        match (self.incoming.claimed, self.incoming.is_intact) {
            (Some(seq), true) => match self.window.answer(seq) {
                Answer::First { due, is_reordered } => {
                    faults.reordered += u64::from(is_reordered);
                    tally.count_echo(due, now);
                }
                Answer::Again => faults.duplicated += 1,
                Answer::Late => faults.late += 1,
            },
            (claimed, _) => {
                faults.corrupted += 1;
                match claimed {
                    // Its place in the stream shows whose answer it should have been.
                    _ if self.is_stream => self.window.spoil_oldest(),
                    Some(seq) => self.window.spoil(seq),
                    None => {}
                }
            }
        }
    }

    fn judge_wrong_length(&mut self, pattern: &Pattern, tally: &mut Tally, bytes: &[u8]) {
        tally.faults.corrupted += 1;
        let header = bytes.get(..pattern.header);
        if let Some(seq) = header.and_then(|header| self.window.claimed_by(header)) {
            self.window.spoil(seq);
        }
    }
}
