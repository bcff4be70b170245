//! The memory that peers can have held for them has a limit, whatever they do.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::common::host::Host;
use crate::common::{self, config, noise, read_to_the_end, send_what_fits};
use mio_echo::{Config, ConfigBuilder, ZeroCopy};
use socket2::{Domain, Socket, Type};

const BUFFER: usize = 64 * 1024;
const BUDGET: usize = Config::MIN_MAX_BUFFERED;

/// With small buffers in the system, which are full soon.
fn limited() -> ConfigBuilder {
    let small = config().socket_buffer(16 * 1024);
    small.buffer_size(BUFFER).max_buffered(BUDGET)
}

fn host(config: ConfigBuilder) -> Host {
    let mut host = Host::at(config);
    host.max_buffered = BUDGET;
    host
}

/// A client with small buffers.
fn connect(host: &Host) -> TcpStream {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    client.set_send_buffer_size(128 * 1024).unwrap();
    let address = host.echo.endpoints()[0].address().unwrap();
    client.connect(&address.into()).unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(common::LIMIT)).unwrap();
    client
}

impl Host {
    /// A client that sends and does not read, until bytes are held for it.
    fn blocked(&mut self) -> TcpStream {
        let mut client = connect(self);
        let bytes = noise(256 * 1024);
        while send_what_fits(&mut client, &bytes) > 0 {
            self.settle();
        }
        client
    }
}

/// Reads what the client still gets. Says whether the connection was closed behind it.
fn is_closed(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn at_the_limit_the_connection_blocked_longest_is_evicted() {
    // Apart by more than a slot of the timer wheel: a hundredth of the timeout.
    for (zero_copy, timeout, apart) in [
        (
            ZeroCopy::Off,
            Duration::from_secs(300),
            Duration::from_secs(4),
        ),
        (ZeroCopy::Off, Duration::ZERO, Duration::from_secs(7)),
        (
            ZeroCopy::Auto,
            Duration::from_secs(300),
            Duration::from_secs(4),
        ),
    ] {
        let config = limited().zero_copy(zero_copy).write_timeout(timeout);
        let mut host = host(config);
        let mut clients = Vec::new();
        while host.echo.stats().closed.evicted < 3 {
            clients.push(host.blocked());
            host.now += apart;
            assert!(clients.len() < 100, "{:?}", host.echo.stats());
        }
        let stats = host.echo.stats();
        assert!(stats.buffered > BUDGET / 4, "{stats:?}");
        let evicted = usize::try_from(stats.closed.evicted).unwrap();
        let (first, others) = clients.split_at_mut(evicted);
        assert!(others.len() > 1 || zero_copy == ZeroCopy::Auto, "{stats:?}");
        assert!(first.iter_mut().all(is_closed), "not those blocked longest");
        assert_eq!(stats.active, others.len());
        assert!(!others.iter_mut().any(is_closed));
    }
}

/// A byte that moves makes it the last to be evicted.
#[test]
fn peers_that_read_stay() {
    let mut host = host(limited().zero_copy(ZeroCopy::Off));
    let mut reader = host.blocked();
    let mut buffer = vec![0; 8 * 1024 * 1024];
    let mut others = Vec::new();
    while host.echo.stats().closed.evicted < 10 {
        host.now += Duration::from_secs(1);
        others.push(host.blocked());
        assert!(reader.read(&mut buffer).unwrap() > 0);
        host.settle();
        send_what_fits(&mut reader, &buffer[..BUFFER]);
        host.settle();
    }
    assert!(!is_closed(&mut reader));
    assert!(others[..10].iter_mut().all(is_closed));
}

#[test]
fn memory_is_given_back_with_the_last_pending_byte_and_at_a_close() {
    for zero_copy in [ZeroCopy::Off, ZeroCopy::Auto] {
        let mut host = host(limited().zero_copy(zero_copy));
        let mut client = host.blocked();
        assert!(host.echo.stats().buffered > 0);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let reader = std::thread::spawn(move || read_to_the_end(&mut client));
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.echo.stats().buffered, 0);
        assert_eq!(
            reader.join().unwrap().len() as u64,
            host.echo.stats().bytes_sent
        );

        let client = host.blocked();
        assert!(host.echo.stats().buffered > 0);
        common::reset(client);
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.echo.stats().buffered, 0);
        assert_eq!(host.echo.stats().closed.evicted, 0);
    }
}

/// The two buffers of the service's end are a part of what a peer can fill without reading.
#[test]
fn socket_buffer_bounds_what_the_system_holds() {
    let held = |config: ConfigBuilder| {
        let mut host = host(config.max_buffered(BUDGET));
        let mut client = connect(&host);
        let (bytes, mut sent) = (noise(256 * 1024), 0);
        loop {
            let more = send_what_fits(&mut client, &bytes);
            host.settle();
            if more == 0 {
                return sent;
            }
            sent += more;
        }
    };
    let tuned = held(config().buffer_size(4096));
    let fixed = held(config().buffer_size(4096).socket_buffer(16 * 1024));
    assert!(fixed < 400 * 1024, "{fixed} bytes");
    assert!(tuned > fixed * 2, "{tuned} and {fixed} bytes");
}
