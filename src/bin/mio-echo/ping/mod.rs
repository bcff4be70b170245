//! `mio-echo ping`: ping(8) for echo services.
//!
//! An event loop of one socket, the signals and the time: pings are sent when they are due, whether
//! or not the answers to earlier ones have come, and both go on while neither waits. What lies
//! where:
//!
//! - here: the loop
//! - `options`: the command line
//! - `transport`: messages over the socket, without ever waiting
//! - `window`: which answer belongs to which ping
//! - `tally`: the statistics
//! - in `../shared`, with another example: `arguments`, of which command lines are made; `socket`,
//!   which is TCP, UDP or Unix; `payload`, what a ping carries; `signals`, how the loop is told to
//!   end

mod counters;
mod in_flight;
mod options;
mod transport;

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use mio_echo::Endpoint;

use self::counters::Tally;
use self::in_flight::{Answer, Window};
pub(crate) use self::options::Options;
use self::transport::Transport;
use crate::arguments::print;
use crate::cli::{CliError, print_error};
use crate::signals::Signals;
use crate::socket::poll_once;

const SOCKET: Token = Token(0);
const SIGNALS: Token = Token(1);

/// Gives whether everything came back as it was sent.
pub(crate) fn run(options: Options, is_quiet: bool) -> Result<bool, CliError> {
    let endpoints = options.endpoints()?;
    let text = options.endpoint.clone();
    let mut pinger = Pinger::connect(options, is_quiet, &endpoints)
        .map_err(|error| CliError::failure(format!("{text}: {error}")))?;
    let started = Instant::now();
    let end = pinger.run();
    let sum_up = pinger.sum_up(started.elapsed());
    // One line, of what came first: where nothing can be printed, both failed of it.
    end.and(sum_up)
        .map_err(|error| CliError::failure(format!("{text}: {error}")))?;
    Ok(pinger.tally.is_clean())
}

struct Pinger {
    options: Options,
    is_quiet: bool,
    /// That one of the host's addresses which answered.
    endpoint: Endpoint,
    poll: Poll,
    transport: Transport,
    signals: Signals,
    is_stopped: bool,
    window: Window,
    tally: Tally,
    /// When the next ping is due, and when there is nothing more to wait for after the last.
    due: Instant,
    deadline: Instant,
    /// The network's latest complaint, so that it is not repeated for each ping.
    complaint: Option<ErrorKind>,
    /// Why nothing more can be sent.
    failure: Option<io::Error>,
}

impl Pinger {
    /// For how long at most the next waits for the last, with an interval of 0.
    const FLOOD_INTERVAL: Duration = Duration::from_millis(10);

    /// Tries the addresses of a host in the order in which the resolver gave them, as it meant them.
    fn connect(options: Options, is_quiet: bool, endpoints: &[Endpoint]) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let mut failure = ErrorKind::NotFound.into();
        for endpoint in endpoints {
            match Transport::connect(endpoint, &mut poll, SOCKET, options.size()) {
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
        // Not earlier: while ping connects, a signal ends it, as by default.
        let mut signals = Signals::new()?;
        signals.catch_stops()?;
        signals.register(poll.registry(), SIGNALS)?;
        Ok(Pinger {
            endpoint,
            signals,
            poll,
            is_stopped: false,
            window: Window::new(transport.is_stream(), options.size()),
            transport,
            tally: Tally::new(),
            due: now,
            deadline: now,
            complaint: None,
            failure: None,
            is_quiet,
            options,
        })
    }

    /// Pings until all are sent, or a signal comes, and then until all that is missing has come, or
    /// the time for that is over.
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
                    _ => self.transport.note(event),
                }
            }
            // First what has come: the time runs until it is looked at.
            self.receive()?;
            self.send()?;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn sum_up(&self, elapsed: Duration) -> io::Result<()> {
        let (endpoint, summary) = (&self.endpoint, self.tally.summary(elapsed));
        print(format_args!(
            "--- {endpoint} ping statistics ---\n{summary}"
        ))
    }

    fn is_all_sent(&self) -> bool {
        self.is_stopped || self.options.count == Some(self.tally.sent)
    }

    fn is_over(&self) -> bool {
        self.is_all_sent() && (self.window.missing() == 0 || self.deadline <= Instant::now())
    }

    /// Whether another ping can be sent, now or when it is due. While the peer of a stream does not
    /// read, what it is sent piles up: that must end somewhere, and ends with the system's buffers.
    fn has_room(&self) -> bool {
        !self.transport.is_sending() && !self.window.is_full()
    }

    /// How long the loop may sleep: until time alone brings something to do. `None`: for ever.
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
            let seq = self.window.add(now);
            in_flight::fill(self.transport.next(), seq);
            self.tally.sent += 1;
            self.deadline = now + self.options.timeout;
            // After a delay the next is late as well, and not several at once.
            self.due = if self.options.interval.is_zero() {
                now + Self::FLOOD_INTERVAL
            } else {
                now.max(self.due + self.options.interval)
            };
        }
        match self.transport.send() {
            // No more can be sent, but what is on its way back can be received: wait for that, as
            // after the last.
            Err(error) if self.transport.is_stream() => {
                self.is_stopped = true;
                self.failure = Some(error);
                Ok(())
            }
            Err(error) => self.tolerate(error),
            Ok(()) => Ok(()),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.due || self.options.interval.is_zero() && self.window.is_last_answered()
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.transport.receive() {
            Ok(None) => Ok(()),
            Ok(Some(message)) => {
                let size = message.len();
                let answer = self.window.judge(message, Instant::now());
                self.tally.count(&answer);
                self.report(size, &answer)
            }
            Err(error) => self.tolerate(error),
        }
    }

    /// Of a connection an error is the end. On a UDP socket it is news of some datagram sent
    /// earlier, brought by ICMP, such as that nobody listens; the next one may well arrive.
    fn tolerate(&mut self, error: io::Error) -> io::Result<()> {
        if self.transport.is_stream() {
            return Err(error);
        }
        if self.complaint != Some(error.kind()) {
            self.complaint = Some(error.kind());
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
