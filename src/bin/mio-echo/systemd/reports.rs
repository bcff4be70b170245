//! When the supervisor is told what, and how.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::{debug, warn};

/// How often at the most the supervisor is told how many are connected.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// After how long that is tried again for which the supervisor had no room, and which it needs.
const RETRY: Duration = Duration::from_millis(100);

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
            self.ready_at = (!is_told).then_some(now + RETRY);
        }
    }

    pub(super) fn stopping(&mut self) {
        self.tell("STOPPING=1");
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
                    interval.min(RETRY)
                };
                self.watchdog = Some((interval, now + pause));
            }
            _ => {}
        }
    }

    /// Says whether it could be told. The service goes on without, as it does without a log.
    fn tell(&mut self, message: &str) -> bool {
        let sent = self.outlet.send(message);
        if let Err(error) = &sent {
            debug!("the supervisor could not be told {message:?}: {error}");
        }
        sent.is_ok()
    }
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
        let name = env::var_os("NOTIFY_SOCKET")?;
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
    let is_of_another = env::var_os("WATCHDOG_PID")
        .is_some_and(|pid| pid != OsString::from(std::process::id().to_string()));
    if is_of_another {
        return None;
    }
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros)).filter(|limit| !limit.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given, or has no room.
    #[derive(Default)]
    struct Paper {
        messages: Vec<String>,
        is_full: bool,
    }

    impl Outlet for Paper {
        fn send(&mut self, message: &str) -> io::Result<()> {
            if self.is_full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.messages.push(message.to_owned());
            Ok(())
        }
    }

    fn reports(watchdog: Option<Duration>) -> (Reports<Paper>, impl Fn(u64) -> Instant) {
        let mut reports = Reports::new(Paper::default(), watchdog);
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
        reports.outlet.is_full = true;
        reports.report(3, at(1000));
        assert_eq!(reports.timeout(at(1000)), Some(RETRY));
        reports.outlet.is_full = false;
        reports.report(3, at(1100));
        assert_eq!(reports.outlet.messages, ["WATCHDOG=1"]);
        reports.report(3, at(2000));
        assert_eq!(reports.outlet.messages[1..], ["STATUS=3 connections"]);
    }

    #[test]
    fn that_the_service_listens_is_told_in_any_case() {
        let (mut reports, at) = reports(None);
        reports.outlet.is_full = true;
        reports.ready(at(0));
        assert_eq!(reports.timeout(at(0)), Some(RETRY));
        reports.outlet.is_full = false;
        for _ in 0..2 {
            reports.report(0, at(100));
            assert_eq!(reports.outlet.messages, ["READY=1\nSTATUS=0 connections"]);
            assert_eq!(reports.timeout(at(100)), None);
        }
    }
}
