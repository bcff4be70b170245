//! Against a list of everybody, which is slow and plain.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Deadlines, Limit, Moment};

const LIMITS: [Limit; 2] = [Limit::Idle, Limit::Stall];

/// How late somebody may be looked at, in milliseconds.
fn tolerance(limit: u64) -> u64 {
    (limit / 100).max(50)
}

/// A generator of numbers that are as good as any (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The deadlines, and what is expected of them.
struct World {
    deadlines: Deadlines,
    /// In milliseconds.
    limits: [u64; 2],
    start: Instant,
    now: u64,
    /// When something moved last, of everybody who is watched for a limit.
    watched: HashMap<(usize, usize), u64>,
}

impl World {
    fn new(limits: [u64; 2], now: u64) -> Self {
        let [idle, stall] = limits.map(Duration::from_millis);
        let mut world = World {
            deadlines: Deadlines::new(idle, stall),
            limits,
            start: Instant::now(),
            now: 0,
            watched: HashMap::new(),
        };
        world.go_on(0);
        world.go_on(now);
        world.look();
        world
    }

    fn go_on(&mut self, time: u64) {
        self.now += time;
        let now = self.start + Duration::from_millis(self.now);
        self.deadlines.set_now(now);
    }

    #[expect(clippy::cast_possible_truncation, reason = "moments come round")]
    fn watch(&mut self, key: usize, limit: usize, moved: u64) {
        self.deadlines.watch(key, LIMITS[limit], moved as Moment);
        if self.limits[limit] > 0 {
            self.watched.insert((key, limit), moved);
        }
    }

    fn forget(&mut self, key: usize) {
        self.deadlines.forget(key);
        self.watched.retain(|(watched, _), _| *watched != key);
    }

    /// Looks at those who are due, and at how late that is. Of those whose limit is not over some
    /// turn out to have moved later.
    #[expect(clippy::cast_possible_truncation, reason = "moments come round")]
    fn look(&mut self) {
        while let Some((key, limit)) = self.deadlines.due() {
            let moved = self.watched.remove(&(key, limit as usize)).expect("nobody");
            let is_over = self.now >= moved + self.limits[limit as usize];
            assert_eq!(self.deadlines.is_over(limit, moved as Moment), is_over);
            if !is_over {
                self.watch(key, limit as usize, moved);
            }
        }
        let late = self.watched.iter().find(|((_, limit), moved)| {
            let limit = self.limits[*limit];
            self.now > **moved + limit + tolerance(limit)
        });
        assert_eq!(late, None, "overlooked, now that it is {}", self.now);
    }

    /// Until when one may sleep, in milliseconds.
    fn next(&self) -> Option<u64> {
        let next = self.deadlines.next_at()?.duration_since(self.start);
        Some(next.as_millis().try_into().unwrap())
    }
}

#[test]
fn nobody_is_overlooked_whatever_happens() {
    for limits in [[300_000, 30_000], [1_000, 7], [60, 86_400_000], [0, 500]] {
        let mut random = Random(88_172_645_463_325_252);
        // Moments come round soon.
        let mut world = World::new(limits, u64::from(Moment::MAX) - 10_000);
        let longest = limits[0].max(limits[1]);
        for _ in 0..20_000 {
            let key = usize::try_from(random.below(50)).unwrap();
            let limit = key % 2;
            let moved = world.now - random.below(limits[limit].min(1_000) + 1);
            match random.below(8) {
                0..=4 => world.watch(key, limit, moved),
                5 => world.forget(key),
                _ => {
                    world.go_on(random.below(longest / 20));
                    world.look();
                }
            }
        }
        assert!(
            world.now > u64::from(Moment::MAX),
            "they did not come round"
        );
    }
}

#[test]
fn one_sleeps_until_somebody_is_due_and_no_longer() {
    for limit in [1, 49, 50, 999, 5_000, 30_000, 86_400_000] {
        let mut world = World::new([limit, 0], 12_345);
        assert_eq!(world.next(), None);
        world.watch(7, 0, 12_345);
        let next = world.next().unwrap();
        let deadline = 12_345 + limit;
        assert!(
            deadline <= next && next <= deadline + tolerance(limit),
            "{next}"
        );
        world.go_on(next - 1 - world.now);
        assert_eq!(world.deadlines.due(), None, "sooner than one was told");
        world.go_on(1);
        assert_eq!(world.deadlines.due(), Some((7, Limit::Idle)));
        assert_eq!(world.deadlines.due(), None);
        assert_eq!(world.next(), None);
    }
}

#[test]
fn a_loop_that_slept_too_long_looks_at_everybody_once() {
    let mut world = World::new([5_000, 0], 0);
    for key in 0..100 {
        world.watch(key, 0, world.now);
        world.go_on(45);
    }
    world.go_on(1_000_000);
    // Those who come before anybody has been looked at are early at worst.
    world.watch(100, 0, world.now);
    world.look();
    assert_eq!(world.watched.len(), 1);
    world.go_on(5_050);
    world.look();
    assert!(world.watched.is_empty());
}

#[test]
fn time_that_goes_backwards_stands_still() {
    let mut world = World::new([1_000, 0], 5_000);
    let (now, start) = (world.deadlines.now(), world.start);
    world.deadlines.set_now(start);
    assert_eq!(world.deadlines.now(), now);
    assert!(!world.deadlines.is_over(Limit::Idle, now));
}

#[test]
fn somebody_is_watched_until_looked_at_or_forgotten() {
    let mut world = World::new([1_000, 1_000], 0);
    assert!(!world.deadlines.is_watched(3, Limit::Stall));
    world.watch(3, 1, 0);
    assert!(world.deadlines.is_watched(3, Limit::Stall));
    assert!(!world.deadlines.is_watched(3, Limit::Idle));
    world.forget(3);
    assert!(!world.deadlines.is_watched(3, Limit::Stall));
    assert_eq!(world.next(), None);
    world.watch(3, 1, 0);
    world.go_on(1_050);
    assert_eq!(world.deadlines.due(), Some((3, Limit::Stall)));
    assert!(!world.deadlines.is_watched(3, Limit::Stall));

    let off = World::new([0, 0], 0);
    assert!(
        off.deadlines.is_watched(3, Limit::Stall),
        "there is nothing to do"
    );
}
