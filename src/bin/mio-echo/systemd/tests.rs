//! Notifications over a fake socket, at times that the tests choose.

use super::*;

use std::cell::RefCell;
use std::rc::Rc;

use nix::errno::Errno;

/// Keeps the messages, or fails.
#[derive(Default)]
struct FakeSocket {
    messages: Vec<String>,
    error: Option<Errno>,
}

struct Fixture {
    socket: Rc<RefCell<FakeSocket>>,
    notifier: Notifier,
    start: Instant,
}

impl Fixture {
    /// READY is due at 0 ms.
    fn new(watchdog: Option<Duration>) -> Self {
        let socket = Rc::new(RefCell::new(FakeSocket::default()));
        let shared = Rc::clone(&socket);
        let send = move |message: &str| {
            let mut socket = shared.borrow_mut();
            if let Some(errno) = socket.error {
                return Err(errno.into());
            }
            socket.messages.push(message.to_owned());
            Ok(())
        };
        let start = Instant::now();
        Fixture {
            socket,
            notifier: Notifier::new(Box::new(send), watchdog, start),
            start,
        }
    }

    /// After READY.
    fn ready(watchdog: Option<Duration>) -> Self {
        let mut fixture = Fixture::new(watchdog);
        let messages = fixture.run(0, 0);
        assert_eq!(messages[0], "READY=1\nSTATUS=0 connections");
        fixture
    }

    fn fail_with(&self, error: Option<Errno>) {
        self.socket.borrow_mut().error = error;
    }

    /// Runs at this time with as many open connections. Returns the messages that were sent.
    fn run(&mut self, millis: u64, active: usize) -> Vec<String> {
        let now = self.start + Duration::from_millis(millis);
        self.notifier.run(active, now);
        std::mem::take(&mut self.socket.borrow_mut().messages)
    }

    /// In milliseconds after the start.
    fn due(&self) -> Option<u128> {
        let due = self.notifier.due()?;
        Some(due.duration_since(self.start).as_millis())
    }
}

#[test]
fn status_is_sent_after_a_change_at_most_once_a_second() {
    let mut fixture = Fixture::ready(None);
    for (millis, active, status, due) in [
        (0, 0, None, None),
        (1, 1, None, Some(1000)),
        (2, 0, None, None),
        (500, 7, None, Some(1000)),
        (999, 8, None, Some(1000)),
        (1000, 9, Some("STATUS=9 connections"), None),
        (1001, 8, None, Some(2000)),
        (1002, 9, None, None),
        (9000, 9, None, None),
        (9001, 1, Some("STATUS=1 connections"), None),
        (9002, 2, None, Some(10_001)),
    ] {
        let messages = fixture.run(millis, active);
        assert_eq!(messages, Vec::from_iter(status), "after {millis} ms");
        assert_eq!(fixture.due(), due, "after {millis} ms");
    }
}

#[test]
fn watchdog_is_pinged_at_half_its_timeout() {
    let mut fixture = Fixture::new(Some(Duration::from_secs(2)));
    for (millis, is_pinged, due) in [
        (0, true, 1000),
        (1, false, 1000),
        (999, false, 1000),
        (1000, true, 2000),
        (5000, true, 6000),
    ] {
        let messages = fixture.run(millis, 0);
        let pings = messages.iter().filter(|it| *it == "WATCHDOG=1").count();
        assert_eq!(pings, usize::from(is_pinged), "after {millis} ms");
        assert_eq!(fixture.due(), Some(due), "after {millis} ms");
    }
}

#[test]
fn message_that_does_not_fit_is_sent_later() {
    let mut fixture = Fixture::ready(Some(Duration::from_secs(2)));
    fixture.fail_with(Some(Errno::EAGAIN));
    assert!(fixture.run(1000, 3).is_empty());
    assert_eq!(fixture.due(), Some(1100));
    fixture.fail_with(None);
    assert!(fixture.run(1099, 3).is_empty(), "it is retried too early");
    assert_eq!(fixture.run(1100, 3), ["STATUS=3 connections", "WATCHDOG=1"]);
}

#[test]
fn ready_is_sent_until_it_succeeds_and_once() {
    let mut fixture = Fixture::new(None);
    fixture.fail_with(Some(Errno::EAGAIN));
    assert!(fixture.run(0, 0).is_empty());
    assert_eq!(fixture.due(), Some(100));
    fixture.fail_with(None);
    assert_eq!(fixture.run(100, 0), ["READY=1\nSTATUS=0 connections"]);
    assert!(fixture.run(200, 0).is_empty());
    assert_eq!(fixture.due(), None);
}

#[test]
fn busy_service_manager_is_retried_and_not_given_up() {
    for errno in [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM] {
        let mut fixture = Fixture::ready(Some(Duration::from_secs(20)));
        fixture.fail_with(Some(errno));
        for millis in (10_000..12_000).step_by(100) {
            assert!(fixture.run(millis, 0).is_empty());
            assert_eq!(fixture.due(), Some(u128::from(millis + 100)));
        }
        assert!(!fixture.notifier.is_dead, "{errno}");
        fixture.fail_with(None);
        assert_eq!(fixture.run(12_000, 0), ["WATCHDOG=1"]);
    }
}

#[test]
fn full_queue_of_the_service_manager_is_retried_before_the_watchdog_expires() {
    for timeout in [100, 400, 2000, 3000] {
        let mut fixture = Fixture::ready(Some(Duration::from_millis(timeout)));
        fixture.fail_with(Some(Errno::EAGAIN));
        // A status is due too.
        let mut retries = 0;
        loop {
            // In whole milliseconds, which are rounded down.
            let now = u64::try_from(fixture.due().unwrap()).unwrap() + 1;
            if now >= timeout {
                break;
            }
            fixture.run(now, 1);
            retries += 1;
        }
        assert!(retries >= 4, "{retries} within {timeout} ms");
    }
}

#[test]
fn dead_socket_is_given_up() {
    for errno in [Errno::ENOENT, Errno::ECONNREFUSED, Errno::EACCES] {
        let mut fixture = Fixture::ready(Some(Duration::from_secs(20)));
        fixture.fail_with(Some(errno));
        fixture.run(10_000, 0);
        assert!(fixture.notifier.is_dead, "{errno}");
    }
}
