//! The socket: connecting, sending and receiving without ever waiting in a system call.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr as UnixSocketAddr};
use std::time::Duration;

#[cfg(unix)]
use mio::net::UnixStream;
use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token, event};
use mio_echo::Endpoint;

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Starts to connect. Over TCP that takes a round trip, and goes on after this.
    fn open(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint {
            Endpoint::Tcp(address) => Socket::Tcp(TcpStream::connect(*address)?),
            Endpoint::Udp(address) => {
                let any = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                // Datagrams of others are kept out from now on, and refusals are reported.
                socket.connect(*address)?;
                Socket::Udp(socket)
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            #[cfg(target_os = "linux")]
            Endpoint::Abstract(name) => {
                let address = UnixSocketAddr::from_abstract_name(name)?;
                Socket::Unix(UnixStream::connect_addr(&address)?)
            }
            _ => {
                let text = "this system has no such sockets";
                return Err(io::Error::new(ErrorKind::Unsupported, text));
            }
        })
    }

    /// Whether it is connected, or how that failed. To be asked when it has become writable.
    fn is_connected(&self) -> io::Result<bool> {
        let Socket::Tcp(stream) = self else {
            return Ok(true);
        };
        // What connect(2) would have said, had it waited (SO_ERROR, see connect(2)).
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            peer => peer?,
        };
        // Otherwise a small ping would wait until the one before it is acknowledged (Nagle's
        // algorithm, RFC 896), and that would be measured.
        stream.set_nodelay(true)?;
        Ok(true)
    }

    fn source(&mut self) -> &mut dyn event::Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Udp(socket) => socket,
            #[cfg(unix)]
            Socket::Unix(stream) => stream,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Udp(socket) => socket.send(bytes),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Udp(socket) => socket.recv(buffer),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

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

/// Waits for events. A signal may end the wait early, and without any.
pub(crate) fn poll_once(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        polled => polled,
    }
}
