//! Messages over a non-blocking socket.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, event};
use mio_echo::Endpoint;

use crate::socket::{Socket, poll_once};

/// A connected socket with one outgoing and one incoming message.
///
/// Events are edge-triggered: readiness is kept until a call returns `WouldBlock`.
pub(crate) struct Transport {
    socket: Socket,
    is_readable: bool,
    is_writable: bool,
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that were sent; `None` if all were.
    written: Option<usize>,
    incoming: Vec<u8>,
    /// Bytes of the current message in `incoming`; for streams.
    filled: usize,
}

impl Transport {
    /// Connects, and waits until the connection is established or the timeout is over. Messages have
    /// `size` bytes.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        poll: &mut Poll,
        token: Token,
        size: usize,
        timeout: Duration,
    ) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut socket = Socket::open(endpoint)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(socket.source(), token, interest)?;
        let mut events = Events::with_capacity(1);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            poll_once(poll, &mut events, Some(left))?;
            if !events.is_empty() && socket.is_connected()? {
                break;
            }
            if left.is_zero() {
                let text = "no connection within the time of --timeout";
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
        }
        // One byte more than a datagram, because the system cuts a longer one to the buffer.
        let room = size + usize::from(matches!(socket, Socket::Udp(_)));
        Ok(Transport {
            socket,
            // The first events may have been consumed above.
            is_readable: true,
            is_writable: true,
            outgoing: vec![0; size],
            written: None,
            incoming: vec![0; room],
            filled: 0,
        })
    }

    pub(crate) fn is_stream(&self) -> bool {
        !matches!(self.socket, Socket::Udp(_))
    }

    pub(crate) fn take_event(&mut self, event: &event::Event) {
        // After the end of the stream or an error, the next call returns it.
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.is_writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Whether there may be more to receive without another event.
    pub(crate) fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Whether a message is not yet sent completely.
    pub(crate) fn is_sending(&self) -> bool {
        self.written.is_some()
    }

    /// The buffer of the next message. The last one must be sent.
    pub(crate) fn next(&mut self) -> &mut [u8] {
        debug_assert!(!self.is_sending());
        self.written = Some(0);
        &mut self.outgoing
    }

    /// Sends the message until the call would block. The rest follows after an event.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        while let (Some(written), true) = (self.written, self.is_writable) {
            match self.socket.send(&self.outgoing[written..]) {
                Ok(count) if written + count < self.outgoing.len() => {
                    self.written = Some(written + count);
                }
                Ok(_) => self.written = None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.written = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Receives once. Returns the message if it is complete.
    ///
    /// Not until the call would block: a peer that sends without end would leave no time for
    /// anything else.
    pub(crate) fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.is_readable {
            return Ok(None);
        }
        let count = match self.socket.receive(&mut self.incoming[self.filled..]) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Ok(None);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        };
        if !self.is_stream() {
            return Ok(Some(&self.incoming[..count]));
        }
        if count == 0 {
            let text = "the other end closed the connection";
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        self.filled += count;
        if self.filled < self.incoming.len() {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(&self.incoming))
    }
}
