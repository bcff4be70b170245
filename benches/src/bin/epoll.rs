//! What the machine can do: a bare epoll loop. `epoll tcp|udp ADDRESS`
//!
//! For each event it receives once and sends once. It keeps nothing: what a send does not take is
//! dropped, and an error ends the connection. So it is no server to be used; but one that does
//! more for each message can hardly be faster.
//!
//! Events are edges, which takes the system less than levels do. So it has to receive again where
//! there may be more: behind a full buffer, and where the end of the stream is ahead.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};

const BUFFER: usize = 64 * 1024;
const LISTENER: u64 = u64::MAX;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tcp", address] => serve_streams(&TcpListener::bind(address)?),
        ["udp", address] => serve_datagrams(&UdpSocket::bind(address)?),
        _ => Err(io::Error::other("usage: epoll tcp|udp ADDRESS")),
    }
}

fn serve_streams(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let token = EventData::new_u64(LISTENER);
    epoll::add(&epoll, listener, token, EventFlags::IN)?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                accept(&epoll, listener, &mut sockets)?;
                continue;
            }
            let place = usize::try_from(event.data.u64()).expect("a descriptor");
            let socket: &mut Option<OwnedFd> = &mut sockets[place];
            let flags = event.flags;
            let end_is_ahead = flags.contains(EventFlags::RDHUP);
            socket.take_if(|it| !echo(it, &mut buffer, end_is_ahead));
        }
    }
}

/// Takes all who wait. Each has its place at the number of its descriptor.
fn accept(
    epoll: &OwnedFd,
    listener: &TcpListener,
    sockets: &mut Vec<Option<OwnedFd>>,
) -> io::Result<()> {
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = match accept_with(listener, flags) {
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::CONNABORTED) => continue,
            accepted => accepted?,
        };
        sockopt::set_tcp_nodelay(&socket, true)?;
        let place = usize::try_from(socket.as_raw_fd()).expect("a descriptor");
        let token = EventData::new_u64(place as u64);
        let interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &socket, token, interest)?;
        if sockets.len() <= place {
            sockets.resize_with(place + 1, || None);
        }
        sockets[place] = Some(socket);
    }
}

/// Gives whether the connection goes on.
fn echo(socket: &OwnedFd, buffer: &mut [u8], end_is_ahead: bool) -> bool {
    loop {
        let count = match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((count, _)) => count,
            Err(error) => return error == Errno::AGAIN,
        };
        // What it does not take is gone.
        let sent = send(socket, &buffer[..count], SendFlags::NOSIGNAL);
        let is_over = sent.is_err_and(|error| error != Errno::AGAIN);
        if is_over || count < buffer.len() && !end_is_ahead {
            return !is_over;
        }
    }
}

fn serve_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..count], peer);
    }
}
