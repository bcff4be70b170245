//! Random numbers that follow from a seed, and what they decide before the run: the configuration, the
//! clients, and how often calls fail.
//!
//! A draw of 0 gives the simplest choice. So the shrinker zeroes draws, and needs to know nothing of plans.

use super::*;
use crate::config::ZeroCopy;

/// A generator of the kind `SplitMix64` (G. L. Steele and others, 2014): a number follows from the seed and
/// from how many were drawn before. A draw needs only a shared reference.
#[derive(Debug, Clone, Default)]
pub(crate) struct Random {
    pub(super) seed: u64,
    /// How many numbers were drawn.
    pub(super) draws: Cell<u64>,
    /// The draws that give 0 instead of a random number.
    pub(super) zeroed: BTreeSet<u64>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random {
            seed,
            ..Random::default()
        }
    }

    /// A number from 0 to `end - 1`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let draw = self.draws.replace(self.draws.get() + 1);
        let end = if self.zeroed.contains(&draw) { 1 } else { end };
        let step = (draw + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut number = self.seed.wrapping_add(step);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(number ^ (number >> 31)) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to `max`, of any magnitude: small ones are as frequent as large ones.
    pub(super) fn magnitude(&self, max: u64) -> u64 {
        let bits = self.below(65 - u64::from(max.leading_zeros()));
        self.below(max.min((1 << bits) - 1) + 1)
    }

    /// True once in `n` times, and never if `n` is 0. A draw of 0 gives false, except for an `n` of 1.
    pub(super) fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) + 1 == n
    }

    /// `rare` once in `n` times, and else `usual`.
    pub(super) fn either<T>(&self, n: u64, rare: T, usual: T) -> T {
        if self.one_in(n) { rare } else { usual }
    }

    pub(super) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// One of the words of a text.
    pub(super) fn word(&self, text: &'static str) -> &'static str {
        self.pick(&text.split(' ').collect::<Vec<_>>())
    }
}

/// Microseconds of the simulated clock.
pub(super) type Micros = u64;

pub(super) const MILLISECOND: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;
/// A quarter of the maximum, so that times can be added to it.
pub(super) const NEVER: Micros = Micros::MAX / 4;

pub(super) fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

/// A timeout of the configuration, where 0 is none.
pub(super) fn timeout(duration: Duration) -> Micros {
    Some(micros(duration)).filter(|it| *it > 0).unwrap_or(NEVER)
}

/// The most clients of a plan: more than a listener accepts in one turn.
pub(super) const CLIENTS: u64 = 60;

drawn! {
    /// A run.
    #[derive(Default)]
    Plan(seed: u64, zeroed: &BTreeSet<u64>):

    random: Random = Random { zeroed: zeroed.clone(), ..Random::new(seed) };
    /// How many clients there are at most. Rarely there are many, which connect at once.
    max_clients: u64 = random.either(10, CLIENTS, 1 + random.below(8));
    config: Config = draw_config(&random, max_clients);
    /// How many services there are, each in a world of its own.
    services: usize = random.either(16, 2, 1);
    /// Whether other processes have copies of the listeners.
    is_inherited: bool = random.one_in(8);
    /// The numbers of the clients, with a draw for each: a draw of 0 leaves it out.
    clients: Vec<u64> = (0..CLIENTS).filter(|it| random.below(NEVER) > 0 && *it < max_clients).collect();
    /// 0 if no call fails.
    calls_per_failure: u64 = rarely(&random, 7);
    /// 0 if the process is never stopped, and a host that watches the descriptor forgets no call.
    iterations_per_stop: u64 = rarely(&random, 6);
    /// 0 if the host changes nothing.
    iterations_per_change: u64 = rarely(&random, 5);
    /// Iterations until the calm part, in which nothing fails and clients send nothing. Each bit is a draw, so
    /// that a draw of 0 makes it shorter.
    iterations: u64 = 1 + (0..10).map(|bit| random.below(2) << bit).sum::<u64>() / random.pick(&[128, 16, 4, 1]);
    /// The iteration of the shutdown; `NEVER`: when nothing can happen any more.
    shutdown_at: u64 = random.either(2, random.below(iterations), NEVER);
    /// The host watches the descriptor of the loop, and calls it with a timeout of zero.
    is_nested: bool = random.one_in(3);
    /// The least number of bytes for splice(2).
    splice_min: u64 = 1 + random.magnitude(config.buffer_size as u64 - 1);
    /// Bytes of a socket buffer, at most.
    max_capacity: u64 = random.either(2, 8 * config.buffer_size as u64, 1 + random.magnitude(255));
    /// How many events one poll returns at most.
    max_events: usize = random.either(2, 1 + random.below(4) as usize, 256);
}

fn draw_config(random: &Random, max_clients: u64) -> Config {
    let mut config = Config {
        buffer_size: 1 + random.magnitude(random.either(8, (256 << 10) - 1, 63)) as usize,
        drain_timeout: Duration::from_millis(random.either(4, 0, random.magnitude(60_000))),
        udp_answer_any_port: random.one_in(2),
        busy_poll: Duration::from_micros(random.either(8, 10, 0)),
        zero_copy: random.pick(&[ZeroCopy::Off, ZeroCopy::Auto]),
        backlog: random.either(2, 1 + random.magnitude(7) as u32, 100),
        connection_events: 1000,
        max_turns: random.either(8, 1 + random.below(8) as usize, usize::MAX),
        ..Config::default()
    };
    config.bind.reuse_port = random.one_in(4);
    draw_limits(random, max_clients.max(8), &mut config);
    config
}

/// Draws the limits that a host can change, so small that they are reached.
pub(super) fn draw_limits(random: &Random, max_connections: u64, config: &mut Config) {
    // `ConfigBuilder` accepts 256 KiB at least, which so few clients rarely fill.
    let budget = config.buffer_size * (1 + random.below(4) as usize);
    let networks = ["10.0.0.0/30".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let max_per_source = Some(1 + random.below(3) as usize);
    let timeout = || Duration::from_millis(random.magnitude(random.pick(&[0, 0, 3_000, 300_000])));
    config.max_connections = 1 + random.below(max_connections) as usize;
    config.max_buffered = random.either(2, budget, 1 << 30);
    config.allow = random.either(8, networks.into(), Vec::new());
    config.max_per_source = random.either(4, max_per_source, None);
    config.idle_timeout = timeout();
    config.write_timeout = timeout();
}

/// Once in 2 to 2^`bits` times, or never, which is 0. Not each time: the engine would repeat
/// a call that is always interrupted without end.
fn rarely(random: &Random, bits: u64) -> u64 {
    random.either(2, (1 << random.below(bits + 1)) & !1, 0)
}
