//! What the machine can do: a bare epoll loop. `epoll tcp|udp ADDRESS`
//!
//! For each event it receives once and sends once. It keeps nothing: what a send does not take is
//! dropped, and an error ends the connection. So it is no server to be used; but one that does
//! more for each message can hardly be faster.
//!
//! Events are edges, which takes the system less than levels do. Where there may be more to receive,
//! behind a full buffer or at the end of the stream, it asks for another edge, and others have their
//! turn before that.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};

/// As large as mio-echo's by default.
const BUFFER: usize = 64 * 1024;
const LISTENER: u64 = u64::MAX;
const INTEREST: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

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
    let mut sockets: Vec<Option<OwnedFd>> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                accept(&epoll, listener, &mut sockets)?;
                continue;
            }
            let (token, flags) = (event.data, event.flags);
            let place = usize::try_from(token.u64()).expect("a descriptor");
            let Some(socket) = &sockets[place] else {
                continue;
            };
            match echo(socket, &mut buffer) {
                Some(count) if count == BUFFER || flags.contains(EventFlags::RDHUP) => {
                    epoll::modify(&epoll, socket, token, INTEREST)?;
                }
                Some(_) => {}
                None => sockets[place] = None,
            }
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
        epoll::add(epoll, &socket, token, INTEREST)?;
        if sockets.len() <= place {
            sockets.resize_with(place + 1, || None);
        }
        sockets[place] = Some(socket);
    }
}

/// Gives how much has come, or nothing where the connection is over.
fn echo(socket: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    let count = match recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((0, _)) => return None,
        Ok((count, _)) => count,
        Err(error) => return (error == Errno::AGAIN).then_some(0),
    };
    match send(socket, &buffer[..count], SendFlags::NOSIGNAL) {
        // What it does not take is gone.
        Ok(_) | Err(Errno::AGAIN) => Some(count),
        Err(_) => None,
    }
}

fn serve_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..count], peer);
    }
}
