//! The limit on pending bytes of all connections together, and eviction when it is reached.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::common::host::Host;
use crate::common::{
    Engine, config, connect_with_buffers, random_bytes, read_to_the_end, reset, send_until_blocked,
};
use mio_echo::{Config, ConfigBuilder, ZeroCopy};

const BUFFER: usize = 64 * 1024;
const BUDGET: usize = Config::MIN_MAX_BUFFERED;

/// With small socket buffers, which are soon full.
fn limited() -> ConfigBuilder {
    let small = config().socket_buffer(16 * 1024);
    small.buffer_size(BUFFER).max_buffered(BUDGET)
}

fn connect(host: &Host) -> TcpStream {
    connect_with_buffers(host.address(), 4096, 128 * 1024)
}

/// Makes turns until one changes nothing. The limit holds after each of them.
fn run_until_idle(host: &mut Host) {
    loop {
        host.turn(Duration::from_millis(5));
        let stats = host.stats();
        assert!(stats.buffered <= BUDGET, "{stats:?}");
        if host.events.is_empty() && !host.has_work() {
            return;
        }
    }
}

/// Sends up to `max` bytes without reading, until the connection is write-blocked. Returns how many.
fn fill(host: &mut Host, client: &mut TcpStream, max: usize) -> usize {
    let (bytes, mut sent) = (random_bytes(256 * 1024), 0);
    while sent < max {
        let count = send_until_blocked(client, &bytes);
        run_until_idle(host);
        if count == 0 {
            break;
        }
        sent += count;
    }
    sent
}

/// The client of a write-blocked connection.
fn write_blocked(host: &mut Host) -> TcpStream {
    let mut client = connect(host);
    fill(host, &mut client, usize::MAX);
    client
}

/// Whether the connection was closed, behind the bytes that the client can still read.
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
fn limit_evicts_the_connection_blocked_longest() {
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
        let mut host = Host::new(config);
        let mut clients = Vec::new();
        while host.stats().closed.evicted < 3 {
            clients.push(write_blocked(&mut host));
            host.now += apart;
            assert!(clients.len() < 100, "{:?}", host.stats());
        }
        let stats = host.stats();
        assert!(stats.buffered > BUDGET / 4, "{stats:?}");
        let evicted = usize::try_from(stats.closed.evicted).unwrap();
        let (first, others) = clients.split_at_mut(evicted);
        assert!(others.len() > 1 || zero_copy == ZeroCopy::Auto, "{stats:?}");
        assert!(
            first.iter_mut().all(is_closed),
            "another connection was evicted"
        );
        assert_eq!(stats.active, others.len());
        assert!(!others.iter_mut().any(is_closed));
    }
}

/// A connection that makes progress is the last to be evicted.
#[test]
fn peers_that_read_are_not_evicted() {
    let mut host = Host::new(limited().zero_copy(ZeroCopy::Off));
    let mut reader = write_blocked(&mut host);
    let mut buffer = vec![0; 8 * 1024 * 1024];
    let mut others = Vec::new();
    while host.stats().closed.evicted < 10 {
        host.now += Duration::from_secs(1);
        others.push(write_blocked(&mut host));
        assert!(reader.read(&mut buffer).unwrap() > 0);
        run_until_idle(&mut host);
        send_until_blocked(&mut reader, &buffer[..BUFFER]);
        run_until_idle(&mut host);
    }
    assert!(!is_closed(&mut reader));
    assert!(others[..10].iter_mut().all(is_closed));
}

/// Also in the run in which the write timeout of the others is checked.
#[test]
fn stalled_peers_are_evicted_first_when_their_timeout_is_due() {
    let mut host = Host::new(limited().zero_copy(ZeroCopy::Off));
    let bytes = random_bytes(BUFFER);
    let mut stalled = Vec::new();
    while host.stats().buffered < BUDGET / 4 * 3 {
        stalled.push(write_blocked(&mut host));
    }
    // As much as the socket buffers hold: the next bytes will be pending.
    let mut others = Vec::new();
    for _ in 0..stalled.len() {
        let mut other = connect(&host);
        for _ in 0..6 {
            send_until_blocked(&mut other, &bytes[..4096]);
            run_until_idle(&mut host);
        }
        others.push(other);
    }
    host.now += Config::DEFAULT_WRITE_TIMEOUT + Duration::from_secs(1);
    for client in &mut others {
        send_until_blocked(client, &bytes);
    }
    host.turn(Duration::ZERO);
    assert!(host.stats().closed.evicted > 0, "{:?}", host.stats());
    assert!(!others.iter_mut().any(is_closed));
}

#[test]
fn memory_is_released_by_the_last_flush_and_by_a_close() {
    for zero_copy in [ZeroCopy::Off, ZeroCopy::Auto] {
        let mut host = Host::new(limited().zero_copy(zero_copy));
        let mut client = write_blocked(&mut host);
        assert!(host.stats().buffered > 0);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let reader = std::thread::spawn(move || read_to_the_end(&mut client));
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.stats().buffered, 0);
        assert_eq!(reader.join().unwrap().len() as u64, host.stats().bytes_sent);

        let client = write_blocked(&mut host);
        assert!(host.stats().buffered > 0);
        reset(client);
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.stats().buffered, 0);
        assert_eq!(host.stats().closed.evicted, 0);
    }
}

/// How much a client can send before it reads depends on the server's socket buffers.
#[test]
fn socket_buffer_bounds_kernel_memory() {
    let held = |config: ConfigBuilder, max| {
        let mut host = Host::new(config.buffer_size(4096).max_buffered(BUDGET));
        let mut client = connect(&host);
        fill(&mut host, &mut client, max)
    };
    let fixed = held(config().socket_buffer(16 * 1024), usize::MAX);
    assert!(fixed < 400 * 1024, "{fixed} bytes");
    let tuned = held(config(), fixed * 2);
    assert!(tuned >= fixed * 2, "{tuned} and {fixed} bytes");
}
