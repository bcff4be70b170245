//! `mio-echo ping`: ping(8) for echo services.
//!
//! An event loop with one socket, signals and a timer. Pings are sent when they are due, whether or
//! not earlier ones were answered, and neither sending nor receiving blocks the other.
//!
//! - `options`: the arguments
//! - `transport`: messages over a non-blocking socket
//! - `in_flight`: matches answers to pings
//! - `counters`: the statistics

mod counters;
mod in_flight;
mod options;
mod transport;

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use mio_echo::Endpoint;

use self::counters::Counters;
use self::in_flight::{Answer, InFlight};
pub(crate) use self::options::Options;
use self::transport::Transport;
use crate::arguments::print;
use crate::cli::CliError;
use crate::logging::print_error;
use crate::signals::Signals;
use crate::socket::poll_once;

const SOCKET: Token = Token(0);
const SIGNALS: Token = Token(1);

/// Returns whether everything came back as it was sent.
pub(crate) fn run(options: Options, is_quiet: bool) -> Result<bool, CliError> {
    let endpoints = options.endpoints()?;
    let text = options.endpoint.clone();
    let mut pinger = Pinger::connect(options, is_quiet, &endpoints)
        .map_err(|error| CliError::failure(format!("{text}: {error}")))?;
    let started = Instant::now();
    let end = pinger.run();
    let printed = pinger.print_statistics(started.elapsed());
    // Reports the first error only: if nothing can be printed, both have failed.
    end.and(printed)
        .map_err(|error| CliError::failure(format!("{text}: {error}")))?;
    Ok(pinger.counters.is_clean())
}

struct Pinger {
    options: Options,
    is_quiet: bool,
    /// The address that accepted the connection.
    endpoint: Endpoint,
    poll: Poll,
    transport: Transport,
    signals: Signals,
    is_stopped: bool,
    in_flight: InFlight,
    counters: Counters,
    /// When the next ping is due, and when ping stops waiting for answers after the last one.
    due: Instant,
    deadline: Instant,
    /// The kind of the last reported error, so that it is not reported for each ping.
    last_error: Option<ErrorKind>,
    /// The error after which nothing more can be sent.
    failure: Option<io::Error>,
}

impl Pinger {
    /// The longest wait for an answer before the next ping, with an interval of 0.
    const FLOOD_INTERVAL: Duration = Duration::from_millis(10);

    /// Tries the addresses of a host in the order of the resolver, each for the timeout.
    fn connect(options: Options, is_quiet: bool, endpoints: &[Endpoint]) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let mut failure = ErrorKind::NotFound.into();
        for endpoint in endpoints {
            let (size, timeout) = (options.size(), options.timeout);
            match Transport::connect(endpoint, &mut poll, SOCKET, size, timeout) {
                Ok(transport) => {
                    return Pinger::new(options, is_quiet, endpoint.clone(), poll, transport);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn new(
        options: Options,
        is_quiet: bool,
        endpoint: Endpoint,
        poll: Poll,
        transport: Transport,
    ) -> io::Result<Self> {
        let now = Instant::now();
        // Not earlier: while ping connects, a signal has its default action and ends it.
        let mut signals = Signals::new()?;
        signals.catch_stops()?;
        signals.register(poll.registry(), SIGNALS)?;
        Ok(Pinger {
            endpoint,
            signals,
            poll,
            is_stopped: false,
            in_flight: InFlight::new(transport.is_stream(), options.size()),
            transport,
            counters: Counters::new(),
            due: now,
            deadline: now,
            last_error: None,
            failure: None,
            is_quiet,
            options,
        })
    }

    /// Runs until all pings are sent or a signal arrives, and then until all answers have arrived
    /// or the timeout is over.
    fn run(&mut self) -> io::Result<()> {
        let (endpoint, size) = (&self.endpoint, self.options.size());
        print(format_args!("PING {endpoint} with {size} bytes"))?;
        let mut events = Events::with_capacity(8);
        while !self.is_over() {
            let timeout = self.timeout();
            poll_once(&mut self.poll, &mut events, timeout)?;
            for event in &events {
                match event.token() {
                    SIGNALS => self.is_stopped |= self.signals.pending().count() > 0,
                    _ => self.transport.take_event(event),
                }
            }
            // Receive first: the measured time runs until a message is read.
            self.receive()?;
            self.send()?;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn print_statistics(&self, elapsed: Duration) -> io::Result<()> {
        let (endpoint, summary) = (&self.endpoint, self.counters.summary(elapsed));
        print(format_args!(
            "--- {endpoint} ping statistics ---\n{summary}"
        ))
    }

    fn is_all_sent(&self) -> bool {
        self.is_stopped || self.options.count == Some(self.counters.sent)
    }

    fn is_over(&self) -> bool {
        self.is_all_sent() && (self.in_flight.missing() == 0 || self.deadline <= Instant::now())
    }

    /// Whether another ping can be sent, now or when it is due. If the peer of a stream does not
    /// read, pings wait here until the system has room in its buffers.
    fn has_room(&self) -> bool {
        !self.transport.is_sending() && !self.in_flight.is_full()
    }

    /// Time until the loop has something to do without an event; `None`: it waits for an event.
    fn timeout(&self) -> Option<Duration> {
        let until = if self.transport.is_readable() {
            return Some(Duration::ZERO);
        } else if self.is_all_sent() {
            self.deadline
        } else if self.has_room() {
            self.due
        } else {
            return None;
        };
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Sends the rest of a ping, or the next one if it is due.
    fn send(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if !self.is_all_sent() && self.has_room() && self.is_due(now) {
            let seq = self.in_flight.add(now);
            in_flight::fill(self.transport.next(), seq);
            self.counters.sent += 1;
            self.deadline = now + self.options.timeout;
            // After a delay the following pings are late too, instead of several at once.
            self.due = if self.options.interval.is_zero() {
                now + Self::FLOOD_INTERVAL
            } else {
                now.max(self.due + self.options.interval)
            };
        }
        match self.transport.send() {
            // Nothing more can be sent, but answers in flight can still be received: wait for them
            // as after the last ping.
            Err(error) if self.transport.is_stream() => {
                self.is_stopped = true;
                self.failure = Some(error);
                Ok(())
            }
            Err(error) => self.handle_error(error),
            Ok(()) => Ok(()),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.due || self.options.interval.is_zero() && self.in_flight.is_last_answered()
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.transport.receive() {
            Ok(None) => Ok(()),
            Ok(Some(message)) => {
                let size = message.len();
                let answer = self.in_flight.check(message, Instant::now());
                self.counters.count(&answer);
                self.report(size, &answer)
            }
            Err(error) => self.handle_error(error),
        }
    }

    /// An error of a connection is final. An error of a UDP socket belongs to an earlier datagram,
    /// reported by ICMP, such as `ECONNREFUSED`; the next one may arrive.
    fn handle_error(&mut self, error: io::Error) -> io::Result<()> {
        if self.transport.is_stream() {
            return Err(error);
        }
        if self.last_error != Some(error.kind()) {
            self.last_error = Some(error.kind());
            print_error(&format_args!("{}: {error}", self.options.endpoint));
        }
        Ok(())
    }

    fn report(&self, size: usize, answer: &Answer) -> io::Result<()> {
        if self.is_quiet {
            return Ok(());
        }
        let from = format!("{size} bytes from {}", self.endpoint);
        match answer {
            Answer::Intact {
                seq,
                time,
                is_duplicate,
            } => {
                let time = time.as_secs_f64() * 1e3;
                let mark = if *is_duplicate { " (DUP!)" } else { "" };
                print(format_args!("{from}: seq={seq} time={time:.3} ms{mark}"))
            }
            Answer::Corrupt { seq, what } => match seq {
                Some(seq) => print(format_args!("{from}: seq={seq} corrupted, {what}")),
                None => print(format_args!("{from}: corrupted, {what}")),
            },
        }
    }
}
