//! What a seed decides before the run: the configuration, how many clients there are, and how often calls
//! fail.
//!
//! A draw of 0 gives the simplest choice. So the shrinker zeroes draws, and needs to know nothing of plans.

use super::*;
use crate::config::ZeroCopy;

/// Microseconds of the simulated clock.
pub(super) type Micros = u64;

pub(super) const MILLISECOND: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;
pub(super) const HOUR: Micros = 3_600 * SECOND;
/// A quarter of the maximum, so that times can be added to it.
pub(super) const NEVER: Micros = Micros::MAX / 4;

pub(super) fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

/// A timeout of the configuration, where 0 is none.
pub(super) fn timeout(duration: Duration) -> Micros {
    Some(micros(duration)).filter(|it| *it > 0).unwrap_or(NEVER)
}

/// The most clients of a plan: more than one turn of a listener accepts.
pub(super) const CLIENTS: u64 = 60;

/// A struct whose fields are drawn one after the other, so that each can depend on those before it.
macro_rules! drawn {
    ($(#[$meta:meta])* $name:ident($($input:ident: $input_type:ty),*):
     $($(#[$doc:meta])* $field:ident: $type:ty = $value:expr;)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        #[allow(dead_code, reason = "some fields are there for others")]
        pub(super) struct $name {
            $($(#[$doc])* pub(super) $field: $type),+
        }

        impl $name {
            pub(super) fn new($($input: $input_type),*) -> Self {
                $(let $field = $value;)+
                $name { $($field),+ }
            }
        }
    };
}
pub(super) use drawn;

drawn! {
    /// A run.
    #[derive(Default)]
    Plan(number: u64, zeroed: &BTreeSet<u64>):

    seed: u64 = number;
    random: Random = Random { zeroed: zeroed.clone(), ..Random::new(seed) };
    /// Streams of many bytes, and else of few.
    is_bulk: bool = random.one_in(8);
    /// Many clients, which connect at once.
    is_storm: bool = random.one_in(20);
    config: Config = draw_config(&random, is_bulk, is_storm);
    has_unix: bool = random.one_in(2);
    has_udp: bool = random.one_in(4);
    /// How many services there are, each in a world of its own.
    services: usize = random.either(4, 1 + usize::from(has_udp), 1);
    /// Whether other processes have copies of the listeners.
    is_inherited: bool = random.one_in(8);
    max_clients: u64 = 1 + random.below(if is_storm { CLIENTS } else { 8 });
    /// The numbers of the clients, with a draw for each: a draw of 0 leaves it out.
    clients: Vec<u64> = (0..CLIENTS).filter(|it| random.below(NEVER) > 0 && *it < max_clients).collect();
    /// Whether calls fail, and the host stops the process or changes something.
    is_disturbed: bool = random.one_in(2);
    /// 0 if no call fails.
    calls_per_failure: u64 = rarely(&random, is_disturbed, 7);
    /// How many system calls fail at most, but for those that fail in a shortage.
    max_failures: u64 = random.bits(10);
    /// 0 if the process is never stopped, and a host that watches the descriptor forgets no call.
    iterations_per_stop: u64 = rarely(&random, is_disturbed, 6);
    /// 0 if the host changes nothing.
    iterations_per_change: u64 = rarely(&random, is_disturbed, 5);
    /// Iterations until the calm part, in which nothing fails and streams do not grow.
    iterations: u64 = 1 + random.bits(10);
    /// The iteration of the shutdown. If it is `NEVER`, nothing can happen any more before.
    shutdown_at: u64 = random.either(2, random.below(iterations), NEVER);
    /// The host watches the descriptor of the loop, and calls it with a timeout of zero.
    is_nested: bool = random.one_in(3);
    /// The least number of bytes for splice(2).
    splice_min: u64 = if is_bulk { 16 << 10 } else { 1 + random.magnitude(63) };
    /// Bytes of a socket buffer, at most.
    max_capacity: u64 = if is_bulk { 1 << 20 } else { 1 + random.magnitude(255) };
    /// How many events one poll returns at most.
    max_events: usize = random.either(2, 1 + random.below(4) as usize, 256);
}

fn draw_config(random: &Random, is_bulk: bool, is_storm: bool) -> Config {
    let small = 1 + random.magnitude(63) as usize;
    let bulk = 1 << (14 + random.below(5));
    let drain = random.magnitude(60_000);
    let few = 1 + random.magnitude(7) as u32;
    let (max_connections, backlog) = if is_storm { (100, 100) } else { (8, few) };
    let mut config = Config {
        buffer_size: if is_bulk { bulk } else { small },
        drain_timeout: Duration::from_millis(random.either(4, 0, drain)),
        udp_answer_any_port: random.one_in(2),
        busy_poll: Duration::from_micros(random.either(8, 10, 0)),
        zero_copy: random.pick(&[ZeroCopy::Off, ZeroCopy::Auto]),
        backlog,
        connection_events: 1000,
        max_turns: random.either(8, 1 + random.below(8) as usize, usize::MAX),
        ..Config::default()
    };
    config.bind.reuse_port = random.one_in(4);
    draw_limits(random, max_connections, &mut config);
    config
}

/// Draws the limits that a host can change, so small that they are reached.
pub(super) fn draw_limits(random: &Random, max_connections: u64, config: &mut Config) {
    // The builder asks for 256 KiB at least, which few peers reach.
    let budget = config.buffer_size * (1 + random.below(4) as usize);
    let networks = ["10.0.0.0/30".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let max_per_source = Some(1 + random.below(3) as usize);
    config.max_connections = 1 + random.below(max_connections) as usize;
    config.max_buffered = random.either(2, budget, 1 << 30);
    config.allow = random.either(8, networks.into(), Vec::new());
    config.max_per_source = random.either(4, max_per_source, None);
    config.idle_timeout = drawn_timeout(random);
    config.write_timeout = drawn_timeout(random);
}

fn drawn_timeout(random: &Random) -> Duration {
    let max = random.pick(&[0, 0, 3_000, 300_000]);
    Duration::from_millis(random.magnitude(max))
}

/// Once in 2 to 2^`bits` times, or never.
fn rarely(random: &Random, is_on: bool, bits: u64) -> u64 {
    let bits = random.below(bits + 1);
    if bits > 0 && is_on { 1 << bits } else { 0 }
}
