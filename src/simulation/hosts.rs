//! What the host changes between turns: accepting, limits, single connections.

use super::*;
use crate::echo::engine::Engine;

/// The host of several loops changes one thing.
pub(super) fn interfere(services: &mut [Service], plan: &Plan) {
    world().begin_turn();
    let echo = world().random.below(services.len() as u64) as usize;
    let engine = &mut services[echo].engine;
    let choice = world().random.below(5);
    match choice {
        0 => pause(echo, engine),
        1 => resume(echo, engine),
        2 => close_one(echo, engine),
        3 => adopt_one(echo, engine),
        _ => set_limits(services, plan),
    }
    // Listeners have a turn, whether or not a connection waits.
    world().sockets.iter_mut().for_each(|it| it.idle_turns = 0);
    world().check_warnings(echo);
}

fn pause(echo: usize, engine: &mut Engine<Simulation>) {
    let is_serving = !world().is_shutting_down();
    world().echoes[echo].is_paused = is_serving;
    engine.pause_accepting();
}

pub(super) fn resume(echo: usize, engine: &mut Engine<Simulation>) {
    world().echoes[echo].is_paused = false;
    world().echoes[echo].backs_off_until = 0;
    let now = world().instant();
    engine.resume_accepting(now);
}

fn close_one(echo: usize, engine: &mut Engine<Simulation>) {
    let open: Vec<_> = world()
        .connections(echo)
        .filter_map(|it| it.token)
        .collect();
    if !open.is_empty() {
        let token = world().random.pick(&open);
        let now = world().instant();
        world().is_host_closing = true;
        judge(
            !engine.close_connection(token, now),
            &"a connection",
            "is not known",
        );
        world().is_host_closing = false;
    }
}

/// The host accepts a connection by itself.
fn adopt_one(echo: usize, engine: &mut Engine<Simulation>) {
    let has_place = world().has_place(echo);
    let Some(connection) = world().first_in_backlog(echo) else {
        return;
    };
    let (descriptor, name) = world().take_connection(connection);
    let now = world().instant();
    let error = engine.adopt(descriptor, name, now).err();
    let is_full = error.is_some_and(|it| it.kind() == io::ErrorKind::QuotaExceeded);
    judge(is_full && has_place, &"a connection", "is not adopted");
}

fn set_limits(services: &mut [Service], plan: &Plan) {
    let config = world().other_limits(plan);
    let now = world().instant();
    for (echo, service) in services.iter_mut().enumerate() {
        let set = service.engine.set_limits(&config, now);
        judge(set.is_err(), &"a limit", "cannot be changed");
        world().check_warnings(echo);
    }
}

impl World {
    fn first_in_backlog(&mut self, echo: usize) -> Option<usize> {
        let sockets = self.sockets.iter_mut();
        let mut listeners = sockets.filter(|it| it.echo == echo && it.kind == Kind::Listener);
        listeners.find_map(|it| it.waiting.pop_front())
    }

    /// Other limits, from now on. Open connections keep their places, and have the new timeouts and share
    /// the new budget.
    fn other_limits(&mut self, plan: &Plan) -> Config {
        let drawn = config(&self.random, plan.is_bulk, plan.is_storm);
        let config = Config {
            max_connections: drawn.max_connections.min(plan.config.max_connections),
            max_per_source: drawn.max_per_source,
            max_buffered: drawn.max_buffered.max(plan.config.buffer_size),
            allow: drawn.allow,
            idle_timeout: drawn.idle_timeout,
            write_timeout: drawn.write_timeout,
            ..plan.config.clone()
        };
        self.limits_changed_at = self.turn_now;
        self.echoes.iter_mut().for_each(|it| it.backs_off_until = 0);
        self.sockets
            .iter_mut()
            .for_each(|it| it.is_exempt = it.is_accepted);
        self.plan.config = config.clone();
        config
    }
}
