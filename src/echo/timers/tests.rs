//! The timer wheels, compared to a plain list of all connections.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use super::{Timeout, Timers};
use crate::simulation::plan::Random;

const TIMEOUTS: [Timeout; 2] = [Timeout::Idle, Timeout::Write];

/// How much too late a connection may be checked, in milliseconds: the length of a slot, and 1 for
/// rounding.
fn tolerance(timeout: u64) -> u64 {
    (timeout / 100).max(50) + 1
}

/// The timers, and what is expected of them.
struct World {
    timers: Timers,
    /// In milliseconds.
    timeouts: [u64; 2],
    start: Instant,
    now: u64,
    /// The last progress of each connection that is subject to a timeout.
    progress: HashMap<(usize, usize), u64>,
}

impl World {
    fn new(timeouts: [u64; 2], now: u64) -> Self {
        let [idle, write] = timeouts.map(Duration::from_millis);
        let start = Instant::now();
        let mut world = World {
            timers: Timers::new(idle, write, start),
            timeouts,
            start,
            now: 0,
            progress: HashMap::new(),
        };
        world.advance(0);
        world.advance(now);
        world.check();
        world
    }

    fn advance(&mut self, time: u64) {
        self.now += time;
        let now = self.start + Duration::from_millis(self.now);
        self.timers.set_now(now);
    }

    fn schedule(&mut self, key: usize, timeout: usize, last_progress: u64) {
        self.timers.schedule(key, TIMEOUTS[timeout], last_progress);
        if self.timeouts[timeout] > 0 {
            self.progress.insert((key, timeout), last_progress);
        }
    }

    /// Checks all keys that are due, and that none is overdue.
    fn check(&mut self) {
        self.timers.collect_due();
        for (key, timeout) in mem::take(&mut self.timers.due) {
            let index = timeout as usize;
            let Some(&progress) = self.progress.get(&(key, index)) else {
                continue;
            };
            let is_over = self.now > progress + self.timeouts[index];
            assert_eq!(self.timers.has_expired(timeout, progress), is_over);
            if is_over {
                self.progress.remove(&(key, index));
            } else {
                self.schedule(key, index, progress);
            }
        }
        self.timers.collect_due();
        assert_eq!(self.timers.due, [], "due twice at one time");
        let overdue = self.progress.iter().find(|((_, timeout), progress)| {
            let timeout = self.timeouts[*timeout];
            self.now > **progress + timeout + tolerance(timeout)
        });
        assert_eq!(overdue, None, "not checked at {}", self.now);
    }

    /// When the loop has to wake up, in milliseconds.
    fn next(&self) -> Option<u64> {
        let next = self.timers.next_at()?.duration_since(self.start);
        Some(next.as_millis().try_into().unwrap())
    }
}

#[test]
fn every_connection_is_checked_in_time() {
    for timeouts in [[300_000, 30_000], [1_000, 7], [60, 86_400_000], [0, 500]] {
        let random = Random::new(88_172_645_463_325_252);
        // After two months of service, which is more than 32 bits hold.
        let mut world = World::new(timeouts, 5_000_000_000);
        let longest = timeouts[0].max(timeouts[1]);
        let mut latest = HashMap::new();
        for _ in 0..20_000 {
            let key = usize::try_from(random.below(50)).unwrap();
            let timeout = key % 2;
            match random.below(8) {
                0..=3 => {
                    // Never earlier than before, also if that was another connection.
                    let age = random.below(timeouts[timeout].min(1_000) + 1);
                    let progress = latest.entry(key).or_default();
                    *progress = (world.now - age).max(*progress);
                    world.schedule(key, timeout, *progress);
                }
                4 => drop(world.progress.remove(&(key, timeout))),
                _ => {
                    world.advance(random.below(longest / 20));
                    world.check();
                }
            }
        }
    }
}

#[test]
fn loop_sleeps_until_the_first_deadline() {
    for timeout in [1, 49, 50, 999, 5_000, 30_000, 86_400_000] {
        let mut world = World::new([timeout, 0], 12_345);
        assert_eq!(world.next(), None);
        world.schedule(7, 0, 12_345);
        let next = world.next().unwrap();
        let deadline = 12_345 + timeout;
        assert!(
            deadline < next && next <= deadline + tolerance(timeout),
            "{next}"
        );
        world.advance(next - 1 - world.now);
        world.timers.collect_due();
        assert_eq!(world.timers.due, [], "earlier than announced");
        world.advance(1);
        world.timers.collect_due();
        assert_eq!(mem::take(&mut world.timers.due), [(7, Timeout::Idle)]);
        assert_eq!(world.next(), None);
    }
}

#[test]
fn late_loop_checks_every_connection_once() {
    let mut world = World::new([5_000, 0], 0);
    for key in 0..100 {
        world.schedule(key, 0, world.now);
        world.advance(45);
    }
    world.advance(1_000_000);
    // Before the due keys are taken out, as at a shutdown.
    world.schedule(100, 0, world.now);
    world.check();
    assert_eq!(world.progress.len(), 1);
    world.advance(5_051);
    world.check();
    assert!(world.progress.is_empty());
}

/// A key whose deadline has passed already is due later, so that the loop over due keys ends.
#[test]
fn overdue_key_is_due_after_the_present_slot() {
    let mut world = World::new([5_000, 0], 100_000);
    world.schedule(7, 0, 0);
    world.timers.collect_due();
    assert_eq!(world.timers.due, []);
    let next = world.next().unwrap();
    assert!(world.now < next && next <= world.now + 50, "{next}");
    world.advance(next - world.now);
    world.timers.collect_due();
    assert_eq!(mem::take(&mut world.timers.due), [(7, Timeout::Idle)]);
}

#[test]
fn clock_never_moves_backwards() {
    let mut world = World::new([1_000, 0], 5_000);
    let (now, start) = (world.timers.now(), world.start);
    world.timers.set_now(start);
    assert_eq!(world.timers.now(), now);
    assert!(!world.timers.has_expired(Timeout::Idle, now));
}

/// A connection with the key of a closed one is checked in time.
#[test]
fn reused_key_is_in_the_wheel_once() {
    let mut world = World::new([1_000, 0], 0);
    world.schedule(3, 0, 0);
    world.progress.clear();
    world.advance(900);
    world.schedule(3, 0, 900);
    assert_eq!(
        world.timers.wheels[0]
            .slots
            .iter()
            .map(Vec::len)
            .sum::<usize>(),
        1
    );
    world.advance(1_051);
    world.check();
    assert!(world.progress.is_empty());
}

#[test]
fn zero_timeout_never_expires_and_never_wakes_the_loop() {
    let mut world = World::new([0, 0], 0);
    for timeout in [0, 1] {
        world.schedule(3, timeout, 0);
    }
    world.advance(86_400_000);
    assert_eq!(world.next(), None);
    for timeout in TIMEOUTS {
        assert!(!world.timers.has_expired(timeout, 0));
    }
}

#[test]
fn longest_blocked_connection_is_taken_first() {
    for timeout in [0, 30_000] {
        let mut world = World::new([0, timeout], 0);
        let slot = if timeout == 0 { 6_000 } else { 300 };
        for key in 0..10 {
            world.schedule(key, 1, world.now);
            world.advance(slot);
        }
        // Since then the first connections made progress, or are no longer write-blocked.
        let blocked_since = |key: usize| match key {
            0 | 1 => Some(world.now - key as u64),
            2 => None,
            _ => Some(key as u64 * slot),
        };
        let mut taken = Vec::new();
        while let Some(key) = world.timers.take_longest_blocked(blocked_since) {
            taken.push(key);
        }
        assert_eq!(taken[..7], [3, 4, 5, 6, 7, 8, 9], "{timeout}");
        assert_eq!(taken.len(), 9);
    }
}
