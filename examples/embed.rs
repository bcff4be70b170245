//! An application with a loop of its own, in which the echo service is a guest:
//! `cargo run --example embed`, then `nc 127.0.0.1 7007` to be echoed, and `nc 127.0.0.1 7008` for
//! a line about how the echo is doing. A timer of the application's prints the same from time to
//! time.

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use mio_echo::{Config, Echo, Stats};

/// The application's own token, below those of the echo.
const REPORTER: Token = Token(0);
const FIRST_ECHO: Token = Token(1);

const TICK: Duration = Duration::from_secs(10);

const USAGE: &str = "usage: embed [ECHO_ADDRESS [REPORT_ADDRESS]], such as 127.0.0.1:7007";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == ["--help"] {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.len() > 2 || arguments.iter().any(|it| it.starts_with('-')) {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    }
    let mut arguments = arguments.into_iter();
    let mut address = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let echo_address = address("127.0.0.1:7007");
    let report_address: SocketAddr = address("127.0.0.1:7008").parse()?;

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);

    // The application's own.
    let mut reporter = TcpListener::bind(report_address)?;
    poll.registry()
        .register(&mut reporter, REPORTER, Interest::READABLE)?;
    let mut next_tick = Instant::now() + TICK;

    // The guest.
    let config = Config::builder().endpoint(echo_address.parse()?).build()?;
    let mut echo = Echo::new(config, poll.registry(), FIRST_ECHO)?;
    println!(
        "echo on {}, reports on tcp://{}",
        echo.endpoints()[0],
        reporter.local_addr()?
    );

    let mut now = Instant::now();
    loop {
        // Sleep until whichever is first: an event, the guest's deadline, or our own.
        let until_tick = next_tick.saturating_duration_since(now);
        let timeout = echo
            .timeout(now)
            .map_or(until_tick, |timeout| timeout.min(until_tick));
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        now = Instant::now();

        for event in &events {
            if echo.owns(event.token()) {
                echo.handle(event);
            } else {
                report(&reporter, &echo.stats());
            }
        }
        echo.run(now);

        if now >= next_tick {
            println!("{}", line(&echo.stats()));
            // Accepts clients for which accept failed when the event came: it is not announced again.
            report(&reporter, &echo.stats());
            next_tick = now + TICK;
        }
    }
}

/// Sends the report to each client in the queue.
fn report(listener: &TcpListener, stats: &Stats) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => drop(answer(stream, stats)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return eprintln!("no report: {error}"),
        }
    }
}

/// Sends a line, which always fits into an empty send buffer, and closes.
fn answer(mut stream: TcpStream, stats: &Stats) -> io::Result<()> {
    writeln!(stream, "{}", line(stats))?;
    stream.shutdown(Shutdown::Write)?;
    // The request is ignored, but it is read: closing with unread input would reset the connection.
    // What arrives after this read is the risk of the client.
    stream.read(&mut [0; 4096]).map(drop)
}

fn line(stats: &Stats) -> String {
    format!(
        "{} connected now, {} so far, {} bytes echoed",
        stats.active, stats.accepted, stats.bytes_sent
    )
}
