//! A bare epoll loop: an upper bound on what an echo server can reach. `epoll tcp|udp ADDRESS`
//!
//! Each event costs one `recv` and one `send`. The server buffers nothing: it drops the bytes that
//! `send` does not take, and an error closes the connection. So it is not for use, but a server that
//! does more per message can hardly be faster.
//!
//! It is edge-triggered, which costs the kernel less than level-triggered. If more may be waiting (the
//! buffer was filled, or the peer half-closed), it rearms the socket with `EPOLL_CTL_MOD` and returns
//! to the loop, so that the other connections have their turn first.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};

/// In bytes; the default of mio-echo.
const BUFFER_SIZE: usize = 64 * 1024;
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
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                accept(&epoll, listener, &mut sockets)?;
                continue;
            }
            let (token, flags) = (event.data, event.flags);
            let index = usize::try_from(token.u64()).expect("a descriptor fits usize");
            let Some(socket) = &sockets[index] else {
                continue;
            };
            match echo(socket, &mut buffer) {
                Some(count) if count == BUFFER_SIZE || flags.contains(EventFlags::RDHUP) => {
                    epoll::modify(&epoll, socket, token, INTEREST)?;
                }
                Some(_) => {}
                None => sockets[index] = None,
            }
        }
    }
}

/// Accepts until `EAGAIN`. `sockets` is indexed by descriptor.
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
        let index = usize::try_from(socket.as_raw_fd()).expect("a descriptor is not negative");
        let token = EventData::new_u64(index as u64);
        epoll::add(epoll, &socket, token, INTEREST)?;
        if sockets.len() <= index {
            sockets.resize_with(index + 1, || None);
        }
        sockets[index] = Some(socket);
    }
}

/// Receives once and sends once. Returns the number of bytes received, or `None` at the end of the
/// stream or after an error.
fn echo(socket: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    let count = match recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((0, _)) => return None,
        Ok((count, _)) => count,
        Err(error) => return (error == Errno::AGAIN).then_some(0),
    };
    match send(socket, &buffer[..count], SendFlags::NOSIGNAL) {
        // Bytes that `send` did not take are dropped.
        Ok(_) | Err(Errno::AGAIN) => Some(count),
        Err(_) => None,
    }
}

fn serve_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..count], peer);
    }
}
