//! An `Echo` in the event loop of a test, with a clock that the test moves.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};
use mio_echo::{ConfigBuilder, Echo, Stats};

use super::{Engine, raise_nofile_limit, turn_until};

pub const FIRST_TOKEN: Token = Token(10);

/// An event loop that embeds an `Echo`.
pub struct Host {
    pub poll: Poll,
    pub events: Events,
    pub echo: Echo,
    pub now: Instant,
}

impl Host {
    pub fn new(config: ConfigBuilder) -> Self {
        raise_nofile_limit();
        let poll = Poll::new().unwrap();
        let echo = Echo::new(config.build().unwrap(), poll.registry(), FIRST_TOKEN).unwrap();
        Host {
            poll,
            events: Events::with_capacity(16),
            echo,
            now: Instant::now(),
        }
    }

    /// The address of the first endpoint.
    pub fn address(&self) -> SocketAddr {
        self.echo.endpoints()[0].address().unwrap()
    }

    /// Waits for events for at most `timeout` and passes them to the echo. Returns the events of
    /// other sources.
    pub fn handle(&mut self, timeout: Duration) -> Vec<Event> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            // Without a handler too: after the process was stopped; see signal(7).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            polled => polled.unwrap(),
        }
        let mut others = Vec::new();
        for event in &self.events {
            if self.echo.owns(event.token()) {
                self.echo.handle(event);
            } else {
                others.push(event.clone());
            }
        }
        others
    }

    /// Passes events to the echo until it has work.
    pub fn handle_until_work(&mut self) {
        let start = Instant::now();
        while !self.has_work() {
            assert!(start.elapsed() < super::LIMIT, "no event");
            self.handle(Duration::from_millis(1));
        }
    }

    pub fn run_until(&mut self, mut condition: impl FnMut(&Echo) -> bool) {
        turn_until(self, |host| condition(&host.echo));
    }

    /// Connects a client to the first endpoint and accepts it.
    pub fn connect(&mut self) -> TcpStream {
        let address = self.address();
        super::accept(self, || super::connect(address))
    }

    /// Moves the clock and runs until idle.
    pub fn advance(&mut self, time: Duration) {
        self.now += time;
        super::run_until_idle(self);
    }

    pub fn active(&self) -> usize {
        self.echo.stats().active
    }
}

impl Engine for Host {
    fn turn(&mut self, timeout: Duration) {
        self.handle(timeout);
        self.echo.run(self.now);
    }

    fn stats(&self) -> Stats {
        self.echo.stats()
    }

    fn has_work(&self) -> bool {
        self.echo.timeout(self.now) == Some(Duration::ZERO)
    }
}
