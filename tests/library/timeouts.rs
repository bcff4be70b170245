//! Idle and write timeouts: connections without progress are closed in time and not before. The
//! tests move the clock, so that they do not wait.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use crate::common::{
    Engine, LIMIT, Running, accept, config, connect_small, echo_to_the_end, random_bytes,
    read_to_the_end, read_until_blocked, small_buffers, turn_until, write_block,
};
use mio::event::Event;
use mio_echo::Stats;

const IDLE: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(2);

/// The resolution of the engine's clock.
const TICK: Duration = Duration::from_millis(1);

fn just_before(timeout: Duration) -> Duration {
    timeout.saturating_sub(TICK)
}

/// How much later than its timeout a connection may be closed: 1 % or 50 ms.
fn tolerance(timeout: Duration) -> Duration {
    (timeout / 100).max(Duration::from_millis(50)) + TICK * 2
}

fn just_after(timeout: Duration) -> Duration {
    timeout + tolerance(timeout)
}

/// Open connections, and those closed by an idle timeout and by a write timeout.
fn counts(host: &Host) -> (usize, u64, u64) {
    let Stats { active, closed, .. } = host.stats();
    (active, closed.idle_timeout, closed.write_timeout)
}

fn echo(host: &mut Host, client: &mut TcpStream) {
    let sent = host.stats().bytes_sent;
    client.write_all(b"hello").unwrap();
    host.run_until(|echo| echo.stats().bytes_sent == sent + 5);
    client.read_exact(&mut [0; 5]).unwrap();
}

/// The client of a write-blocked connection, and how many bytes it has sent.
fn write_blocked(host: &mut Host) -> (TcpStream, usize) {
    let address = host.address();
    let mut client = accept(host, || connect_small(address));
    let sent = block(host, &mut client);
    (client, sent)
}

fn block(host: &mut Host, client: &mut TcpStream) -> usize {
    write_block(host, client, &random_bytes(4 * 1024 * 1024))
}

/// Advances until `timeout` closes a write-blocked connection, in time and not before. A delayed
/// acknowledgement can make room meanwhile; that is progress, which restarts the timeout.
fn assert_expires(host: &mut Host, timeout: Duration) {
    let active = host.active();
    loop {
        let sent = host.stats().bytes_sent;
        host.advance(just_before(timeout));
        assert_eq!(host.active(), active, "closed too early");
        if host.stats().bytes_sent == sent {
            host.advance(tolerance(timeout));
        }
        if host.active() < active {
            return;
        }
        assert!(host.stats().bytes_sent > sent, "not closed in time");
    }
}

/// Reads that many bytes, while the server sends them.
fn read_bytes(host: &mut Host, client: &mut TcpStream, count: usize) {
    let mut buffer = vec![0; 1024 * 1024];
    let mut read = 0;
    turn_until(host, |_| {
        read += read_until_blocked(client, &mut buffer);
        read == count
    });
}

#[test]
fn idle_timeout_closes_connection_in_time_and_not_before() {
    for timeout in [
        Duration::from_millis(20),
        IDLE,
        Duration::from_secs(24 * 3600),
    ] {
        let mut host = Host::new(config().idle_timeout(timeout));
        let mut client = host.connect();
        host.advance(just_before(timeout));
        assert_eq!(host.active(), 1, "closed too early");
        host.now += tolerance(timeout);
        assert_eq!(
            host.echo.timeout(host.now),
            Some(Duration::ZERO),
            "the loop would sleep"
        );
        host.advance(Duration::ZERO);
        assert_eq!(counts(&host), (0, 1, 0));
        assert_eq!(host.echo.timeout(host.now), None);
        assert_eq!(read_to_the_end(&mut client), b"");
    }
}

#[test]
fn progress_restarts_the_idle_timeout() {
    let mut host = Host::new(config().idle_timeout(IDLE));
    let mut client = host.connect();
    for _ in 0..5 {
        host.advance(just_before(IDLE));
        echo(&mut host, &mut client);
    }
    host.advance(just_before(IDLE));
    assert_eq!(host.active(), 1);
    host.advance(tolerance(IDLE));
    assert_eq!(host.active(), 0);
}

#[test]
fn loop_sleeps_until_the_next_timeout() {
    let mut host = Host::new(config().idle_timeout(IDLE));
    let _clients = [host.connect(), host.connect()];
    let timeout = host.echo.timeout(host.now).unwrap();
    assert!(
        IDLE <= timeout && timeout <= just_after(IDLE),
        "{timeout:?}"
    );
    host.advance(timeout);
    assert_eq!(counts(&host), (0, 2, 0));
}

#[test]
fn write_timeout_closes_connection_in_time_and_not_before() {
    for buffer_size in [10_000, 64 * 1024] {
        let mut host = Host::new(
            small_buffers()
                .write_timeout(WRITE)
                .buffer_size(buffer_size),
        );
        let (client, _) = write_blocked(&mut host);
        let mut other = host.connect();
        assert_expires(&mut host, WRITE);
        assert_eq!(counts(&host), (1, 0, 1));
        echo(&mut host, &mut other);
        drop(client);
    }
}

#[test]
fn progress_restarts_the_write_timeout() {
    let mut host = Host::new(small_buffers().write_timeout(WRITE));
    let (mut client, sent) = write_blocked(&mut host);
    let mut read = 0;
    let mut buffer = vec![0; 1024 * 1024];
    while read < sent {
        host.advance(just_before(WRITE));
        assert_eq!(host.active(), 1, "after {read} bytes");
        let before = host.stats().bytes_sent;
        read += client.read(&mut buffer).unwrap();
        // Acknowledgements may be delayed.
        host.run_until(|echo| {
            let stats = echo.stats();
            stats.buffered == 0 || stats.bytes_sent > before
        });
    }
    // Nothing is pending any more, and there is no idle timeout.
    host.advance(just_after(WRITE) * 10);
    assert_eq!(host.active(), 1);
    echo(&mut host, &mut client);
}

#[test]
fn write_timeout_applies_each_time_a_connection_is_blocked() {
    let mut host = Host::new(small_buffers().write_timeout(WRITE));
    let (mut client, sent) = write_blocked(&mut host);
    read_bytes(&mut host, &mut client, sent);
    host.advance(just_after(WRITE));
    block(&mut host, &mut client);
    assert_expires(&mut host, WRITE);
    assert_eq!(counts(&host), (0, 0, 1));
}

#[test]
fn timeout_of_zero_never_expires() {
    let never = small_buffers().idle_timeout(Duration::ZERO);
    let mut host = Host::new(never.write_timeout(Duration::ZERO));
    let _idle = host.connect();
    let _blocked = write_blocked(&mut host);
    assert_eq!(host.echo.timeout(host.now), None);
    host.advance(Duration::from_secs(100 * 24 * 3600));
    assert_eq!(host.active(), 2);
}

#[test]
fn idle_timeout_applies_to_write_blocked_connections() {
    let both = small_buffers().idle_timeout(WRITE).write_timeout(IDLE);
    let mut host = Host::new(both);
    let _blocked = write_blocked(&mut host);
    assert_expires(&mut host, WRITE);
    assert_eq!(counts(&host), (0, 1, 0));
}

#[test]
fn timeout_of_a_closed_connection_does_not_wake_the_loop() {
    let mut host = Host::new(config().idle_timeout(IDLE));
    for _ in 0..20 {
        let client = host.connect();
        host.advance(IDLE / 5);
        drop(client);
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(
            host.echo.timeout(host.now),
            None,
            "a timeout without a connection"
        );
    }
    assert_eq!(host.stats().closed.idle_timeout, 0);
}

#[test]
fn timeouts_apply_while_draining() {
    let draining = config().idle_timeout(WRITE).drain_timeout(IDLE);
    let mut host = Host::new(draining);
    let _client = host.connect();
    host.echo.shutdown(host.now);
    host.advance(just_after(WRITE));
    assert!(host.echo.is_finished());
    let closed = host.stats().closed;
    assert_eq!((closed.idle_timeout, closed.aborted), (1, 0));
}

/// Connections advance to the next shutdown phase in the turn in which their idle timeout expires.
#[test]
fn idle_timeout_at_the_end_of_the_drain_time_ends_the_shutdown() {
    let (sender, receiver) = channel();
    // If the engine never returns, the thread is left running.
    thread::spawn(move || {
        let timeouts = config().idle_timeout(WRITE).drain_timeout(WRITE);
        let mut host = Host::new(timeouts);
        let mut clients: Vec<_> = (0..20).map(|_| host.connect()).collect();
        host.echo.shutdown(host.now);
        host.advance(WRITE * 2);
        host.advance(WRITE);
        assert!(host.echo.is_finished());
        // Lingering connections have the deadline of the shutdown, and no idle timeout.
        let closed = host.echo.stats().closed;
        assert_eq!((closed.idle_timeout, closed.aborted), (0, 20));
        for client in &mut clients {
            assert_eq!(read_to_the_end(client), b"");
        }
        sender.send(()).unwrap();
    });
    receiver.recv_timeout(LIMIT).expect("the engine hangs");
}

/// As after a pause of the process, or a poll that reported only some of the events.
#[test]
fn waiting_data_is_echoed_before_the_idle_timeout_is_checked() {
    let mut host = Host::new(config().idle_timeout(IDLE));
    let mut silent = host.connect();
    let mut clients: Vec<_> = (0..40).map(|_| host.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    host.now += IDLE * 3;
    host.echo.run(host.now);
    assert_eq!(counts(&host), (40, 1, 0));
    assert_eq!(host.stats().bytes_sent, 5 * 40);
    assert_eq!(read_to_the_end(&mut silent), b"");
    for client in &mut clients {
        client.read_exact(&mut [0; 5]).unwrap();
    }
    host.advance(just_before(IDLE));
    assert_eq!(host.active(), 40, "the echo did not count as progress");
}

/// The peer reads again while the process is paused.
#[test]
fn pending_bytes_are_sent_before_the_write_timeout_is_checked() {
    let mut host = Host::new(small_buffers().write_timeout(WRITE));
    let (mut client, _) = write_blocked(&mut host);
    let mut in_flight = vec![0; usize::try_from(host.stats().bytes_sent).unwrap()];
    client.read_exact(&mut in_flight).unwrap();
    // The event that the socket is writable is not passed to the engine.
    loop {
        host.poll.poll(&mut host.events, Some(LIMIT)).unwrap();
        assert!(!host.events.is_empty(), "no room");
        if host.events.iter().any(Event::is_writable) {
            break;
        }
    }
    host.now += WRITE * 3;
    host.echo.run(host.now);
    assert_eq!(counts(&host), (1, 0, 0));
}

/// A read at 41.7 ms and a check at 50 ms of the engine's clock: rounded down, they are 9 ms apart.
#[test]
fn rounding_to_milliseconds_does_not_shorten_timeouts() {
    let timeout = Duration::from_millis(9);
    let mut host = Host::new(config().idle_timeout(timeout));
    host.echo.run(host.now);
    let mut client = host.connect();
    host.now += Duration::from_micros(41_700);
    echo(&mut host, &mut client);
    host.advance(Duration::from_micros(8_300));
    assert_eq!(host.active(), 1, "closed after 8.3 ms");
    host.advance(tolerance(timeout));
    assert_eq!(host.active(), 0);
}

/// The write timeout starts at the last byte that was read or written.
#[cfg(target_os = "linux")]
#[test]
fn write_timeout_of_a_spliced_stream_starts_at_its_last_read() {
    use crate::common::{Directory, config_at, run_until_idle};
    use std::os::unix::net::UnixStream;

    let timeout = Duration::from_secs(5);
    let directory = Directory::new();
    let path = directory.file("socket");
    let endpoint = config_at(&format!("unix:{}", path.display()));
    let mut host = Host::new(endpoint.write_timeout(timeout));
    let mut client = accept(&mut host, || UnixStream::connect(&path).unwrap());
    client.set_nonblocking(true).unwrap();

    // Sends enough at once to be spliced, and reads all of it back.
    let (mut sent, mut read, mut buffer) = (0, 0, vec![0; 1024 * 1024]);
    let start = Instant::now();
    while host.stats().bytes_zero_copied == 0 {
        assert!(start.elapsed() < LIMIT, "never spliced");
        sent += client.write(&buffer).unwrap_or(0);
        run_until_idle(&mut host);
        read += client.read(&mut buffer).unwrap_or(0);
    }
    while read < sent {
        run_until_idle(&mut host);
        read += client.read(&mut buffer).unwrap_or(0);
    }

    // The client does not read any more, until a splice into the socket would block.
    let piece = random_bytes(20_000);
    loop {
        assert!(start.elapsed() < LIMIT, "never blocked");
        host.now += Duration::from_secs(4);
        client.write_all(&piece).unwrap();
        run_until_idle(&mut host);
        let stats = host.stats();
        assert_eq!(stats.active, 1, "closed in the turn that read");
        if stats.bytes_received > stats.bytes_sent {
            break;
        }
    }
    host.advance(just_before(timeout));
    assert_eq!(host.active(), 1, "closed too early");
    host.advance(tolerance(timeout));
    assert_eq!(counts(&host), (0, 0, 1));
}

#[test]
fn server_closes_idle_connections() {
    let timeout = Duration::from_millis(300);
    let server = Running::start(config().idle_timeout(timeout));
    let bytes = random_bytes(100_000);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    let start = Instant::now();
    assert_eq!(read_to_the_end(&mut server.connect()), b"");
    assert!(start.elapsed() >= timeout);
    assert_eq!(server.stop().closed.idle_timeout, 1);
}
