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
            listener.futile_iterations = 0;
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

    fn set_limits(&mut self, plan: &Plan) {
        // The first limit fixes the range of tokens.
        let config = world().change_limits(plan.config.max_connections as u64);
        let result = self.engine.set_limits(&config, now());
        check!(result.is_ok(), "a limit cannot be changed");
    }
}

impl World {
    /// Other limits, from now on. Open connections keep their places, and have the new timeouts and share
    /// the new budget.
    fn change_limits(&mut self, max_connections: u64) -> Config {
        draw_limits(&self.random, max_connections, &mut self.plan.config);
        self.limits_changed_at = self.engine_now;
        self.retry_accepting();
        for socket in &mut self.sockets {
            socket.is_exempt = socket.is_open;
        }
        self.plan.config.clone()
    }
}
