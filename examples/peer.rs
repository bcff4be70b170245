//! A client that misbehaves: it does not read, reads slowly, half-closes, resets, sends urgent data or
//! only occupies connections.
//!
//! `cargo run --example peer -- --no-read 127.0.0.1:7007` sends without reading for three seconds, and
//! prints one line: how much was sent and received, and how the connection ended. Beside it, the trace
//! of the service (`-vv`) shows what the service does about that, and `mio-echo ping` shows that its
//! other clients notice nothing.
//!
//! The socket is non-blocking, so that no call waits beyond the time that `--for` sets. Instead of
//! waiting for events this client tries again after a millisecond. A service must not do that.
//!
//! Exit status: 0 the line has been printed, 1 no connection, 2 the arguments are wrong.

use std::env;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::SockRef;

const USAGE: &str = "\
usage: peer BEHAVIOUR [--for TIME] HOST:PORT

  --no-read      sends as much as it can, and reads nothing
  --slow RATE    sends as much as it can, and reads RATE bytes a second, such as 1KiB/s
  --half-close   sends until the buffers are full, sends the end of the stream, then reads
  --reset        sends 64 KiB, reads nothing, and resets the connection
  --urgent       sends TCP urgent data between other bytes, and reads it all back
  --hold N       opens N connections, and sends nothing
  --for TIME     ends after TIME, such as 5s or 500ms; the default is 3s
  --help         prints this text
";

/// What is sent.
static BYTES: [u8; 65_536] = [b'x'; 65_536];

/// How long a call that would block is put off.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
enum Behaviour {
    NoRead,
    /// Bytes a second.
    Slow(u64),
    HalfClose,
    Reset,
    Urgent,
    Hold(usize),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (behaviour, time, address) = match parse(arguments.into_iter()) {
        Ok(parsed) => parsed,
        Err(problem) => {
            eprintln!("peer: {problem}; see peer --help");
            return ExitCode::from(2);
        }
    };
    match run(behaviour, time, &address) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peer: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Behaviour, Duration, String), String> {
    let (mut behaviour, mut time, mut address) = (None, Duration::from_secs(3), None);
    while let Some(argument) = arguments.next() {
        let chosen = match &*argument {
            "--no-read" => Behaviour::NoRead,
            "--slow" => Behaviour::Slow(value(&argument, arguments.next(), rate)?),
            "--half-close" => Behaviour::HalfClose,
            "--reset" => Behaviour::Reset,
            "--urgent" => Behaviour::Urgent,
            "--hold" => Behaviour::Hold(value(&argument, arguments.next(), |n| n.parse().ok())?),
            "--for" => {
                time = value(&argument, arguments.next(), duration)?;
                continue;
            }
            other if other.starts_with('-') || address.is_some() => {
                return Err(format!("unknown argument '{other}'"));
            }
            _ => {
                address = Some(argument);
                continue;
            }
        };
        if behaviour.replace(chosen).is_some() {
            return Err(format!("'{argument}' is a second behaviour"));
        }
    }
    let behaviour = behaviour.ok_or("no behaviour")?;
    Ok((behaviour, time, address.ok_or("no address")?))
}

fn value<T>(
    option: &str,
    text: Option<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("{option} needs a value"))?;
    parse(&text).ok_or_else(|| format!("'{text}' is no value for {option}"))
}

/// `100`, `1KiB` or `2MiB`, with or without `/s`.
fn rate(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// `5s` or `500ms`, up to an hour.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let number = number.parse().ok()?;
    let time = match unit {
        "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        _ => return None,
    };
    (time <= Duration::from_secs(3600)).then_some(time)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|it: char| !it.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// Returns the line to print.
fn run(behaviour: Behaviour, time: Duration, address: &str) -> io::Result<String> {
    let deadline = Instant::now() + time;
    if let Behaviour::Hold(count) = behaviour {
        return hold(count, deadline, address);
    }
    let mut peer = Peer::connect(address, deadline)?;
    let end = match behaviour {
        Behaviour::NoRead => peer.send_without_reading(),
        Behaviour::Slow(rate) => peer.read_slowly(rate),
        Behaviour::HalfClose => peer.half_close(),
        Behaviour::Reset => peer.reset(),
        Behaviour::Urgent => peer.send_urgent(),
        Behaviour::Hold(_) => Err(End::StillOpen),
    };
    let end = end.err().unwrap_or(End::StillOpen);
    let (sent, received) = (peer.sent, peer.received);
    Ok(format!("{sent} bytes sent, {received} received, {end}"))
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// A read returned 0: the end of the stream.
    ClosedByService,
    ResetByService,
    ResetByPeer,
    /// When the time was over.
    StillOpen,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // After a reset has been reported once, further calls return EPIPE.
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::ResetByService,
            _ => End::Failed(error),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::ClosedByService => f.write_str("closed by the service"),
            End::ResetByService => f.write_str("reset by the service"),
            End::ResetByPeer => f.write_str("reset by this peer"),
            End::StillOpen => f.write_str("still open when the time was over"),
            End::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

struct Peer {
    stream: TcpStream,
    deadline: Instant,
    sent: u64,
    received: u64,
}

impl Peer {
    fn connect(address: &str, deadline: Instant) -> io::Result<Self> {
        let mut addresses = address.to_socket_addrs()?;
        let address = addresses.next().ok_or(ErrorKind::NotFound)?;
        // A timeout of zero is an error.
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = TcpStream::connect_timeout(&address, left.max(PAUSE))?;
        stream.set_nonblocking(true)?;
        Ok(Peer {
            stream,
            deadline,
            sent: 0,
            received: 0,
        })
    }

    fn send_without_reading(&mut self) -> Result<(), End> {
        loop {
            if self.send(&BYTES)? == 0 {
                self.pause()?;
            }
        }
    }

    fn read_slowly(&mut self, rate: u64) -> Result<(), End> {
        let start = Instant::now();
        let mut buffer = vec![0; 65_536];
        loop {
            self.send(&BYTES)?;
            let due = u128::from(rate) * start.elapsed().as_millis() / 1000;
            let due = due.saturating_sub(self.received.into());
            let size = usize::try_from(due).map_or(buffer.len(), |due| due.min(buffer.len()));
            // A read into an empty buffer would return 0, as at the end of the stream.
            if size > 0 {
                self.receive(&mut buffer[..size])?;
            }
            self.pause()?;
        }
    }

    fn half_close(&mut self) -> Result<(), End> {
        while self.send(&BYTES)? > 0 {
            self.check_time()?;
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.read_to_the_end()
    }

    fn reset(&mut self) -> Result<(), End> {
        self.send(&BYTES)?;
        // With a linger time of 0, close(2) sends a reset instead of the end of the stream.
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Err(End::ResetByPeer)
    }

    fn send_urgent(&mut self) -> Result<(), End> {
        self.send(b"before")?;
        // send(2) with MSG_OOB: the urgent mark is behind this byte.
        self.sent += SockRef::from(&self.stream).send_out_of_band(b"!")? as u64;
        self.send(b"after")?;
        self.stream.shutdown(Shutdown::Write)?;
        self.read_to_the_end()
    }

    fn read_to_the_end(&mut self) -> Result<(), End> {
        let mut buffer = vec![0; 65_536];
        loop {
            if self.receive(&mut buffer)? == 0 {
                self.pause()?;
            }
            self.check_time()?;
        }
    }

    /// Returns 0 if the call would block.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let count = or_zero(self.stream.write(bytes))?;
        self.sent += count as u64;
        Ok(count)
    }

    /// Returns 0 if the call would block.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, End> {
        match self.stream.read(buffer) {
            Ok(0) => Err(End::ClosedByService),
            result => {
                let count = or_zero(result)?;
                self.received += count as u64;
                Ok(count)
            }
        }
    }

    fn pause(&self) -> Result<(), End> {
        sleep(PAUSE);
        self.check_time()
    }

    fn check_time(&self) -> Result<(), End> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err(End::StillOpen)
        }
    }
}

fn or_zero(result: io::Result<usize>) -> Result<usize, End> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        result => Ok(result?),
    }
}

/// Opens connections, and reads what comes, until the time is over or the service has closed them all.
fn hold(count: usize, deadline: Instant, address: &str) -> io::Result<String> {
    let mut open = Vec::new();
    for _ in 0..count {
        open.push(Peer::connect(address, deadline)?);
    }
    let (mut received, mut ended) = (0, Vec::new());
    while !open.is_empty() && Instant::now() < deadline {
        sleep(PAUSE);
        open.retain_mut(|peer| {
            let result = peer.receive(&mut [0; 4096]);
            received += *result.as_ref().unwrap_or(&0);
            result.map_err(|end| ended.push(end)).is_ok()
        });
    }
    let closed = |end: &&End| matches!(end, End::ClosedByService);
    let closed = ended.iter().filter(closed).count();
    Ok(format!(
        "{count} connections held, 0 bytes sent, {received} received, {closed} closed by the service, \
         {} reset or failed, {} still open when the time was over",
        ended.len() - closed,
        open.len()
    ))
}
