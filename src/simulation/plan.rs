//! What a seed decides before the run: the configuration, the peers, and how much trouble there is.

use std::time::Duration;

use super::random::Random;
use crate::config::{Config, ZeroCopy};

/// Microseconds of the simulated clock.
pub(super) type Micros = u64;

pub(super) const MILLISECOND: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;
pub(super) const HOUR: Micros = 3_600 * SECOND;

/// A run. A smaller plan with the same seed has fewer peers or less trouble.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) config: Config,
    /// How many echoes there are in the world, each with a loop of its own.
    pub(super) echoes: usize,
    /// Listeners of each echo: the first is TCP, the second a Unix socket.
    pub(super) listeners: usize,
    pub(super) has_udp: bool,
    /// Whether the sockets are shared with other processes.
    pub(super) inherited: bool,
    /// The numbers of the peers. The number seeds a peer's generator.
    pub(super) peers: Vec<u64>,
    /// How many connections wait at the first listener from the start.
    pub(super) storm: usize,
    /// One in so many system calls fails; 0 for none.
    pub(super) trouble: u64,
    /// How many calls fail at most.
    pub(super) max_failures: usize,
    /// Turns until all peers read, the trouble ends, and everything has to be echoed.
    pub(super) turns: u64,
    /// The turn of the shutdown; later than `turns` for a run that is complete before.
    pub(super) shutdown_turn: u64,
    pub(super) host: Host,
    /// The least number of bytes for splice(2).
    pub(super) splice_min: usize,
    /// How many events one poll returns.
    pub(super) max_events: usize,
    /// Sizes of socket buffers, at most.
    pub(super) max_capacity: u64,
    pub(super) max_descriptors: usize,
}

/// How the loop's host behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Host {
    /// It watches the descriptor of the selector, and calls with a timeout of zero.
    pub(super) nested: bool,
    /// The process is stopped for a while, once in so many turns; 0 for never.
    pub(super) pauses: u64,
    /// A turn is forgotten, once in so many; 0 for never.
    pub(super) forgets: u64,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let is_bulk = random.one_in(8);
        let is_calm = random.one_in(2);
        let mut rarely = |n: u64| if is_calm { 0 } else { 2 << random.below(n) };
        let (trouble, pauses, forgets) = (rarely(7), rarely(6), rarely(6));
        let has_udp = random.one_in(4);
        let echoes = 1 + usize::from(has_udp && random.one_in(4));
        let storm = if random.one_in(16) {
            random.below(80)
        } else {
            0
        };
        let peers = (0..=random.below(8)).collect();
        let turns = 1 + random.magnitude(1000);
        Plan {
            seed,
            config: config(&mut random, is_bulk, storm > 0),
            echoes,
            listeners: 1 + random.below(2) as usize,
            has_udp,
            inherited: random.one_in(8),
            peers,
            storm: storm as usize,
            trouble,
            max_failures: usize::MAX,
            turns,
            shutdown_turn: if random.one_in(2) {
                random.below(turns)
            } else {
                turns
            },
            host: Host {
                nested: echoes > 1 || random.one_in(3),
                pauses,
                forgets,
            },
            splice_min: if is_bulk {
                16 * 1024
            } else {
                1 + random.magnitude(63) as usize
            },
            max_events: if random.one_in(2) {
                256
            } else {
                1 + random.below(4) as usize
            },
            max_capacity: if is_bulk {
                1 << 20
            } else {
                1 + random.magnitude(255)
            },
            max_descriptors: if random.one_in(4) {
                3 + random.below(20) as usize
            } else {
                1000
            },
        }
    }

    /// Simpler runs, of which one may show the same fault.
    pub(super) fn smaller(&self) -> Vec<Plan> {
        let with = |change: &dyn Fn(&mut Plan)| {
            let mut plan = self.clone();
            change(&mut plan);
            plan
        };
        let mut plans = vec![
            with(&|it| it.trouble = 0),
            with(&|it| it.max_failures = it.max_failures.min(64) / 2),
            with(&|it| {
                it.host = Host {
                    nested: it.echoes > 1,
                    ..Host::default()
                }
            }),
            with(&|it| it.turns /= 2),
            with(&|it| it.turns -= it.turns.min(1)),
            with(&|it| it.storm /= 2),
            with(&|it| it.listeners = 1),
            with(&|it| it.has_udp = false),
            with(&|it| it.echoes = 1),
            with(&|it| it.inherited = false),
            with(&|it| it.splice_min = usize::MAX),
            with(&|it| it.max_events = 256),
        ];
        let without = |peer: &u64| with(&|it| it.peers.retain(|other| other != peer));
        plans.extend(self.peers.iter().map(without));
        plans.retain(|it| format!("{it:?}") != format!("{self:?}"));
        plans
    }
}

fn config(random: &mut Random, is_bulk: bool, is_storm: bool) -> Config {
    let buffer_size = if is_bulk {
        1 << (14 + random.below(5))
    } else {
        1 + random.magnitude(63) as usize
    };
    let networks = ["10.0.0.0/30".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let budget = buffer_size * (1 + random.below(4) as usize);
    let drain = random.magnitude(60_000);
    let mut rarely = |n: u64| random.one_in(n);
    Config {
        buffer_size,
        // The builder asks for 256 KiB at least, which few peers reach.
        max_buffered: if rarely(2) { budget } else { 1 << 30 },
        allow: if rarely(8) {
            networks.into()
        } else {
            Vec::new()
        },
        drain_timeout: Duration::from_millis(if rarely(4) { 0 } else { drain }),
        reuse_port: rarely(4),
        udp_answer_any_port: rarely(2),
        busy_poll: Duration::from_micros(if rarely(8) { 50 } else { 0 }),
        zero_copy: if rarely(2) {
            ZeroCopy::Off
        } else {
            ZeroCopy::Auto
        },
        max_connections: 1 + random.below(if is_storm { 100 } else { 8 }) as usize,
        max_per_source: random.one_in(4).then(|| 1 + random.below(3) as usize),
        backlog: 1 + random.magnitude(if is_storm { 100 } else { 7 }) as u32,
        idle_timeout: timeout(random),
        write_timeout: timeout(random),
        ..Config::default()
    }
}

fn timeout(random: &mut Random) -> Duration {
    let max = random.pick(&[0, 0, 3_000, 300_000]);
    Duration::from_millis(random.magnitude(max))
}
