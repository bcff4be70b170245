//! One endpoint, one or more sockets: TCP and UDP together, several processes at one port, and
//! what becomes of an endpoint that cannot be had.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::common::{
    self, Directory, Running, addresses, config_at, connect, is_served, read_to_the_end, turn_until,
};
use mio_echo::{Config, Endpoint, Server};

fn bind(config: mio_echo::ConfigBuilder) -> std::io::Result<Server> {
    Server::bind(config.build().unwrap())
}

#[test]
fn without_a_transport_it_is_tcp_and_udp_at_one_port() {
    let server = Running::start(config_at("127.0.0.1:0"));
    let [tcp, udp] = server.addresses[..] else {
        panic!("{:?}", server.addresses);
    };
    assert_eq!(tcp, udp);
    assert_ne!(tcp.port(), 0);
    assert!(is_served(&mut connect(tcp)));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(common::LIMIT)).unwrap();
    client.send_to(b"hello", udp).unwrap();
    let mut echoed = [0; 6];
    assert_eq!(client.recv_from(&mut echoed).unwrap(), (5, udp));
    assert_eq!(&echoed[..5], b"hello");
    drop(connect(tcp));
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.datagrams_sent), (2, 1));
}

#[test]
fn the_endpoints_are_told_one_by_one() {
    let server = bind(config_at("127.0.0.1:0")).unwrap();
    let endpoints = server.endpoints();
    assert!(
        matches!(endpoints, [Endpoint::Tcp(_), Endpoint::Udp(_)]),
        "{endpoints:?}"
    );
}

/// Whether it holds at some port: at a certain one somebody else may be in the way.
fn at_some_port(holds: impl Fn() -> bool) -> bool {
    (0..20).any(|_| holds())
}

/// The system chooses the port for TCP, because what is free for UDP may for a minute be that of a
/// TCP connection that has ended.
#[test]
fn tcp_alone_and_udp_alone_are_that() {
    assert!(at_some_port(|| {
        let server = bind(config_at("tcp://127.0.0.1:0")).unwrap();
        UdpSocket::bind(addresses(&server)[0]).is_ok()
    }));
    assert!(at_some_port(|| {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        bind(config_at(&format!("udp://{address}"))).is_ok()
    }));
}

#[test]
fn without_dual_stack_ipv6_is_ipv6_alone() {
    if !common::has_ipv6() {
        return;
    }
    assert!(at_some_port(|| {
        let holder = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let other_holder = UdpSocket::bind(("0.0.0.0", port));
        other_holder.is_ok() && bind(config_at(&format!("[::]:{port}"))).is_ok()
    }));
}

/// At an address of its own, where no other test is.
#[cfg(target_os = "linux")]
#[test]
fn if_one_of_the_two_cannot_be_had_neither_is_there() {
    let holder = UdpSocket::bind("127.0.0.5:0").unwrap();
    let address = holder.local_addr().unwrap();
    let error = bind(config_at(&address.to_string())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(
        error.to_string().contains(&format!("udp://{address}")),
        "{error}"
    );
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// Who closes first keeps the port for a minute: `TIME_WAIT`, see RFC 9293, section 3.6. At an
/// address of its own, where no other test is.
#[cfg(target_os = "linux")]
#[test]
fn connections_that_an_earlier_run_has_ended_do_not_stand_in_the_way() {
    let address = TcpListener::bind("127.0.0.7:0").unwrap().local_addr();
    let endpoint = format!("tcp://{}", address.unwrap());
    let mut server = bind(config_at(&endpoint)).unwrap();
    let mut client = connect(addresses(&server)[0]);
    turn_until(&mut server, |server| server.stats().active == 1);
    drop(server);
    assert_eq!(read_to_the_end(&mut client), b"");
    drop(client);
    bind(config_at(&endpoint)).unwrap();
}

#[test]
fn all_transports_are_served_from_one_loop() {
    let directory = Directory::new();
    let mut config = config_at("127.0.0.1:0").endpoint("[::1]:0".parse().unwrap());
    if !common::has_ipv6() {
        config = config_at("127.0.0.1:0");
    }
    if cfg!(unix) {
        config = config.endpoint(Endpoint::Unix(directory.file("socket")));
    }
    let mut server = bind(config).unwrap();
    let (mut streams, mut datagrams, mut others) = (Vec::new(), 0, Vec::new());
    for endpoint in server.endpoints().to_vec() {
        match endpoint {
            Endpoint::Tcp(address) => streams.push(connect(address)),
            Endpoint::Udp(address) => {
                let any = if address.is_ipv4() {
                    "127.0.0.1:0"
                } else {
                    "[::1]:0"
                };
                let client = UdpSocket::bind(any).unwrap();
                client.send_to(b"hello", address).unwrap();
                datagrams += 1;
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                others.push(std::os::unix::net::UnixStream::connect(path).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(others.len(), usize::from(cfg!(unix)));
    for stream in &mut streams {
        stream.write_all(b"!").unwrap();
    }
    for stream in &mut others {
        stream.write_all(b"!").unwrap();
    }
    let connections = (streams.len() + others.len()) as u64;
    turn_until(&mut server, |server| {
        server.stats().bytes_sent == connections + 5 * datagrams
    });
    let stats = server.stats();
    assert_eq!(
        (stats.accepted, stats.datagrams_sent),
        (connections, datagrams)
    );
}

/// The system spreads connections and datagrams over the processes by their addresses.
#[cfg(target_os = "linux")]
#[test]
fn several_servers_share_a_port_when_they_all_want_to() {
    let first = Running::start(config_at("127.0.0.1:0").reuse_port(true));
    let address = first.addresses[0];
    let same = || config_at(&address.to_string());
    let second = Running::start(same().reuse_port(true));
    assert_eq!(bind(same()).unwrap_err().kind(), ErrorKind::AddrInUse);

    let clients: Vec<UdpSocket> = (0..64)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    for client in &clients {
        assert!(is_served(&mut connect(address)));
        client.set_read_timeout(Some(common::LIMIT)).unwrap();
        client.send_to(b"hello", address).unwrap();
        client.recv_from(&mut [0; 5]).unwrap();
    }
    let (first, second) = (first.stop(), second.stop());
    assert_eq!(first.accepted + second.accepted, 64);
    assert_eq!(first.datagrams_sent + second.datagrams_sent, 64);
    for count in [
        first.accepted,
        second.accepted,
        first.datagrams_sent,
        second.datagrams_sent,
    ] {
        assert_ne!(count, 0, "one of them has all: {first:?}, {second:?}");
    }
}

#[test]
fn a_name_stands_for_all_of_its_addresses() {
    let mut config = Config::builder();
    let resolved = Endpoint::resolve("localhost:0").unwrap();
    for endpoint in &resolved {
        config = config.endpoint(endpoint.clone());
    }
    let server = bind(config).unwrap();
    let told: BTreeSet<_> = addresses(&server).iter().map(SocketAddr::ip).collect();
    let wanted = resolved.iter().map(|it| it.address().unwrap().ip());
    assert_eq!(told, wanted.collect());
    assert_eq!(server.endpoints().len(), 2 * resolved.len());
}
