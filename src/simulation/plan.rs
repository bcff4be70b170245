//! What a seed decides before the run: the configuration, the peers, and how much trouble there is.

use std::time::Duration;

use super::random::Random;
use crate::config::{Config, ZeroCopy};
use crate::net::bind::BindOptions;

/// Microseconds of the simulated clock.
pub(super) type Micros = u64;

pub(super) const MILLISECOND: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;
pub(super) const HOUR: Micros = 3_600 * SECOND;
pub(super) const NEVER: Micros = Micros::MAX;

/// A run. A smaller plan with the same seed has fewer peers or less trouble.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) config: Config,
    /// How many echoes there are in the world, each with a loop of its own.
    pub(super) echoes: usize,
    /// Listeners of each echo: the first is TCP, the second a Unix socket.
    pub(super) listeners: usize,
    pub(super) has_udp: bool,
    /// Whether other processes have copies of the listeners.
    pub(super) is_inherited: bool,
    /// The numbers of the peers. The number seeds the generator of a peer.
    pub(super) peers: Vec<u64>,
    /// How many connections wait at the first listener from the start.
    pub(super) storm: u16,
    /// One in so many system calls fails; 0 for none.
    pub(super) trouble: u64,
    /// How many system calls fail at most.
    pub(super) max_failures: usize,
    /// Turns until all peers read, the trouble ends, and everything has to be echoed.
    pub(super) turns: u64,
    /// The turn of the shutdown. If it is `turns`, everything is echoed before.
    pub(super) shutdown_turn: u64,
    /// The host waits for the loops, and calls them with a timeout of zero.
    pub(super) is_nested: bool,
    /// Once in so many turns the process is stopped for a while; 0 for never.
    pub(super) pauses: u64,
    /// Once in so many turns a nested loop is called late; 0 for never.
    pub(super) delays: u64,
    /// The least number of bytes for splice(2).
    pub(super) splice_min: usize,
    /// How many events one poll returns at most.
    pub(super) max_events: usize,
    /// Bytes of a socket buffer, at most.
    pub(super) max_capacity: u64,
    pub(super) max_descriptors: usize,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let is_bulk = random.one_in(8);
        let is_calm = random.one_in(2);
        let rarely = |n: u64| if is_calm { 0 } else { 2 << random.below(n) };
        let has_udp = random.one_in(4);
        let echoes = 1 + usize::from(has_udp && random.one_in(4));
        let storm = random.either(16, random.below(80) as u16, 0);
        let turns = 1 + random.magnitude(1000);
        let small = (1 + random.magnitude(63) as usize, 1 + random.magnitude(255));
        let bulk = (16 * 1024, 1 << 20);
        let (splice_min, max_capacity) = if is_bulk { bulk } else { small };
        Plan {
            seed,
            config: config(&random, is_bulk, storm > 0),
            echoes,
            listeners: 1 + random.below(2) as usize,
            has_udp,
            is_inherited: random.one_in(8),
            peers: (0..=random.below(8)).collect(),
            storm,
            trouble: rarely(7),
            max_failures: usize::MAX,
            turns,
            shutdown_turn: random.either(2, random.below(turns), turns),
            is_nested: echoes > 1 || random.one_in(3),
            pauses: rarely(6),
            delays: rarely(6),
            splice_min,
            max_events: random.either(2, 1 + random.below(4) as usize, 256),
            max_capacity,
            max_descriptors: random.either(4, 3 + random.below(20) as usize, 1000),
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
            with(&|it| (it.pauses, it.delays) = (0, 0)),
            with(&|it| it.turns /= 2),
            with(&|it| it.turns -= it.turns.min(1)),
            with(&|it| it.storm /= 2),
            with(&|it| it.listeners = 1),
            with(&|it| it.has_udp = false),
            with(&|it| it.echoes = 1),
            with(&|it| it.is_nested = it.echoes > 1),
            with(&|it| it.is_inherited = false),
            with(&|it| it.splice_min = usize::MAX),
            with(&|it| it.max_events = 256),
        ];
        let without = |peer: &u64| with(&|it| it.peers.retain(|other| other != peer));
        plans.extend(self.peers.iter().map(without));
        plans.retain(|it| format!("{it:?}") != format!("{self:?}"));
        plans
    }
}

fn config(random: &Random, is_bulk: bool, is_storm: bool) -> Config {
    let small = 1 + random.magnitude(63) as usize;
    let buffer_size = if is_bulk {
        1 << (14 + random.below(5))
    } else {
        small
    };
    // The builder asks for 256 KiB at least, which few peers reach.
    let budget = buffer_size * (1 + random.below(4) as usize);
    let networks = ["10.0.0.0/30".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let (max_connections, max_backlog) = if is_storm { (100, 100) } else { (8, 7) };
    let drain = random.magnitude(60_000);
    Config {
        buffer_size,
        max_buffered: random.either(2, budget, 1 << 30),
        allow: random.either(8, networks.into(), Vec::new()),
        drain_timeout: Duration::from_millis(random.either(4, 0, drain)),
        bind: BindOptions {
            reuse_port: random.one_in(4),
            unix_mode: None,
        },
        udp_answer_any_port: random.one_in(2),
        busy_poll: Duration::from_micros(random.either(8, 50, 0)),
        zero_copy: random.pick(&[ZeroCopy::Off, ZeroCopy::Auto]),
        max_connections: 1 + random.below(max_connections) as usize,
        max_per_source: random.one_in(4).then(|| 1 + random.below(3) as usize),
        backlog: 1 + random.magnitude(max_backlog) as u32,
        idle_timeout: timeout(random),
        write_timeout: timeout(random),
        ..Config::default()
    }
}

fn timeout(random: &Random) -> Duration {
    let max = random.pick(&[0, 0, 3_000, 300_000]);
    Duration::from_millis(random.magnitude(max))
}
