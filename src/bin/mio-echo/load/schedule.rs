//! The open loop's schedule: when which message is due, and what wakes the loop then.

use std::io;

use mio::{Registry, Token};

/// A message is late when it is sent this long after it was due: what can be told from the answers.
const LATE: u64 = 1_000_000;

pub(crate) struct Pace {
    rate: u64,
    begin: u64,
    /// How many messages were sent, and how many of them late, though there was room for them.
    pub(crate) sent: u64,
    pub(crate) late: u64,
    /// Something is due that there is no room for: the service is behind, not the sender.
    pub(crate) is_held_up: bool,
    timer: Timer,
}

impl Pace {
    pub(crate) fn begin(
        rate: u32,
        begin: u64,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        Ok(Pace {
            rate: rate.into(),
            begin,
            sent: 0,
            late: 0,
            is_held_up: false,
            timer: Timer::start(1_000_000_000 / u64::from(rate), registry, token)?,
        })
    }

    /// When the next message is due, in nanoseconds since the beginning.
    pub(crate) fn due(&self) -> u64 {
        let (seconds, rest) = (self.sent / self.rate, self.sent % self.rate);
        self.begin + seconds * 1_000_000_000 + rest * 1_000_000_000 / self.rate
    }

    /// Notes that the message which was due then is sent now.
    pub(crate) fn advance(&mut self, due: u64, now: u64) {
        self.late += u64::from(now - due > LATE && !self.is_held_up);
        self.sent += 1;
    }

    /// How many are due until then, and not sent.
    pub(crate) fn backlog(&self, until: u64) -> u64 {
        let time = until.saturating_sub(self.begin);
        let (seconds, rest) = (time / 1_000_000_000, time % 1_000_000_000);
        let due = seconds * self.rate + (rest * self.rate).div_ceil(1_000_000_000);
        due.saturating_sub(self.sent)
    }

    /// The timer has woken the loop.
    pub(crate) fn tick(&self) {
        self.timer.tick();
    }

    /// Up to when poll may sleep, where the timer does not wake it.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        if self.is_held_up {
            None
        } else {
            self.timer.wakes_before(self.due())
        }
    }
}

/// A timer with more than the milliseconds of poll: a descriptor that is readable at each tick.
#[cfg(target_os = "linux")]
struct Timer {
    descriptor: nix::sys::timerfd::TimerFd,
}

#[cfg(target_os = "linux")]
impl Timer {
    /// More ticks would take more time than they save.
    const SHORTEST: u64 = 20_000;

    fn start(interval: u64, registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::{AsFd, AsRawFd};
        use std::time::Duration;

        use mio::{Interest, unix::SourceFd};
        use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let tick = Duration::from_nanos(interval.max(Self::SHORTEST));
        let ticks = Expiration::Interval(tick.into());
        timer.set(ticks, TimerSetTimeFlags::empty())?;
        let descriptor = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Timer { descriptor: timer })
    }

    /// Linux lets a timer tick on when it has been read; see `timerfd_create(2)`.
    fn tick(&self) {
        // There may be nothing to read. Nor does it matter how many ticks there were: the clock
        // says what is due.
        let _ = self.descriptor.wait();
    }

    #[expect(clippy::unused_self, reason = "elsewhere it matters")]
    fn wakes_before(&self, _: u64) -> Option<u64> {
        None
    }
}

/// None here: in the last two milliseconds before a message is due, the loop does not sleep.
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
