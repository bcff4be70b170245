//! What the application changes between two iterations: accepting, limits, single connections.

use super::*;

impl Host {
    /// Changes one thing.
    pub(super) fn change_something(&mut self) {
        world().begin_iteration();
        let choice = world().random.below(5);
        match choice {
            0 => self.pause(),
            1 => self.resume(),
            2 => self.close_one(),
            3 => self.adopt_one(),
            _ => self.set_limits(),
        }
        // Listeners have a turn, whether or not a connection waits.
        for listener in world().listeners() {
            listener.idle_iterations = 0;
        }
    }

    fn pause(&mut self) {
        if !world().is_shutting_down() {
            world().accepts_at = NEVER;
        }
        self.engine.pause_accepting();
    }

    pub(super) fn resume(&mut self) {
        world().accepts_at = 0;
        self.engine.resume_accepting(now());
    }

    fn close_one(&mut self) {
        let Some(token) = world().connections().find_map(|it| it.token) else {
            return;
        };
        world().is_host_closing = true;
        let is_known = self.engine.close_connection(token, now());
        check!(is_known, "a connection is not known");
        world().is_host_closing = false;
    }

    /// Accepts a connection by itself.
    fn adopt_one(&mut self) {
        let has_place = world().has_place();
        let first = world().listeners().find_map(|it| it.waiting.pop_front());
        let Some(connection) = first else {
            return;
        };
        let (stream, peer) = world().accepted(connection);
        let error = self.engine.adopt(stream, peer, now()).err();
        let is_full = error.is_some_and(|it| it.kind() == io::ErrorKind::QuotaExceeded);
        check!(!is_full || !has_place, "a connection is not adopted");
    }

    fn set_limits(&mut self) {
        let config = world().other_limits();
        let result = self.engine.set_limits(&config, now());
        check!(result.is_ok(), "a limit cannot be changed");
    }
}

impl World {
    /// Other limits, from now on. Open connections keep their places, and have the new timeouts and share
    /// the new budget.
    fn other_limits(&mut self) -> Config {
        let plan = &self.plan;
        let drawn = config(&self.random, plan.is_bulk, plan.is_storm);
        let config = Config {
            max_connections: drawn.max_connections.min(plan.max_connections),
            max_per_source: drawn.max_per_source,
            max_buffered: drawn.max_buffered.max(plan.config.buffer_size),
            allow: drawn.allow,
            idle_timeout: drawn.idle_timeout,
            write_timeout: drawn.write_timeout,
            ..plan.config.clone()
        };
        self.plan.config = config.clone();
        self.limits_changed_at = self.engine_now;
        self.retry_accepting();
        for socket in &mut self.sockets {
            socket.is_exempt = socket.state == State::Open;
        }
        config
    }
}
