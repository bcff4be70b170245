//! Servers with the behaviour that a test chooses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use socket2::{Domain, Socket, Type};

#[cfg(unix)]
use super::Directory;
use super::{LIMIT, wait_until};

/// A UDP server that replies to each datagram with the datagrams of `answer`. Its thread ends with the
/// test binary, or after [`LIMIT`] without a datagram.
pub fn udp_server(mut answer: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let endpoint = format!("udp://{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            for datagram in answer(buffer[..count].to_vec()) {
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    endpoint
}

/// A UDP server that never replies, and what tells of each datagram that it receives.
pub fn silent_udp_server() -> (String, Receiver<()>) {
    let (sender, receiver) = channel();
    let endpoint = udp_server(move |_| {
        let _ = sender.send(());
        Vec::new()
    });
    (endpoint, receiver)
}

/// A TCP server of one connection.
pub fn tcp_server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

/// A Unix server of one connection, with the directory of its file.
#[cfg(unix)]
pub fn unix_server(serve: impl FnOnce(UnixStream) + Send + 'static) -> (Directory, String) {
    let directory = Directory::new();
    let path = directory.file("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    (directory, format!("unix:{}", path.display()))
}

/// Echoes until the end of the stream. `change` gets the offset of each piece in the stream.
pub fn echo(mut stream: impl Read + Write, mut change: impl FnMut(usize, &mut [u8])) {
    let mut buffer = vec![0; 65_536];
    let mut place = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        change(place, &mut buffer[..count]);
        place += count;
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// An address that refuses TCP connections and datagrams. Its port is taken by a TCP socket that does
/// not listen and by a UDP socket that is connected to itself. They stay open until the test binary
/// ends, so that no other test gets the port.
pub fn refusing_address() -> SocketAddr {
    loop {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        stream.bind(&any.into()).unwrap();
        let address = stream.local_addr().unwrap().as_socket().unwrap();
        // Another program may have the port over UDP.
        if let Ok(datagrams) = UdpSocket::bind(address) {
            datagrams.connect(address).unwrap();
            std::mem::forget((stream, datagrams));
            return address;
        }
    }
}

/// An address that answers no SYN: Linux drops it if the backlog is full. It stays so until the test binary
/// ends.
#[cfg(target_os = "linux")]
pub fn silent_address() -> SocketAddr {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    // With a backlog of 0 there is room for one connection.
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget((TcpStream::connect(address).unwrap(), listener));
    address
}

/// An address for a server that a test starts: its port was free a moment ago. A process that another
/// test starts may keep a copy of the socket until it executes its program.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    wait_until(|| TcpStream::connect(address).is_err());
    address
}

pub fn udp_echo() -> String {
    udp_server(|datagram| vec![datagram])
}

pub fn tcp_echo() -> String {
    format!("tcp://{}", tcp_server(|stream| echo(stream, |_, _| {})))
}

#[cfg(unix)]
pub fn unix_echo() -> (Directory, String) {
    unix_server(|stream| echo(stream, |_, _| {}))
}

/// A server of one connection with a name in the abstract namespace, and its endpoint.
#[cfg(target_os = "linux")]
pub fn abstract_echo(name: &str) -> String {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("mio-echo-{name}-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    thread::spawn(move || {
        let (stream, _): (UnixStream, _) = listener.accept().unwrap();
        echo(stream, |_, _| {});
    });
    format!("unix:@{name}")
}
