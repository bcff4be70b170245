//! `Echo` as a guest, in a loop of the test's own, at times that the test makes up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};
use mio_echo::{ConfigBuilder, Echo};

use super::LIMIT;

pub const FIRST: Token = Token(10);

/// A loop, with an echo in it, and a clock that the test moves. Each test file has it do what it
/// wants of it.
pub struct Host {
    pub poll: Poll,
    pub events: Events,
    pub echo: Echo,
    pub now: Instant,
    /// What `settle` asserts of the pending bytes after each run.
    pub max_buffered: usize,
}

impl Host {
    pub fn new(config: ConfigBuilder) -> (Self, SocketAddr) {
        let host = Host::at(config);
        let address = host.echo.endpoints()[0].address().unwrap();
        (host, address)
    }

    /// Also where the endpoint has no IP address.
    pub fn at(config: ConfigBuilder) -> Self {
        let poll = Poll::new().unwrap();
        let echo = Echo::new(config.build().unwrap(), poll.registry(), FIRST).unwrap();
        Host {
            poll,
            events: Events::with_capacity(16),
            echo,
            now: Instant::now(),
            max_buffered: usize::MAX,
        }
    }

    /// Waits for events and takes the echo's in. Gives those that are not the echo's.
    pub fn handle(&mut self) -> Vec<Event> {
        self.poll
            .poll(&mut self.events, Some(Duration::from_millis(10)))
            .unwrap();
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

    /// Turns until nothing happens, at the same time.
    pub fn settle(&mut self) {
        loop {
            self.handle();
            self.echo.run(self.now);
            let stats = self.echo.stats();
            assert!(stats.buffered <= self.max_buffered, "{stats:?}");
            let has_work = self.echo.timeout(self.now) == Some(Duration::ZERO);
            if self.events.is_empty() && !has_work {
                return;
            }
        }
    }

    pub fn run_until(&mut self, condition: impl Fn(&Echo) -> bool) {
        let start = Instant::now();
        while !condition(&self.echo) {
            assert!(start.elapsed() < LIMIT, "in vain: {:?}", self.echo);
            self.handle();
            self.echo.run(self.now);
        }
    }
}
