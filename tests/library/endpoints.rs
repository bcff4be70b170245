//! From endpoints to sockets: TCP and UDP at one port, shared ports, names, and errors of bind(2).

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::common::{
    self, Directory, Running, addresses, config_at, connect, is_served, read_to_the_end, turn_until,
};
use mio_echo::{Config, Endpoint, Server};

fn bind(config: mio_echo::ConfigBuilder) -> std::io::Result<Server> {
    Server::bind(config.build().unwrap())
}

#[test]
fn endpoint_without_scheme_is_tcp_and_udp_at_one_port() {
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
fn lists_one_endpoint_for_each_socket() {
    let server = bind(config_at("127.0.0.1:0")).unwrap();
    let endpoints = server.endpoints();
    assert!(
        matches!(endpoints, [Endpoint::Tcp(_), Endpoint::Udp(_)]),
        "{endpoints:?}"
    );
}

/// Whether `bind` succeeds with one of several ports: some may be taken by other programs.
fn at_some_port(bind: impl Fn() -> bool) -> bool {
    (0..20).any(|_| bind())
}

/// The port is chosen for TCP, because a port that is free for UDP may be in `TIME_WAIT` for TCP.
#[test]
fn scheme_binds_one_transport_only() {
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
fn ipv6_endpoint_without_dual_stack_leaves_ipv4_free() {
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

/// No other test binds to this address.
#[cfg_attr(
    not(any(target_os = "linux", windows)),
    ignore = "one loopback address"
)]
#[test]
fn tcp_is_not_served_if_udp_cannot_be_bound() {
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

/// The side that closes first keeps the port in `TIME_WAIT` (RFC 9293, section 3.6). No other test
/// binds to this address.
#[cfg_attr(
    not(any(target_os = "linux", windows)),
    ignore = "one loopback address"
)]
#[test]
fn binds_again_while_connections_are_in_time_wait() {
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
fn one_server_serves_all_transports() {
    let directory = Directory::new();
    let mut config = config_at("127.0.0.1:0").endpoint("[::1]:0".parse().unwrap());
    if !common::has_ipv6() {
        config = config_at("127.0.0.1:0");
    }
    if cfg!(unix) {
        config = config.endpoint(Endpoint::Unix(directory.file("socket")));
    }
    let mut server = bind(config).unwrap();
    let (mut streams, mut datagrams) = (Vec::<Box<dyn Write>>::new(), 0);
    for endpoint in server.endpoints().to_vec() {
        match endpoint {
            Endpoint::Tcp(address) => streams.push(Box::new(connect(address))),
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
                let stream = std::os::unix::net::UnixStream::connect(path);
                streams.push(Box::new(stream.unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    let expected = 1 + usize::from(common::has_ipv6()) + usize::from(cfg!(unix));
    assert_eq!(streams.len(), expected);
    for stream in &mut streams {
        stream.write_all(b"!").unwrap();
    }
    let connections = streams.len() as u64;
    turn_until(&mut server, |server| {
        server.stats().bytes_sent == connections + 5 * datagrams
    });
    let stats = server.stats();
    assert_eq!(
        (stats.accepted, stats.datagrams_sent),
        (connections, datagrams)
    );
}

/// The kernel distributes connections and datagrams by their addresses.
#[cfg_attr(not(target_os = "linux"), ignore = "one server gets everything")]
#[test]
fn servers_with_reuse_port_share_a_port() {
    // Without a drain time the shutdown does not wait for pending handshakes.
    let shared = |endpoint: &str| {
        let config = config_at(endpoint).drain_timeout(Duration::ZERO);
        config.reuse_port(true)
    };
    let first = Running::start(shared("127.0.0.1:0"));
    let address = first.addresses[0];
    let same = || config_at(&address.to_string());
    let second = Running::start(shared(&address.to_string()));
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
        assert_ne!(count, 0, "one server got everything: {first:?}, {second:?}");
    }
}

#[test]
fn name_is_bound_at_all_of_its_addresses() {
    let mut config = Config::builder();
    let resolved = Endpoint::resolve("localhost:0").unwrap();
    for endpoint in &resolved {
        config = config.endpoint(endpoint.clone());
    }
    let server = bind(config).unwrap();
    let bound: BTreeSet<_> = addresses(&server).iter().map(SocketAddr::ip).collect();
    let expected = resolved.iter().map(|it| it.address().unwrap().ip());
    assert_eq!(bound, expected.collect());
    assert_eq!(server.endpoints().len(), 2 * resolved.len());
}
