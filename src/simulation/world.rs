//! The world: what all sockets, peers and checks share. There is one for each thread.
//!
//! It has facts only: which bytes were sent and received, which call returned what, which end closed.
//! The checks judge the engine by them, by its counters and by its log, and never by its private state.

use super::*;

thread_local! {
    /// Never freed, so that it can be borrowed for any time.
    static WORLD: &'static RefCell<World> = Box::leak(Box::default());
}

/// The world of this thread. A statement can borrow it once.
pub(super) fn world() -> RefMut<'static, World> {
    WORLD.with(|world| world.borrow_mut())
}

/// The facts of one run.
#[derive(Default)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    /// The clock. Only the simulation moves it.
    pub(super) now: Micros,
    /// The time that the engine knows in its present turn.
    pub(super) turn_now: Micros,
    /// Turns of all echoes.
    pub(super) turn: u64,
    /// From here on no call fails, and all peers read and close.
    pub(super) is_calm: bool,
    /// When the drain time of the shutdown is over; `NEVER` before the shutdown.
    pub(super) drained_at: Micros,
    /// Nothing can happen any more without the engines, and they wait.
    pub(super) is_asleep: bool,
    /// When the host last changed the limits.
    pub(super) limits_changed_at: Micros,
    /// The host closes a connection.
    pub(super) is_host_closing: bool,
    /// The last poll returned events, or was interrupted by a signal.
    pub(super) had_events: bool,
    pub(super) echoes: Vec<Echo>,
    /// First the listeners and UDP sockets of each echo, then connections.
    pub(super) sockets: Vec<Socket>,
    pub(super) datagrams: Vec<Datagram>,
    /// Datagrams that must not be answered.
    pub(super) replies_dropped: u64,
    /// Datagrams that were answered.
    pub(super) replies: u64,
    pub(super) peers: Vec<Peer>,
    /// Tokens of sockets that were closed.
    pub(super) stale_tokens: Vec<Token>,
    /// Open pipes, of two descriptors each.
    pub(super) pipes: usize,
    pub(super) calls: u64,
    pub(super) calls_in_turn: u64,
    failures: u64,
    /// All that was logged.
    pub(super) story: Vec<String>,
}

/// More calls than any turn needs.
const MAX_CALLS_IN_TURN: u64 = 20_000;

/// Adds a line to the story: it is logged as the engine's own lines are.
macro_rules! tell {
    ($world:expr, $($line:tt)+) => {{
        let (seconds, micros) = ($world.now / 1_000_000, $world.now % 1_000_000);
        log::trace!("{seconds:>6}.{micros:06} {}", format_args!($($line)+));
    }};
}
pub(super) use tell;

impl World {
    pub(super) fn new(plan: &Plan) -> Self {
        let peers = plan.peers.iter().map(|&number| Peer::new(plan, number));
        let mut world = World {
            plan: plan.clone(),
            random: Random::new(plan.seed ^ (1 << 63)),
            drained_at: NEVER,
            peers: peers.collect(),
            ..World::default()
        };
        for echo in 0..plan.echoes {
            world.echoes.push(Echo::default());
            for endpoint in plan.endpoints(echo) {
                let is_udp = matches!(endpoint, Endpoint::Udp(_));
                let kind = if is_udp { Kind::Udp } else { Kind::Listener };
                let socket = world.add_socket(echo, kind);
                (socket.is_accepted, socket.moved_at) = (true, NEVER);
                socket.address = endpoint.address();
            }
        }
        world
    }

    pub(super) fn instant(&self) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_micros(self.now)
    }

    /// What was logged since the last call. It becomes a part of the story.
    pub(super) fn take_log(&mut self) -> Vec<(Level, String)> {
        let lines = log_lines::take();
        for (level, line) in &lines {
            self.story.push(format!("{level:>5} {line}"));
        }
        lines
    }

    /// A turn of an echo begins.
    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
        self.turn_now = self.now;
        self.calls_in_turn = 0;
    }

    /// A system call takes time, and fails if the seed says so. Meanwhile peers may act.
    pub(super) fn call(&mut self, name: &str) -> Outcome<()> {
        self.calls += 1;
        self.calls_in_turn += 1;
        let is_endless = self.calls_in_turn > MAX_CALLS_IN_TURN;
        judge(is_endless, &"the turn", "does not end");
        self.now += self.random.below(3);
        if self.turn > 0 && self.random.one_in(8) {
            self.act();
        }
        self.fail(name)
    }

    /// Fails with one of the errors of this name, if the seed says so.
    pub(super) fn fail(&mut self, name: &str) -> Outcome<()> {
        if self.failures < self.plan.max_failures && self.has_trouble(1) {
            self.failures += 1;
            let errors: Vec<_> = errors(name).split(' ').collect();
            return Err(self.random.pick(&errors));
        }
        Ok(())
    }

    /// True `less` times less often than calls fail.
    pub(super) fn has_trouble(&self, less: u64) -> bool {
        !self.is_calm && self.random.one_in(less * self.plan.trouble)
    }

    /// Fails if the descriptors have run out. They come back at any time.
    pub(super) fn check_descriptors(&self) -> Outcome<()> {
        let open = (0..self.echoes.len()).map(|echo| self.open(echo).count());
        let count = open.sum::<usize>() + 2 * self.pipes;
        let is_over = count >= self.plan.max_descriptors && !self.is_calm;
        let has_none = is_over && self.random.one_in(2);
        if has_none { Err("EMFILE") } else { Ok(()) }
    }

    /// Moves the clock to the next moment in which something happens without the engines, but not beyond
    /// `end`. Peers act when their time comes.
    pub(super) fn step(&mut self, end: Micros) {
        let actions = self.peers.iter().map(|it| it.next_at);
        let changes = self.sockets.iter().map(|it| it.changed_at);
        let changes = changes.filter(|at| *at > self.now);
        let sent = self.sockets.iter().filter_map(|it| it.unresolved.front());
        let next = actions.chain(changes).chain(sent.copied()).min();
        let next = next.unwrap_or(NEVER).min(end);
        self.is_asleep = next == NEVER;
        if !self.is_asleep {
            self.now = self.now.max(next);
        }
        self.act();
        for socket in &mut self.sockets {
            socket.unresolved.retain(|until| *until > self.now);
        }
    }

    /// Peers act whose time has come.
    fn act(&mut self) {
        for index in 0..self.peers.len() {
            if self.peers[index].next_at <= self.now {
                let mut peer = self.peers[index].clone();
                peer.next_at = peer.act(self, index);
                self.peers[index] = peer;
            }
        }
    }

    /// What was simulated: turns, calls, seconds, connections, bytes, datagrams.
    pub(super) fn figures(&self) -> [u64; 6] {
        let streams = self.sockets.iter().filter(|it| it.kind == Kind::Stream);
        let bytes = streams.clone().map(|it| it.echoed).sum();
        let count = streams.count() as u64;
        let (turns, calls, seconds) = (self.turn, self.calls, self.now / SECOND);
        [turns, calls, seconds, count, bytes, self.replies]
    }
}
