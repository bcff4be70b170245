//! A connection: its socket, and the messages in both directions.

use std::io::{self, ErrorKind, IoSlice};
use std::iter;
use std::mem;
use std::ops::Range;
use std::time::Instant;

use mio::event::Event;

use crate::load::counters::Counters;
use crate::load::in_flight::{Answer, InFlight};
use crate::load::pattern::Pattern;
use crate::load::train;
use crate::payload::NUMBER;
use crate::socket::Socket;

/// On epoll, a short read or write means that the socket is drained or its buffer full; see
/// epoll(7), question 9. This saves the call that returns `WouldBlock`. Other selectors announce
/// nothing before such a call.
const SHORT_MEANS_DRAINED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// From this size on, messages are sent without a copy: in bulk that takes a tenth off the CPU time. A
/// call has a cost for each piece, which is higher than that of copying a small message.
const LARGE: usize = 16 * 1024;

/// Large messages in one call: those of this size fill the buffer of the smaller ones.
const LARGE_AT_ONCE: usize = Shared::BUFFER / LARGE;

/// State shared by all connections. One buffer for each direction is enough: sent bytes follow from
/// the numbers, and received bytes are compared at once.
pub(crate) struct Shared {
    pub(crate) pattern: Pattern,
    pub(crate) counters: Counters,
    /// Whether datagrams are sent and received in trains. Then the outgoing buffer has room for one.
    is_segmented: bool,
    /// Datagrams of a train; 1 without trains.
    train_len: u64,
    origin: Instant,
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

impl Shared {
    const BUFFER: usize = 256 * 1024;

    pub(crate) fn new(size: usize, is_segmented: bool) -> Self {
        let train_len = if is_segmented {
            train::max_len(size)
        } else {
            1
        };
        let outgoing = if is_segmented {
            size * train_len
        } else {
            Self::BUFFER.min(size * 64)
        };
        Shared {
            pattern: Pattern::new(size),
            counters: Counters::new(),
            is_segmented,
            train_len: train_len as u64,
            origin: Instant::now(),
            incoming: vec![0; Self::BUFFER].into_boxed_slice(),
            outgoing: vec![0; outgoing].into_boxed_slice(),
        }
    }

    /// Nanoseconds since the start of the program.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("585 years")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected yet, or closed.
    Closed,
    Connecting,
    Open,
}

pub(crate) struct Connection {
    pub(crate) state: State,
    socket: Option<Socket>,
    pub(crate) in_flight: InFlight,
    is_stream: bool,
    trusts_short_reads: bool,
    ready: Readiness,
    /// The message that is being sent, and its bytes that were sent.
    sent: u64,
    sent_bytes: usize,
    incoming: Incoming,
}

/// Edge-triggered readiness: it holds until a call returns `WouldBlock`.
#[derive(Default)]
struct Readiness {
    read: bool,
    write: bool,
    /// The end of the stream follows the received bytes: a short read has not reached it.
    end_is_ahead: bool,
}

/// The message that is being received.
#[derive(Default)]
struct Incoming {
    /// Its received bytes.
    filled: usize,
    /// Its number, and the message in flight with this number, if there is one.
    header: [u8; NUMBER],
    claimed: Option<u64>,
    /// Whether all received bytes are those of that message.
    is_intact: bool,
}

impl Connection {
    /// Reads in one turn: a peer can send without end.
    const READS: usize = 16;

    pub(crate) fn new(number: usize, outstanding: usize) -> Self {
        Connection {
            state: State::Closed,
            socket: None,
            in_flight: InFlight::new(number, outstanding),
            is_stream: false,
            trusts_short_reads: false,
            ready: Readiness::default(),
            sent: 0,
            sent_bytes: 0,
            incoming: Incoming::default(),
        }
    }

    /// Takes a socket that has started to connect.
    pub(crate) fn connect(&mut self, socket: Socket) {
        self.is_stream = !matches!(socket, Socket::Udp(_));
        // On a Unix socket a read also ends behind passed descriptors; see unix(7).
        self.trusts_short_reads = SHORT_MEANS_DRAINED && matches!(socket, Socket::Tcp(_));
        self.state = State::Connecting;
        self.socket = Some(socket);
        self.ready = Readiness::default();
        self.sent = self.in_flight.next();
        self.sent_bytes = 0;
        self.incoming = Incoming::default();
    }

    /// Closes the socket.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.socket = None;
    }

    pub(crate) fn take_event(&mut self, event: &Event) {
        let error = event.is_error();
        self.ready.end_is_ahead |= event.is_read_closed();
        self.ready.read |= event.is_readable() || event.is_read_closed() || error;
        self.ready.write |= event.is_writable() || event.is_write_closed() || error;
    }

    /// Whether the connection is established, or the error of connect(2).
    pub(crate) fn finish_connecting(&mut self) -> io::Result<bool> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        let is_connected = self.ready.write && socket.is_connected()?;
        if is_connected {
            self.state = State::Open;
        }
        Ok(is_connected)
    }

    /// Sends issued messages until the call would block.
    pub(crate) fn send(&mut self, shared: &mut Shared) -> io::Result<()> {
        while self.ready.write && self.sent < self.in_flight.next() {
            let called = if shared.pattern.size < LARGE {
                self.send_copied(shared)
            } else {
                self.send_uncopied(shared)
            };
            let Some((count, sent)) = called else {
                return Ok(());
            };
            match sent {
                Ok(taken) => {
                    self.advance(taken, shared.pattern.size);
                    self.ready.write = taken == count || !SHORT_MEANS_DRAINED;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.write = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.is_stream => return Err(error),
                Err(error) => {
                    let permanent = train::permanent_error(&error);
                    if let Some(error) = permanent.filter(|_| shared.is_segmented) {
                        return Err(error);
                    }
                    // Usually the error of an earlier datagram, such as `ECONNREFUSED`. This one
                    // counts as sent, and will be lost.
                    shared.counters.note_error(error.to_string());
                    self.advance(count, shared.pattern.size);
                }
            }
        }
        Ok(())
    }

    /// Sends what fits into the buffer. Returns the number of these bytes, and what the call returned;
    /// `None` without a socket.
    fn send_copied(&mut self, shared: &mut Shared) -> Option<(usize, io::Result<usize>)> {
        let (mut offset, mut filled) = (self.sent_bytes, 0);
        for seq in self.unsent(shared) {
            let room = &mut shared.outgoing[filled..];
            if room.is_empty() {
                break;
            }
            let number = self.in_flight.number(seq);
            filled += shared.pattern.copy(number, mem::take(&mut offset), room);
        }
        let sent = self.socket.as_mut()?.send(&shared.outgoing[..filled]);
        Some((filled, sent))
    }

    /// As `send_copied`, straight from the table of noise.
    fn send_uncopied(&mut self, shared: &Shared) -> Option<(usize, io::Result<usize>)> {
        let mut headers = [[0; NUMBER]; LARGE_AT_ONCE];
        let mut pieces = [[IoSlice::new(&[]); 2]; LARGE_AT_ONCE];
        let (mut offset, mut count) = (self.sent_bytes, 0);
        let messages = self.unsent(shared).zip(&mut headers);
        for ((seq, header), pieces) in messages.zip(&mut pieces) {
            let number = self.in_flight.number(seq);
            let message = shared
                .pattern
                .pieces(number, mem::take(&mut offset), header);
            count += message[0].len() + message[1].len();
            *pieces = message.map(IoSlice::new);
        }
        let sent = self.socket.as_mut()?.send_vectored(pieces.as_flattened());
        Some((count, sent))
    }

    /// The messages that one call may send: all of a stream, or one train or datagram.
    fn unsent(&self, shared: &Shared) -> Range<u64> {
        let most = if self.is_stream {
            u64::MAX
        } else {
            shared.train_len
        };
        self.sent..self.in_flight.next().min(self.sent.saturating_add(most))
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

    /// Receives and compares. Returns when bytes were last received, if any were, and whether there
    /// may be more without another event. With `all`, answers that are not awaited are received
    /// too.
    pub(crate) fn receive(
        &mut self,
        shared: &mut Shared,
        all: bool,
    ) -> io::Result<(Option<u64>, bool)> {
        let mut latest = None;
        self.ready.read |= all;
        for _ in 0..Self::READS {
            // A datagram that is not awaited can stay in the buffer: the event of the next one
            // announces both.
            let is_idle =
                SHORT_MEANS_DRAINED && !self.is_stream && self.in_flight.outstanding() == 0;
            if !self.ready.read || is_idle && !all {
                return Ok((latest, false));
            }
            if let Some((count, size)) = self.read(shared)? {
                let now = shared.now();
                latest = Some(now);
                let (pattern, counters) = (&shared.pattern, &mut shared.counters);
                // Also an empty datagram is compared.
                let (first, train) = shared.incoming[..count].split_at(size);
                for bytes in iter::once(first).chain(train.chunks(size.max(1))) {
                    self.compare(pattern, counters, bytes, now);
                }
            }
        }
        Ok((latest, self.ready.read))
    }

    /// Returns the number of bytes, and those of each datagram in them.
    fn read(&mut self, shared: &mut Shared) -> io::Result<Option<(usize, usize)>> {
        let Some(socket) = &mut self.socket else {
            self.ready.read = false;
            return Ok(None);
        };
        let received = if shared.is_segmented {
            train::receive(socket, &mut shared.incoming)
        } else {
            let received = socket.receive(&mut shared.incoming);
            received.map(|count| (count, count))
        };
        match received {
            Ok((0, _)) if self.is_stream => {
                let text = "the other end closed the connection";
                Err(io::Error::new(ErrorKind::UnexpectedEof, text))
            }
            Ok((count, size)) => {
                let is_short = count < shared.incoming.len();
                self.ready.read = !(is_short && self.trusts_short_reads) || self.ready.end_is_ahead;
                Ok(Some((count, size)))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready.read = false;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) if self.is_stream => Err(error),
            Err(error) => {
                // The error of an earlier datagram, reported by ICMP. The next one may arrive.
                shared.counters.note_error(error.to_string());
                Ok(None)
            }
        }
    }

    fn compare(&mut self, pattern: &Pattern, counters: &mut Counters, bytes: &[u8], now: u64) {
        if !self.is_stream && bytes.len() != pattern.size {
            self.count_wrong_length(pattern, counters, bytes);
            return;
        }
        let mut bytes = bytes;
        while !bytes.is_empty() {
            bytes = self.take_header(pattern, bytes);
            bytes = self.take_noise(pattern, bytes);
            if self.incoming.filled == pattern.size {
                self.incoming.filled = 0;
                self.finish_message(counters, now);
            }
        }
    }

    /// Takes the missing bytes of the number. Returns the rest.
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
            self.incoming.claimed = self.in_flight.find(&self.incoming.header[..pattern.header]);
            self.incoming.is_intact = self.incoming.claimed.is_some();
        }
        rest
    }

    /// Compares the bytes after the number. Returns the bytes after this message.
    fn take_noise<'a>(&mut self, pattern: &Pattern, bytes: &'a [u8]) -> &'a [u8] {
        let Some(place) = self.incoming.filled.checked_sub(pattern.header) else {
            return bytes;
        };
        let count = bytes.len().min(pattern.size - self.incoming.filled);
        let (piece, rest) = bytes.split_at(count);
        if let (Some(seq), true) = (self.incoming.claimed, self.incoming.is_intact) {
            let noise = pattern.noise(self.in_flight.number(seq));
            self.incoming.is_intact = noise[place..place + count] == *piece;
        }
        self.incoming.filled += count;
        rest
    }

    /// Counts a complete message.
    fn finish_message(&mut self, counters: &mut Counters, now: u64) {
        let faults = &mut counters.faults;
        match (self.incoming.claimed, self.incoming.is_intact) {
            (Some(seq), true) => match self.in_flight.answer(seq) {
                Answer::First { due, is_reordered } => {
                    faults.reordered += u64::from(is_reordered);
                    counters.count_echo(due, now);
                }
                Answer::Again => faults.duplicated += 1,
                Answer::Late => faults.late += 1,
            },
            (claimed, _) => {
                faults.corrupted += 1;
                match claimed {
                    // Its place in the stream identifies the message.
                    _ if self.is_stream => self.in_flight.remove_oldest(),
                    Some(seq) => self.in_flight.remove(seq),
                    None => {}
                }
            }
        }
    }

    fn count_wrong_length(&mut self, pattern: &Pattern, counters: &mut Counters, bytes: &[u8]) {
        counters.faults.corrupted += 1;
        let header = bytes.get(..pattern.header);
        if let Some(seq) = header.and_then(|header| self.in_flight.find(header)) {
            self.in_flight.remove(seq);
        }
    }
}
