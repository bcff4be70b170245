//! Idle and write timeouts: which connections to check, and when.
//!
//! A timer for each connection would have to be moved with each byte. Instead a connection records
//! the time of its last progress, and a timer wheel holds its key in the slot in which the timeout
//! would expire without any further progress. When that slot is over, the connection has either
//! timed out, or its key goes into the slot of its new deadline. So a read costs one store, and a
//! connection costs one check per timeout (G. Varghese and T. Lauck, "Hashed and Hierarchical
//! Timing Wheels", 1987).

use std::mem;
use std::time::{Duration, Instant};

/// Milliseconds since the engine was created.
pub(crate) type Millis = u64;

/// The limits on the time without progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// No byte moves in either direction.
    Idle,
    /// The peer takes none of the pending bytes.
    Write,
}

/// The range that the write wheel sorts by age when there is no write timeout.
const WITHOUT_TIMEOUT: Duration = Duration::from_secs(600);

/// The clock of the engine, and the connections that can time out.
#[derive(Debug)]
pub(crate) struct Timers {
    start: Instant,
    now: Millis,
    /// One for each [`Timeout`]. That of `Write` is also the order in which connections are evicted, so
    /// that it is kept even without a write timeout.
    wheels: [Wheel; 2],
    /// When the next timeout can expire. Kept, because each turn of the loop asks for it twice.
    next_at: Option<Instant>,
    /// Keys whose slot is over. Which of them have timed out is still to be checked.
    pub(super) due: Vec<(usize, Timeout)>,
}

impl Timers {
    /// A timeout of zero never expires.
    pub(crate) fn new(idle: Duration, write: Duration, now: Instant) -> Self {
        Timers {
            start: now,
            now: 0,
            wheels: [idle, write].map(Wheel::new),
            next_at: None,
            due: Vec::new(),
        }
    }

    /// Updates the clock; never moves it backwards.
    pub(crate) fn set_now(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start);
        self.now = self.now.max(whole_milliseconds(elapsed));
    }

    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    /// The time of the clock, to a millisecond.
    pub(crate) fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// Replaces the timeouts. All keys are to be scheduled again.
    pub(crate) fn set_timeouts(&mut self, idle: Duration, write: Duration) {
        self.wheels = [idle, write].map(Wheel::new);
        self.next_at = None;
        self.due.clear();
    }

    /// When the next timeout can expire.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.next_at
    }

    fn update_next_at(&mut self) {
        let next = self.wheels.iter().filter_map(Wheel::wakes_at).min();
        self.next_at = next.map(|next| self.start + Duration::from_millis(next));
    }

    /// Puts a key into the slot of its deadline, unless it is in the wheel already: an earlier entry
    /// is checked in time, also one of a former connection with this key.
    pub(crate) fn schedule(&mut self, key: usize, timeout: Timeout, last_progress: Millis) {
        let wheel = &mut self.wheels[timeout as usize];
        if wheel.timeout.is_some() || timeout == Timeout::Write {
            wheel.schedule(key, last_progress, self.now);
            self.update_next_at();
        }
    }

    /// Moves all keys from the slots that are over to those that are due. Keys that have not timed out
    /// are to be scheduled again.
    pub(crate) fn collect_due(&mut self) {
        for timeout in [Timeout::Idle, Timeout::Write] {
            let keys = self.wheels[timeout as usize].take_due(self.now);
            let keys = keys.into_iter().map(|key| (key as usize, timeout));
            self.due.extend(keys);
        }
        self.update_next_at();
    }

    /// Whether the timeout has passed since the last progress.
    ///
    /// Both times are whole milliseconds, rounded down. Their difference can be almost 1 ms more than
    /// the time between them, so it has to be greater than the timeout.
    pub(crate) fn has_expired(&self, timeout: Timeout, last_progress: Millis) -> bool {
        let elapsed = self.now - last_progress;
        let limit = self.wheels[timeout as usize].timeout;
        limit.is_some_and(|limit| elapsed > limit)
    }

    /// The write-blocked connection whose last progress is longest ago, to the length of a slot.
    ///
    /// Takes keys out of the write wheel, the earliest first. `last_progress` gives the time of a
    /// key's last progress, or `None` if it is not write-blocked (any more).
    pub(crate) fn take_longest_blocked(
        &mut self,
        last_progress: impl Fn(usize) -> Option<Millis>,
    ) -> Option<usize> {
        let wheel = &mut self.wheels[Timeout::Write as usize];
        let key = wheel.take_longest_blocked(last_progress, self.now);
        self.update_next_at();
        key
    }
}

/// How many slots a wheel has. The deadline of a timeout is at most 102 slots ahead.
const SLOTS: u64 = 128;

/// The keys of one timeout. Slot numbers count from the start of the clock; a number modulo
/// [`SLOTS`] is its place.
#[derive(Debug)]
struct Wheel {
    /// In milliseconds; `None` if it never expires.
    timeout: Option<u64>,
    /// How far ahead keys are scheduled, in milliseconds.
    range: u64,
    /// Milliseconds of one slot, and so how late a connection is checked at most.
    slot_length: u64,
    slots: Box<[Vec<u32>]>,
    /// The slots that have keys, a bit for each place.
    occupied: u128,
    /// The keys that are in a slot, a bit for each.
    scheduled: Vec<u64>,
    /// The number of the first slot that has not been taken out.
    first: u64,
}

impl Wheel {
    fn new(timeout: Duration) -> Self {
        let expires = !timeout.is_zero();
        let range = milliseconds_rounded_up(if expires { timeout } else { WITHOUT_TIMEOUT });
        Wheel {
            timeout: expires.then_some(range),
            range,
            slot_length: (range / 100).max(50),
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: 0,
            // Room for 65,536 keys, so that the bits rarely move: that would leave holes in the heap.
            scheduled: Vec::with_capacity(1024),
            first: 0,
        }
    }

    /// When the first slot that has keys is over, if the loop has to run then.
    fn wakes_at(&self) -> Option<u64> {
        self.timeout?;
        Some((self.first_occupied()? + 1) * self.slot_length)
    }

    /// The slot in which the timeout has expired for certain.
    fn slot_of(&self, last_progress: u64) -> u64 {
        (last_progress + self.range + 1) / self.slot_length
    }

    fn schedule(&mut self, key: usize, last_progress: u64, now: u64) {
        let (word, bit) = (key / 64, 1 << (key % 64));
        if word >= self.scheduled.len() {
            self.scheduled.resize(word + 1, 0);
        }
        if self.scheduled[word] & bit != 0 {
            return;
        }
        self.scheduled[word] |= bit;
        let present = self.present(now);
        self.first = self.first_occupied().unwrap_or(present).min(present);
        if self.timeout.is_none() {
            // Nothing is due without a timeout: the overdue keys stay the first to be evicted.
            let overdue = self.take_before(present);
            self.first = present;
            for key in overdue {
                self.put(present, key as usize);
            }
        }
        // A deadline beyond the last slot is checked in the last one: early, never late.
        let last = self.first + SLOTS - 1;
        let slot = self.slot_of(last_progress).max(present).min(last);
        self.put(slot, key);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most a billion connections"
    )]
    fn put(&mut self, slot: u64, key: usize) {
        self.slots[place(slot)].push(key as u32);
        self.occupied |= 1 << place(slot);
    }

    /// Takes out all slots that are over. Keys that are scheduled after this go into slots that are
    /// not over yet, so that no key is due twice at one time.
    fn take_due(&mut self, now: u64) -> Vec<u32> {
        let due = self.take_before(self.present(now));
        for &key in &due {
            self.unmark(key as usize);
        }
        due
    }

    /// Empties all slots before this one, and frees their memory.
    fn take_before(&mut self, end: u64) -> Vec<u32> {
        let mut keys = Vec::new();
        while let Some(slot) = self.first_occupied().filter(|slot| *slot < end) {
            self.occupied &= !(1 << place(slot));
            keys.append(&mut mem::take(&mut self.slots[place(slot)]));
        }
        keys
    }

    /// See [`Timers::take_longest_blocked`].
    fn take_longest_blocked(
        &mut self,
        last_progress: impl Fn(usize) -> Option<Millis>,
        now: Millis,
    ) -> Option<usize> {
        loop {
            let (key, slot) = self.take_first()?;
            let Some(since) = last_progress(key) else {
                continue;
            };
            if self.slot_of(since) <= slot {
                return Some(key);
            }
            self.schedule(key, since, now);
        }
    }

    /// Takes one key out of the first slot that has any, with the number of the slot.
    fn take_first(&mut self) -> Option<(usize, u64)> {
        let slot = self.first_occupied()?;
        let keys = &mut self.slots[place(slot)];
        let key = keys.pop()? as usize;
        if keys.is_empty() {
            self.occupied &= !(1 << place(slot));
        }
        self.unmark(key);
        Some((key, slot))
    }

    fn unmark(&mut self, key: usize) {
        self.scheduled[key / 64] &= !(1 << (key % 64));
    }

    fn first_occupied(&self) -> Option<u64> {
        let ahead = self.occupied.rotate_right((self.first % SLOTS) as u32);
        (ahead != 0).then(|| self.first + u64::from(ahead.trailing_zeros()))
    }

    fn present(&self, now: u64) -> u64 {
        now / self.slot_length
    }
}

/// Longer times count as 35 million years, so that a timeout can be added to any of them.
fn whole_milliseconds(time: Duration) -> u64 {
    const MAX_SECONDS: u64 = 1 << 50;
    time.as_secs().min(MAX_SECONDS) * 1000 + u64::from(time.subsec_millis())
}

fn milliseconds_rounded_up(time: Duration) -> u64 {
    whole_milliseconds(time + Duration::from_nanos(999_999))
}

fn place(slot: u64) -> usize {
    (slot % SLOTS) as usize
}

#[cfg(test)]
mod tests;
