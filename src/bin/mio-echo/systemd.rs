//! systemd: socket activation, and notification of the service manager.
//!
//! The crate `sd-notify` is not used, because its calls can block, and the loop must not.

use std::env;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use log::{debug, warn};
use mio_echo::BoundSocket;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::cli::CliError;
use crate::raise_nofile_limit;

/// The sockets passed by systemd, each with a label for the log; see `sd_listen_fds(3)`.
///
/// To be called before the program opens anything: a descriptor that is announced but missing would
/// be mistaken for whatever is opened with its number.
pub(crate) fn sockets() -> Result<Vec<(String, BoundSocket)>, CliError> {
    let unusable = |number, error: io::Error| {
        CliError::failure(format!("cannot serve at {}: {error}", label(number)))
    };
    if let Some(number) = missing_descriptor() {
        return Err(unusable(number, io::Error::other("it is not open")));
    }
    let malformed = |_| CliError::failure("LISTEN_PID and LISTEN_FDS are no numbers: unset them");
    let descriptors = sd_listen_fds::get().map_err(malformed)?;
    let sockets = (3..).zip(descriptors).map(|(number, (_, descriptor))| {
        // A socket of any kind: this type converts on every system.
        let socket = BoundSocket::new(TcpListener::from(descriptor));
        let socket = socket.map_err(|error| unusable(number, error))?;
        Ok((label(number), socket))
    });
    sockets.collect()
}

/// The first announced descriptor that is not open. It must not become an `OwnedFd`, and there can be
/// too many of them: `LISTEN_FDS` can be any number. Without /proc only that is checked: a descriptor is
/// below the limit on open files.
fn missing_descriptor() -> Option<usize> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let is_own = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| is_own)?;
    let open = std::path::Path::new("/proc/self/fd");
    let is_missing = |it: &usize| open.join(it.to_string()).symlink_metadata().is_err();
    let mut numbers = (3..).take(count as usize);
    if open.exists() {
        return numbers.find(is_missing);
    }
    let limit = raise_nofile_limit()?.max(3);
    (limit < (count as usize).saturating_add(3)).then_some(limit)
}

/// The number of a descriptor, with its name in `LISTEN_FDNAMES`.
fn label(number: usize) -> String {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    match names.split(':').nth(number - 3) {
        Some(name) if !name.is_empty() => format!("descriptor {number} ({name})"),
        _ => format!("descriptor {number}"),
    }
}

/// Minimum time between two status messages.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a message that could not be sent.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest accepted watchdog timeout, in microseconds.
const MIN_WATCHDOG_USEC: u64 = 10_000;

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
    /// No message that is due is sent before.
    retry_at: Instant,
    /// Nothing can be sent any more.
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
        self.send_status(now);
        self.ping_watchdog(now);
    }

    pub(crate) fn stopping(&mut self, now: Instant) {
        self.send("STOPPING=1", now);
    }

    fn send_status(&mut self, now: Instant) {
        let active = self.active;
        if self.reported == Some(active) || now < self.status_at.max(self.retry_at) {
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
            && at.max(self.retry_at) <= now
            && self.send("WATCHDOG=1", now)
        {
            self.watchdog = Some((interval, now + interval));
        }
    }

    /// Returns whether the message was sent. The service goes on without its service manager.
    fn send(&mut self, message: &str, now: Instant) -> bool {
        let Err(error) = (self.send)(message) else {
            return true;
        };
        debug!("cannot notify systemd of {message:?}: {error}");
        // The first failure leaves half of the watchdog timeout: it has to be enough for some retries.
        let longest = self.watchdog.map(|(interval, _)| interval / 4);
        self.retry_at = now + longest.unwrap_or(RETRY_INTERVAL).min(RETRY_INTERVAL);
        // Other errors are temporary, such as a full queue or a lack of memory. If the watchdog messages
        // ended then, the service would be killed.
        self.is_dead = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused
        );
        if self.is_dead {
            warn!("NOTIFY_SOCKET is dead, no more notifications are sent: {error}");
        }
        false
    }
}

fn notify_socket() -> Option<Send> {
    let name = env::var("NOTIFY_SOCKET").ok().filter(|it| !it.is_empty())?;
    let open = || {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        // A path, or after `@` an abstract name, which a zero byte marks; see unix(7).
        let address = match name.strip_prefix('@') {
            Some(name) => SockAddr::unix(format!("\0{name}"))?,
            None => SockAddr::unix(&name)?,
        };
        // Not connected: the service manager may have opened another socket there since.
        let send = move |message: &str| socket.send_to(message.as_bytes(), &address).map(drop);
        Ok(Box::new(send) as Send)
    };
    let warn = |error: &_| warn!("NOTIFY_SOCKET {name} cannot be used: {error}");
    io::Result::inspect_err(open(), warn).ok()
}

/// `WATCHDOG_USEC`, unless `WATCHDOG_PID` names another process.
fn watchdog_timeout() -> Option<Duration> {
    let text = env::var("WATCHDOG_USEC").ok()?;
    let pid = env::var_os("WATCHDOG_PID");
    if pid.is_some_and(|pid| pid != *std::process::id().to_string()) {
        return None;
    }
    let micros = text.parse().ok();
    let micros = micros.filter(|micros| *micros >= MIN_WATCHDOG_USEC);
    if micros.is_none() {
        warn!("WATCHDOG_USEC={text} ignored: write a number of {MIN_WATCHDOG_USEC} or more");
    }
    micros.map(Duration::from_micros)
}

#[cfg(all(test, unix))]
mod tests;
