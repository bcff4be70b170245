//! Messages over a socket: sending and receiving without ever waiting in a system call.

use std::io::{self, ErrorKind};

use mio::{Events, Interest, Poll, Token, event};
use mio_echo::Endpoint;

use crate::socket::{Socket, poll_once};

/// A connected socket, and the messages that it sends and receives, one of each at a time.
///
/// Its events come once, when something becomes possible. So what is possible is noted, and holds
/// until a call says otherwise.
pub(crate) struct Transport {
    socket: Socket,
    is_readable: bool,
    is_writable: bool,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the system has taken; `None` when that is all of it.
    written: Option<usize>,
    incoming: Vec<u8>,
    /// How much of a message that comes in a stream is in `incoming`.
    filled: usize,
}

impl Transport {
    /// Connects, to exchange messages of `size` bytes, and waits until that is done.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        poll: &mut Poll,
        token: Token,
        size: usize,
    ) -> io::Result<Self> {
        let mut socket = Socket::open(endpoint)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(socket.source(), token, interest)?;
        let mut events = Events::with_capacity(1);
        loop {
            poll_once(poll, &mut events, None)?;
            if !events.is_empty() && socket.is_connected()? {
                break;
            }
        }
        // Room for one byte more than a datagram should have, or else one that is too long would
        // look as if it were not: the system throws away what there is no room for.
        let room = size + usize::from(matches!(socket, Socket::Udp(_)));
        Ok(Transport {
            socket,
            // The events that said so may have been taken above.
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

    pub(crate) fn note(&mut self, event: &event::Event) {
        // Ends and errors make both possible: the calls that then fail say what it was.
        self.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.is_writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Whether there may be more to receive, which no event will announce.
    pub(crate) fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Whether a message is still to be sent, or the rest of one.
    pub(crate) fn is_sending(&self) -> bool {
        self.written.is_some()
    }

    /// The next message to send, to be filled in. The last one must be on its way.
    pub(crate) fn next(&mut self) -> &mut [u8] {
        debug_assert!(!self.is_sending());
        self.written = Some(0);
        &mut self.outgoing
    }

    /// Sends what the system takes of the message. The rest goes when there is room.
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

    /// Receives once, and gives the message if that completed one.
    ///
    /// Once, and not until there is nothing left: a peer that sends without end would leave no
    /// time for anything else.
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
