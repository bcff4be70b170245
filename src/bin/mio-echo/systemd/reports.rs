//! When the supervisor is told what, and how.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::{debug, warn};
use nix::errno::Errno;

/// How often at the most the supervisor is told how many are connected.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// After how long that is tried again for which the supervisor had no room, and which it needs.
const RETRY: Duration = Duration::from_millis(100);

/// How many messages may fail in a row before the socket counts as dead, or its reader as busy.
const FAILURES_MAX: u32 = 5;

/// The shortest watchdog time that is accepted: the loop wakes up twice in it.
const WATCHDOG_MIN: Duration = Duration::from_millis(10);

/// How messages go out. The tests have one that may be full.
pub(super) trait Outlet {
    /// Sends a message, and does not wait.
    fn send(&mut self, message: &str) -> io::Result<()>;
}

/// What is told, and when the next of it is due.
pub(super) struct Reports<O> {
    outlet: O,
    /// When to say that the service listens, until that is said.
    ready_at: Option<Instant>,
    /// Between two signs of life, and when the next is due.
    watchdog: Option<(Duration, Instant)>,
    active: usize,
    told: usize,
    status_at: Option<Instant>,
    /// Messages that have failed since the last one that did not.
    failures: u32,
    is_given_up: bool,
}

impl<O: Outlet> Reports<O> {
    /// `watchdog` is for how long the loop may be silent before it is taken for dead.
    pub(super) fn new(outlet: O, watchdog: Option<Duration>) -> Self {
        Reports {
            outlet,
            ready_at: None,
            // The first is due at once.
            watchdog: watchdog.map(|limit| (limit / 2, Instant::now())),
            active: 0,
            told: 0,
            status_at: None,
            failures: 0,
            is_given_up: false,
        }
    }

    pub(super) fn ready(&mut self, now: Instant) {
        self.ready_at = Some(now);
        self.status_at = Some(now + STATUS_INTERVAL);
        self.say_ready(now);
    }

    fn say_ready(&mut self, now: Instant) {
        if self.ready_at.is_some_and(|at| at <= now) {
            let is_told = self.tell(&format!("READY=1\nSTATUS={}", status(0)));
            self.ready_at = (!is_told).then(|| now + self.retry_after(STATUS_INTERVAL));
        }
    }

    pub(super) fn stopping(&mut self) {
        self.tell("STOPPING=1");
    }

    /// Whether the supervisor's socket has turned out to be dead.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        let status_at = self.status_at.filter(|_| self.active != self.told);
        let ping_at = self.watchdog.map(|(_, at)| at);
        let next = [self.ready_at, status_at, ping_at]
            .into_iter()
            .flatten()
            .min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Tells what is due at `now`, when `active` connections are open.
    pub(super) fn report(&mut self, active: usize, now: Instant) {
        self.active = active;
        self.say_ready(now);
        self.give_a_sign_of_life(now);
        if active != self.told && self.status_at.is_none_or(|at| at <= now) {
            if self.tell(&format!("STATUS={}", status(active))) {
                self.told = active;
            }
            self.status_at = Some(now + STATUS_INTERVAL);
        }
    }

    fn give_a_sign_of_life(&mut self, now: Instant) {
        match self.watchdog {
            Some((interval, at)) if at <= now => {
                let is_told = self.tell("WATCHDOG=1");
                let pause = if is_told {
                    interval
                } else {
                    self.retry_after(interval)
                };
                self.watchdog = Some((interval, now + pause));
            }
            _ => {}
        }
    }

    /// Says whether it could be told. The service goes on without, as it does without a log.
    fn tell(&mut self, message: &str) -> bool {
        if self.is_given_up {
            return false;
        }
        let sent = self.outlet.send(message);
        match &sent {
            Ok(()) => self.failures = 0,
            Err(error) => self.note_failure(message, error),
        }
        sent.is_ok()
    }

    fn note_failure(&mut self, message: &str, error: &io::Error) {
        debug!("the supervisor could not be told {message:?}: {error}");
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX && !is_shortage(error) {
            warn!("NOTIFY_SOCKET is dead, no more messages are sent to the supervisor: {error}");
            self.is_given_up = true;
        }
    }

    /// When to send a message again that has failed and is sent every `interval` otherwise.
    fn retry_after(&self, interval: Duration) -> Duration {
        if self.failures < FAILURES_MAX {
            interval.min(RETRY)
        } else {
            interval
        }
    }
}

/// Whether a later message may get through: the supervisor is busy, or the system is short of memory.
/// To give up the watchdog then would get the service killed.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM))
}

fn status(active: usize) -> String {
    format!("{active} connections")
}

/// The supervisor's socket.
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl NotifySocket {
    /// `None` where nobody wants to be told, or where that cannot be done.
    pub(super) fn from_environment() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Self::to(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!("NOTIFY_SOCKET {} cannot be used: {error}", name.display());
                None
            }
        }
    }

    fn to(name: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(NotifySocket {
            socket,
            address: address(name)?,
        })
    }
}

impl Outlet for NotifySocket {
    fn send(&mut self, message: &str) -> io::Result<()> {
        // To the address each time: the supervisor may have opened another socket there.
        self.socket
            .send_to_addr(message.as_bytes(), &self.address)
            .map(drop)
    }
}

/// A path, or a name without a file (Linux).
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "android")]
        use std::os::android::net::SocketAddrExt;
        #[cfg(target_os = "linux")]
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// For how long the loop may be silent, where it is watched.
pub(super) fn watchdog() -> Option<Duration> {
    let micros = env::var_os("WATCHDOG_USEC")?;
    let is_of_another = env::var_os("WATCHDOG_PID")
        .is_some_and(|pid| pid != OsString::from(std::process::id().to_string()));
    if is_of_another {
        return None;
    }
    let limit = micros.to_str().and_then(|micros| micros.parse().ok());
    let limit = limit.map(Duration::from_micros);
    let accepted = limit.filter(|limit| *limit >= WATCHDOG_MIN);
    if accepted.is_none() {
        let least = WATCHDOG_MIN.as_micros();
        warn!(
            "WATCHDOG_USEC={} ignored: write a number of {least} or more",
            micros.display()
        );
    }
    accepted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given, or fails.
    #[derive(Default)]
    struct FakeSocket {
        messages: Vec<String>,
        error: Option<Errno>,
    }

    impl Outlet for FakeSocket {
        fn send(&mut self, message: &str) -> io::Result<()> {
            if let Some(errno) = self.error {
                return Err(errno.into());
            }
            self.messages.push(message.to_owned());
            Ok(())
        }
    }

    fn reports(watchdog: Option<Duration>) -> (Reports<FakeSocket>, impl Fn(u64) -> Instant) {
        let mut reports = Reports::new(FakeSocket::default(), watchdog);
        let start = Instant::now();
        reports.ready(start);
        reports.outlet.messages.clear();
        (reports, move |millis| start + Duration::from_millis(millis))
    }

    #[test]
    fn the_count_is_told_when_it_has_changed_and_once_a_second_at_the_most() {
        let (mut reports, at) = reports(None);
        for (millis, active, told, timeout) in [
            (0, 0, None, None),
            (1, 1, None, Some(999)),
            (2, 0, None, None),
            (500, 7, None, Some(500)),
            (999, 8, None, Some(1)),
            (1000, 9, Some("STATUS=9 connections"), None),
            (1001, 8, None, Some(999)),
            (1002, 9, None, None),
            (9000, 9, None, None),
            (9001, 1, Some("STATUS=1 connections"), None),
            (9002, 2, None, Some(999)),
        ] {
            reports.report(active, at(millis));
            let messages = std::mem::take(&mut reports.outlet.messages);
            assert_eq!(messages, Vec::from_iter(told), "after {millis} ms");
            let timeout = timeout.map(Duration::from_millis);
            assert_eq!(reports.timeout(at(millis)), timeout, "after {millis} ms");
        }
    }

    #[test]
    fn a_sign_of_life_is_due_at_half_the_limit() {
        let (mut reports, at) = reports(Some(Duration::from_secs(2)));
        for (millis, count, timeout) in [
            (1, 1, 1000),
            (2, 0, 999),
            (1000, 0, 1),
            (1001, 1, 1000),
            (5000, 1, 1000),
        ] {
            reports.report(0, at(millis));
            let messages = std::mem::take(&mut reports.outlet.messages);
            assert_eq!(messages, vec!["WATCHDOG=1"; count], "after {millis} ms");
            let timeout = Duration::from_millis(timeout);
            assert_eq!(reports.timeout(at(millis)), Some(timeout));
        }
    }

    /// Nobody is waited for, nothing is asked for without a pause, and nothing is forgotten.
    #[test]
    fn what_the_supervisor_has_no_room_for_is_told_later() {
        let (mut reports, at) = reports(Some(Duration::from_secs(2)));
        reports.outlet.error = Some(Errno::EAGAIN);
        reports.report(3, at(1000));
        assert_eq!(reports.timeout(at(1000)), Some(RETRY));
        reports.outlet.error = None;
        reports.report(3, at(1100));
        assert_eq!(reports.outlet.messages, ["WATCHDOG=1"]);
        reports.report(3, at(2000));
        assert_eq!(reports.outlet.messages[1..], ["STATUS=3 connections"]);
    }

    #[test]
    fn that_the_service_listens_is_told_in_any_case() {
        let (mut reports, at) = reports(None);
        reports.outlet.error = Some(Errno::EAGAIN);
        reports.ready(at(0));
        assert_eq!(reports.timeout(at(0)), Some(RETRY));
        reports.outlet.error = None;
        for _ in 0..2 {
            reports.report(0, at(100));
            assert_eq!(reports.outlet.messages, ["READY=1\nSTATUS=0 connections"]);
            assert_eq!(reports.timeout(at(100)), None);
        }
    }

    #[test]
    fn a_busy_supervisor_is_not_given_up_and_does_not_keep_the_loop_awake() {
        for errno in [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM] {
            let (mut reports, at) = reports(Some(Duration::from_secs(20)));
            reports.outlet.error = Some(errno);
            for millis in [100, 200, 300, 400, 500, 10_500, 20_500] {
                reports.report(0, at(millis));
                let is_retried = millis < 500;
                let timeout = Duration::from_millis(if is_retried { 100 } else { 10_000 });
                assert_eq!(reports.timeout(at(millis)), Some(timeout));
            }
            assert!(!reports.is_given_up(), "{errno}");
            reports.outlet.error = None;
            reports.report(0, at(30_500));
            assert_eq!(reports.outlet.messages, ["WATCHDOG=1"]);
        }
    }

    #[test]
    fn a_dead_socket_is_given_up_after_failures_in_a_row() {
        let (mut reports, at) = reports(Some(Duration::from_secs(20)));
        for (millis, error, is_given_up) in [
            (100, Some(Errno::ECONNREFUSED), false),
            (200, Some(Errno::ECONNREFUSED), false),
            (300, None, false),
            (10_300, Some(Errno::ENOENT), false),
            (10_400, Some(Errno::ENOENT), false),
            (10_500, Some(Errno::ENOENT), false),
            (10_600, Some(Errno::ENOENT), false),
            (10_700, Some(Errno::ENOENT), true),
        ] {
            reports.outlet.error = error;
            reports.report(0, at(millis));
            assert_eq!(reports.is_given_up(), is_given_up, "after {millis} ms");
        }
    }
}
