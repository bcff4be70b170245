//! systemd: socket activation, and notification of the service manager.
//!
//! The crate `sd-notify` is not used, because its calls can block, and the loop must not.

use std::env;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use log::{debug, warn};
use mio_echo::BoundSocket;

use crate::cli::CliError;

/// The sockets passed by systemd, each with a label for the log; see `sd_listen_fds(3)`.
///
/// To be called before the program opens anything: a descriptor that is announced but missing would
/// be mistaken for whatever is opened with its number.
#[cfg(target_os = "linux")]
pub(crate) fn sockets() -> Result<Vec<(String, BoundSocket)>, CliError> {
    let unusable = |label: String, error: io::Error| {
        CliError::failure(format!("cannot serve at {label}: {error}"))
    };
    if let Some(label) = missing_descriptor() {
        return Err(unusable(label, nix::errno::Errno::EBADF.into()));
    }
    let malformed = |_| CliError::failure("LISTEN_PID and LISTEN_FDS are no numbers: unset them");
    let descriptors = sd_listen_fds::get().map_err(malformed)?;
    let sockets = (3..).zip(descriptors).map(|(number, (name, descriptor))| {
        let label = label(number, name.as_deref());
        match BoundSocket::new(descriptor.into_std()) {
            Ok(socket) => Ok((label, socket)),
            Err(error) => Err(unusable(label, error)),
        }
    });
    sockets.collect()
}

/// The first announced descriptor that is not open. It must not become an `OwnedFd`, and there can be
/// too many of them: `LISTEN_FDS` can be any number. Without /proc nothing is checked.
#[cfg(target_os = "linux")]
fn missing_descriptor() -> Option<String> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let is_own = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| is_own)?;
    let open = std::path::Path::new("/proc/self/fd");
    let is_missing = |it: &usize| open.join(it.to_string()).symlink_metadata().is_err();
    let number = (3..).take(count as usize).find(is_missing)?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let label = label(number, names.split(':').nth(number - 3));
    open.exists().then_some(label)
}

#[cfg(target_os = "linux")]
fn label(number: usize, name: Option<&str>) -> String {
    let name = name.filter(|name| !name.is_empty());
    let name = name.map_or(String::new(), |name| format!(" ({name})"));
    format!("descriptor {number}{name}")
}

/// There is no socket activation on other systems.
#[cfg(not(target_os = "linux"))]
pub(crate) fn sockets() -> Result<Vec<(String, BoundSocket)>, CliError> {
    Ok(Vec::new())
}

/// Minimum time between two status messages.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a message that could not be sent.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// After this many failures in a row the socket is dead, or the pauses grow to `STATUS_INTERVAL`.
const MAX_FAILURES: u32 = 5;

/// The shortest accepted watchdog timeout.
const MIN_WATCHDOG: Duration = Duration::from_millis(10);

/// Sends one message without blocking.
type Send = Box<dyn FnMut(&str) -> io::Result<()>>;

/// Notifies the service manager of readiness, open connections, the watchdog and the end; see
/// `sd_notify(3)`.
pub(crate) struct Notifier {
    send: Send,
    /// The interval of watchdog messages, and when the next one is due.
    watchdog: Option<(Duration, Instant)>,
    active: usize,
    /// `active` of the last status; `None` before READY. And when the next one may be sent.
    reported: Option<usize>,
    status_at: Instant,
    /// Failures since the last message that was sent.
    failures: u32,
    retry_at: Instant,
    /// Nothing is sent any more, and the loop need not wake up for it.
    pub(crate) is_dead: bool,
}

impl Notifier {
    /// `None` without `NOTIFY_SOCKET`.
    pub(crate) fn from_environment(now: Instant) -> Option<Self> {
        Some(Notifier::new(notify_socket()?, watchdog_timeout(), now))
    }

    fn new(send: Send, watchdog: Option<Duration>, now: Instant) -> Self {
        Notifier {
            send,
            watchdog: watchdog.map(|timeout| (timeout / 2, now)),
            active: 0,
            reported: None,
            status_at: now,
            failures: 0,
            retry_at: now,
            is_dead: false,
        }
    }

    /// When `run` has something to send, if nothing changes until then.
    pub(crate) fn due(&self) -> Option<Instant> {
        let status = (self.reported != Some(self.active)).then_some(self.status_at);
        let ping = self.watchdog.map(|(_, at)| at);
        let first = [status, ping].into_iter().flatten().min()?;
        Some(first.max(self.retry_at))
    }

    /// Sends what is due. To be called by the loop after each turn: if the loop hangs, the watchdog
    /// messages stop, and the service manager restarts the service.
    pub(crate) fn run(&mut self, active: usize, now: Instant) {
        self.active = active;
        if self.retry_at <= now {
            self.send_status(now);
            self.ping_watchdog(now);
        }
    }

    pub(crate) fn stopping(&mut self, now: Instant) {
        self.send("STOPPING=1", now);
    }

    fn send_status(&mut self, now: Instant) {
        let active = self.active;
        if self.reported == Some(active) || now < self.status_at {
            return;
        }
        let ready = self.reported.map_or("READY=1\n", |_| "");
        if self.send(&format!("{ready}STATUS={active} connections"), now) {
            self.reported = Some(active);
            self.status_at = now + STATUS_INTERVAL;
        }
    }

    fn ping_watchdog(&mut self, now: Instant) {
        if let Some((interval, at)) = self.watchdog
            && at <= now
            && self.send("WATCHDOG=1", now)
        {
            self.watchdog = Some((interval, now + interval));
        }
    }

    /// Returns whether the message was sent. The service goes on without its service manager.
    fn send(&mut self, message: &str, now: Instant) -> bool {
        if self.is_dead {
            return false;
        }
        match (self.send)(message) {
            Ok(()) => self.failures = 0,
            Err(error) => self.count_failure(message, &error, now),
        }
        self.failures == 0
    }

    fn count_failure(&mut self, message: &str, error: &io::Error, now: Instant) {
        debug!("cannot notify systemd of {message:?}: {error}");
        self.failures = self.failures.saturating_add(1);
        let is_slow = self.failures >= MAX_FAILURES;
        let pause = if is_slow {
            STATUS_INTERVAL
        } else {
            RETRY_INTERVAL
        };
        // The first failure leaves half of the watchdog timeout: it has to be enough for some retries.
        let longest = self.watchdog.map(|(interval, _)| interval / 4);
        self.retry_at = now + longest.map_or(pause, |longest| pause.min(longest));
        if is_slow && !is_temporary(error) {
            warn!("NOTIFY_SOCKET is dead, no more notifications are sent: {error}");
            self.is_dead = true;
        }
    }
}

/// The queue of the service manager is full, or the system is out of memory. If the watchdog messages
/// ended then, the service would be killed.
fn is_temporary(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) {
        return true;
    }
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

#[cfg(unix)]
fn notify_socket() -> Option<Send> {
    let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
    let open = || {
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let address = unix_address(&name)?;
        // Not connected: the service manager may have opened another socket there since.
        let send = move |message: &str| socket.send_to_addr(message.as_bytes(), &address).map(drop);
        Ok(Box::new(send) as Send)
    };
    let warn = |error: &_| warn!("NOTIFY_SOCKET {} cannot be used: {error}", name.display());
    io::Result::inspect_err(open(), warn).ok()
}

/// A path, or on Linux `@` and an abstract name.
#[cfg(unix)]
fn unix_address(name: &std::ffi::OsStr) -> io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::net::SocketAddr;

    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

#[cfg(not(unix))]
fn notify_socket() -> Option<Send> {
    None
}

/// `WATCHDOG_USEC`, unless `WATCHDOG_PID` names another process.
fn watchdog_timeout() -> Option<Duration> {
    let micros = env::var_os("WATCHDOG_USEC")?;
    let pid = env::var_os("WATCHDOG_PID");
    if pid.is_some_and(|pid| pid != *std::process::id().to_string()) {
        return None;
    }
    let parsed = micros.to_str().and_then(|text| text.parse().ok());
    let timeout = parsed.map(Duration::from_micros);
    let accepted = timeout.filter(|timeout| *timeout >= MIN_WATCHDOG);
    if accepted.is_none() {
        let (text, min) = (micros.display(), MIN_WATCHDOG.as_micros());
        warn!("WATCHDOG_USEC={text} ignored: write a number of {min} or more");
    }
    accepted
}

#[cfg(test)]
mod tests;
