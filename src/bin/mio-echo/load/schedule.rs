//! The schedule of the open loop: when messages are due, and what wakes the loop then.

use std::io;

use mio::{Registry, Token};

/// In nanoseconds: a message that is sent later than this after it was due counts as late.
const LATE: u64 = 1_000_000;

pub(crate) struct Schedule {
    rate: u64,
    begin: u64,
    /// Sent messages, and those that were late although there was room for them.
    pub(crate) sent: u64,
    pub(crate) late: u64,
    /// A message is due, but there is no room for it: the service is behind, not the sender.
    pub(crate) is_blocked: bool,
    timer: Timer,
}

impl Schedule {
    pub(crate) fn begin(
        rate: u32,
        begin: u64,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        Ok(Schedule {
            rate: rate.into(),
            begin,
            sent: 0,
            late: 0,
            is_blocked: false,
            timer: Timer::start(1_000_000_000 / u64::from(rate), registry, token)?,
        })
    }

    /// When the next message is due, in nanoseconds since the start of the program.
    pub(crate) fn due(&self) -> u64 {
        let (seconds, rest) = (self.sent / self.rate, self.sent % self.rate);
        self.begin + seconds * 1_000_000_000 + rest * 1_000_000_000 / self.rate
    }

    /// Counts the message that was due then as sent now.
    pub(crate) fn advance(&mut self, due: u64, now: u64) {
        self.late += u64::from(now - due > LATE && !self.is_blocked);
        self.sent += 1;
    }

    /// Messages that are due until then and not sent.
    pub(crate) fn backlog(&self, until: u64) -> u64 {
        let time = until.saturating_sub(self.begin);
        let (seconds, rest) = (time / 1_000_000_000, time % 1_000_000_000);
        let due = seconds * self.rate + (rest * self.rate).div_ceil(1_000_000_000);
        due.saturating_sub(self.sent)
    }

    /// Handles an event of the timer.
    pub(crate) fn tick(&self) {
        self.timer.tick();
    }

    /// When poll has to return, if the timer does not wake it.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        if self.is_blocked {
            None
        } else {
            self.timer.wakes_before(self.due())
        }
    }
}

/// A timer with a finer resolution than the milliseconds of poll(2): a descriptor that is readable
/// at each tick.
#[cfg(target_os = "linux")]
struct Timer {
    descriptor: nix::sys::timerfd::TimerFd,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// The shortest interval in nanoseconds. More ticks would cost more CPU than they save.
    const SHORTEST: u64 = 20_000;

    fn start(interval: u64, registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::{AsFd, AsRawFd};
        use std::time::Duration;

        use mio::{Interest, unix::SourceFd};
        use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let tick = Duration::from_nanos(interval.max(Self::SHORTEST));
        // The first message is due now. A time of zero would turn the timer off.
        let at_once = Duration::from_nanos(1);
        let ticks = Expiration::IntervalDelayed(at_once.into(), tick.into());
        timer.set(ticks, TimerSetTimeFlags::empty())?;
        let descriptor = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Timer { descriptor: timer })
    }

    /// Reads the timer, so that it announces the next tick; see `timerfd_create(2)`.
    fn tick(&self) {
        // Neither an empty read nor the number of ticks matters: the clock decides what is due.
        let _ = self.descriptor.wait();
    }

    #[expect(clippy::unused_self, reason = "elsewhere it matters")]
    fn wakes_before(&self, _: u64) -> Option<u64> {
        None
    }
}

/// Other systems have no such timer: in the last two milliseconds before a message is due, the loop
/// does not sleep.
#[cfg(not(target_os = "linux"))]
struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn start(_: u64, _: &Registry, _: Token) -> io::Result<Self> {
        Ok(Timer)
    }

    #[expect(clippy::unused_self, reason = "there is none")]
    fn tick(&self) {}

    #[expect(clippy::unused_self, reason = "there is none")]
    fn wakes_before(&self, due: u64) -> Option<u64> {
        Some(due.saturating_sub(2_000_000))
    }
}
