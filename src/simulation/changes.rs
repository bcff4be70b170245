//! What the host changes between two iterations: accepting, limits, single connections.

use super::*;

impl Host {
    /// Changes one thing.
    pub(super) fn change_something(&mut self, plan: &Plan) {
        world().begin_iteration();
        let choice = world().random.below(5);
        match choice {
            0 => self.resume_accepting(NEVER),
            1 => self.resume_accepting(0),
            2 => self.close_one(),
            3 => self.adopt_one(),
            _ => self.set_limits(plan),
        }
        // Listeners have a turn, whether or not a connection waits.
        for listener in world().listeners() {
            listener.idle_iterations = 0;
        }
    }

    /// Pauses accepting if it is resumed `NEVER`, and else resumes it.
    fn resume_accepting(&mut self, at: Micros) {
        if !world().is_shutting_down() {
            world().accepts_at = at;
        }
        if at == NEVER {
            self.engine.pause_accepting();
        } else {
            self.engine.resume_accepting(now());
        }
    }

    fn close_one(&mut self) {
        let first = world().connections().map(|it| it.id).next();
        let Some(id) = first else { return };
        let token = world().sockets[id].token;
        world().is_host_closing = true;
        let is_known = token.is_some_and(|it| self.engine.close_connection(it, now()));
        world().is_host_closing = false;
        let is_open = world().sockets[id].is_open;
        check!(is_known && !is_open, "a connection is not closed");
    }

    /// Accepts a connection by itself. If adopting fails, its close is checked.
    fn adopt_one(&mut self) {
        let first = world().listeners().find_map(|it| it.waiting.pop_front());
        let Some(connection) = first else { return };
        let (stream, peer) = world().accepted(connection);
        let _ = self.engine.adopt(stream, peer, now());
    }

    /// Other limits, from now on. Open connections keep their places, and have the new timeouts and share
    /// the new budget.
    fn set_limits(&mut self, plan: &Plan) {
        let mut world = world();
        let drawn = draw_config(&world.random, plan.is_bulk, plan.is_storm);
        let config = &mut world.plan.config;
        // The first limit fixes the range of tokens.
        config.max_connections = drawn.max_connections.min(plan.config.max_connections);
        config.max_per_source = drawn.max_per_source;
        config.max_buffered = drawn.max_buffered.max(config.buffer_size);
        config.allow = drawn.allow;
        config.idle_timeout = drawn.idle_timeout;
        config.write_timeout = drawn.write_timeout;
        let config = config.clone();
        world.limits_changed_at = world.engine_now;
        world.retry_accepting();
        for socket in &mut world.sockets {
            socket.is_exempt = socket.is_open;
        }
        drop(world);
        let result = self.engine.set_limits(&config, now());
        check!(result.is_ok(), "a limit cannot be changed");
    }
}
