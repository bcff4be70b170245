//! Connections in which nothing moves are closed, in time and not before; at times that the tests
//! make up, so that nobody waits.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::Host;
use crate::common::{
    self, config, connect, echo_to_the_end, noise, read_to_the_end, send_what_fits,
};
use mio_echo::ConfigBuilder;

const IDLE: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(2);

/// The engine counts in milliseconds.
const TICK: Duration = Duration::from_millis(1);

fn just_before(limit: Duration) -> Duration {
    limit.saturating_sub(TICK)
}

/// How much later than its limit a connection may be closed: 1 % or 50 ms.
fn slack(limit: Duration) -> Duration {
    (limit / 100).max(Duration::from_millis(50)) + TICK * 2
}

fn late(limit: Duration) -> Duration {
    limit + slack(limit)
}

fn host(config: ConfigBuilder) -> Host {
    Host::new(config).0
}

impl Host {
    fn connect(&mut self) -> TcpStream {
        let active = self.echo.stats().active;
        let client = connect(self.echo.endpoints()[0].address().unwrap());
        self.run_until(|echo| echo.stats().active == active + 1);
        client
    }

    fn echo(&mut self, client: &mut TcpStream) {
        let sent = self.echo.stats().bytes_sent;
        client.write_all(b"hello").unwrap();
        self.run_until(|echo| echo.stats().bytes_sent == sent + 5);
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).unwrap();
    }

    /// A client that sends, and does not read, until bytes are unsent; and how many it has sent.
    fn stalled(&mut self) -> (TcpStream, usize) {
        let mut client = self.connect();
        let sent = self.stall(&mut client);
        (client, sent)
    }

    fn stall(&mut self, client: &mut TcpStream) -> usize {
        let start = Instant::now();
        let bytes = noise(64 * 1024);
        let mut sent = 0;
        loop {
            let more = send_what_fits(client, &bytes);
            self.settle();
            sent += more;
            let stats = self.echo.stats();
            if more == 0 && stats.bytes_received > stats.bytes_sent {
                return sent;
            }
            assert!(start.elapsed() < common::LIMIT, "{stats:?}");
        }
    }

    /// The client reads so many bytes, and the server sends them meanwhile.
    fn take(&mut self, client: &mut TcpStream, count: usize) {
        let start = Instant::now();
        let mut buffer = vec![0; 1024 * 1024];
        let mut taken = 0;
        client.set_nonblocking(true).unwrap();
        while taken < count {
            assert!(start.elapsed() < common::LIMIT, "{taken} of {count}");
            self.settle();
            while let Ok(more) = client.read(&mut buffer) {
                taken += more;
            }
        }
        client.set_nonblocking(false).unwrap();
    }

    fn go_on(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    fn active(&self) -> usize {
        self.echo.stats().active
    }
}

#[test]
fn who_is_idle_is_closed_in_time_and_not_before() {
    for limit in [
        Duration::from_millis(20),
        IDLE,
        Duration::from_secs(24 * 3600),
    ] {
        let mut host = host(config().idle_timeout(limit));
        let mut client = host.connect();
        host.go_on(just_before(limit));
        assert_eq!(host.active(), 1, "too soon");
        host.now += slack(limit);
        assert_eq!(host.echo.timeout(host.now), Some(Duration::ZERO), "asleep");
        host.go_on(Duration::ZERO);
        assert_eq!(
            (host.active(), host.echo.stats().closed.idle_timeout),
            (0, 1)
        );
        assert_eq!(host.echo.timeout(host.now), None);
        assert_eq!(read_to_the_end(&mut client), b"");
    }
}

#[test]
fn each_byte_begins_the_idle_time_anew() {
    let mut host = host(config().idle_timeout(IDLE));
    let mut client = host.connect();
    for _ in 0..5 {
        host.go_on(just_before(IDLE));
        host.echo(&mut client);
    }
    host.go_on(just_before(IDLE));
    assert_eq!(host.active(), 1);
    host.go_on(slack(IDLE));
    assert_eq!(host.active(), 0);
}

#[test]
fn one_sleeps_exactly_until_the_next_limit() {
    let mut host = host(config().idle_timeout(IDLE));
    let _clients = [host.connect(), host.connect()];
    let timeout = host.echo.timeout(host.now).unwrap();
    assert!(IDLE <= timeout && timeout <= late(IDLE), "{timeout:?}");
    host.go_on(timeout);
    assert_eq!(
        (host.active(), host.echo.stats().closed.idle_timeout),
        (0, 2)
    );
}

#[test]
fn who_takes_nothing_is_closed_in_time_and_not_before() {
    for buffer_size in [10_000, 64 * 1024] {
        let mut host = host(config().write_timeout(STALL).buffer_size(buffer_size));
        let (client, _) = host.stalled();
        let mut other = host.connect();
        host.go_on(just_before(STALL));
        assert_eq!(host.active(), 2, "too soon");
        host.go_on(slack(STALL));
        assert_eq!(
            (host.active(), host.echo.stats().closed.write_timeout),
            (1, 1)
        );
        host.echo(&mut other);
        drop(client);
    }
}

#[test]
fn who_takes_some_is_not_closed() {
    let mut host = host(config().write_timeout(STALL));
    let (mut client, sent) = host.stalled();
    let mut taken = 0;
    let mut buffer = vec![0; 1024 * 1024];
    while taken < sent {
        host.go_on(just_before(STALL));
        assert_eq!(host.active(), 1, "after {taken} bytes");
        taken += client.read(&mut buffer).unwrap();
        host.settle();
    }
    // Nothing is unsent any more, and idle it may be.
    host.go_on(late(STALL) * 10);
    assert_eq!(host.active(), 1);
    host.echo(&mut client);
}

#[test]
fn a_second_stall_is_limited_as_the_first() {
    let mut host = host(config().write_timeout(STALL));
    let (mut client, sent) = host.stalled();
    host.take(&mut client, sent);
    host.go_on(late(STALL));
    host.stall(&mut client);
    host.go_on(just_before(STALL));
    assert_eq!(host.active(), 1);
    // There may have been a little room that nobody told of, and so another time to wait.
    for _ in 0..3 {
        host.go_on(late(STALL));
    }
    assert_eq!(
        (host.active(), host.echo.stats().closed.write_timeout),
        (0, 1)
    );
}

#[test]
fn zero_is_for_ever() {
    let never = config().idle_timeout(Duration::ZERO);
    let mut host = host(never.write_timeout(Duration::ZERO));
    let _idle = host.connect();
    let _stalled = host.stalled();
    assert_eq!(host.echo.timeout(host.now), None);
    host.go_on(Duration::from_secs(100 * 24 * 3600));
    assert_eq!(host.active(), 2);
}

#[test]
fn the_idle_time_goes_for_the_stalled_too() {
    let both = config().idle_timeout(STALL).write_timeout(IDLE);
    let mut host = host(both);
    let _stalled = host.stalled();
    host.go_on(late(STALL));
    assert_eq!(
        (host.active(), host.echo.stats().closed.idle_timeout),
        (0, 1)
    );
}

#[test]
fn places_of_those_who_are_gone_are_not_mistaken() {
    let mut host = host(config().idle_timeout(IDLE));
    for _ in 0..20 {
        let client = host.connect();
        host.go_on(IDLE / 5);
        drop(client);
        host.run_until(|echo| echo.stats().active == 0);
        assert_eq!(host.echo.timeout(host.now), None, "waits for nobody");
    }
    assert_eq!(host.echo.stats().closed.idle_timeout, 0);
}

#[test]
fn limits_hold_while_draining() {
    let draining = config().idle_timeout(STALL).drain_timeout(IDLE);
    let mut host = host(draining);
    let _client = host.connect();
    host.echo.shutdown(host.now);
    host.go_on(late(STALL));
    assert!(host.echo.is_finished());
    assert_eq!(
        (
            host.echo.stats().closed.idle_timeout,
            host.echo.stats().closed.aborted
        ),
        (1, 0)
    );
}

/// The connection goes from one state of the shutdown to the next in the turn in which its idle
/// timeout passes.
#[test]
fn idle_timeout_at_the_end_of_the_drain_time_ends_the_shutdown() {
    let (sender, receiver) = channel();
    // In a thread that is left behind if the engine never returns.
    thread::spawn(move || {
        let timeouts = config().idle_timeout(STALL).drain_timeout(STALL);
        let mut host = host(timeouts);
        let mut clients: Vec<_> = (0..20).map(|_| host.connect()).collect();
        host.echo.shutdown(host.now);
        host.go_on(STALL * 2);
        host.go_on(STALL);
        assert!(host.echo.is_finished());
        for client in &mut clients {
            assert_eq!(read_to_the_end(client), b"");
        }
        sender.send(()).unwrap();
    });
    receiver.recv_timeout(common::LIMIT).expect("it hangs");
}

/// As after a pause of the process, or a poll that reported some of the events only.
#[test]
fn waiting_data_is_echoed_before_a_timeout_is_judged() {
    let mut host = host(config().idle_timeout(IDLE));
    let mut silent = host.connect();
    let mut clients: Vec<_> = (0..40).map(|_| host.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    host.now += IDLE * 3;
    host.echo.run(host.now);
    let stats = host.echo.stats();
    assert_eq!(
        (stats.active, stats.closed.idle_timeout),
        (40, 1),
        "{stats:?}"
    );
    assert_eq!(stats.bytes_sent, 5 * 40);
    assert_eq!(read_to_the_end(&mut silent), b"");
    for client in &mut clients {
        let mut echoed = [0; 5];
        client.read_exact(&mut echoed).unwrap();
    }
    host.go_on(just_before(IDLE));
    assert_eq!(host.active(), 40, "the echo was no progress");
}

/// The peer reads again while the process is paused.
#[test]
fn pending_bytes_are_sent_before_a_write_timeout_is_judged() {
    let mut host = host(config().write_timeout(STALL));
    let (mut client, _) = host.stalled();
    let mut buffer = vec![0; 16 * 1024 * 1024];
    assert!(client.read(&mut buffer).unwrap() > 0);
    host.now += STALL * 3;
    host.echo.run(host.now);
    let stats = host.echo.stats();
    assert_eq!(
        (stats.active, stats.closed.write_timeout),
        (1, 0),
        "{stats:?}"
    );
}

/// A read at 41.7 ms of the engine's clock, a check at 50 ms.
#[test]
fn timeouts_are_not_cut_to_whole_milliseconds() {
    let limit = Duration::from_millis(9);
    let mut host = host(config().idle_timeout(limit));
    host.echo.run(host.now);
    let mut client = host.connect();
    host.now += Duration::from_micros(41_700);
    host.echo(&mut client);
    host.go_on(Duration::from_micros(8_300));
    assert_eq!(host.active(), 1, "closed after 8.3 ms");
    host.go_on(slack(limit));
    assert_eq!(host.active(), 0);
}

/// The write timeout begins with the last byte that moved, and one that was read has moved.
#[cfg(unix)]
#[test]
fn write_timeout_of_a_spliced_stream_begins_with_its_last_read() {
    use std::os::unix::net::UnixStream;

    const LIMIT: Duration = Duration::from_secs(5);

    let directory = common::Directory::new();
    let path = directory.file("socket");
    let endpoint = common::config_at(&format!("unix:{}", path.display()));
    let mut host = Host::at(endpoint.write_timeout(LIMIT));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    host.run_until(|echo| echo.stats().active == 1);

    // Enough at once to be spliced from then on, all of which is read back.
    let (mut sent, mut read, mut buffer) = (0, 0, vec![0; 1024 * 1024]);
    let start = Instant::now();
    while host.echo.stats().bytes_zero_copied == 0 {
        assert!(start.elapsed() < common::LIMIT, "never spliced");
        sent += client.write(&buffer).unwrap_or(0);
        host.settle();
        read += client.read(&mut buffer).unwrap_or(0);
    }
    while read < sent {
        host.settle();
        read += client.read(&mut buffer).unwrap_or(0);
    }

    // From now on the client does not read. Some time there is no room for what was spliced in.
    let piece = noise(20_000);
    loop {
        assert!(start.elapsed() < common::LIMIT, "never blocked");
        host.now += Duration::from_secs(4);
        client.write_all(&piece).unwrap();
        host.settle();
        let stats = host.echo.stats();
        assert_eq!(stats.active, 1, "closed in the turn that read");
        if stats.bytes_received > stats.bytes_sent {
            break;
        }
    }
    host.go_on(just_before(LIMIT));
    assert_eq!(host.active(), 1, "closed too early");
    host.go_on(slack(LIMIT));
    assert_eq!(
        (host.active(), host.echo.stats().closed.write_timeout),
        (0, 1)
    );
}

#[test]
fn a_server_closes_idle_peers_by_itself() {
    let limit = Duration::from_millis(300);
    let server = common::Running::start(config().idle_timeout(limit));
    let bytes = noise(100_000);
    assert!(echo_to_the_end(server.connect(), &bytes) == bytes);
    let start = Instant::now();
    assert_eq!(read_to_the_end(&mut server.connect()), b"");
    assert!(start.elapsed() >= limit);
    assert_eq!(server.stop().closed.idle_timeout, 1);
}
