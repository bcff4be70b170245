//! What the application changes between two iterations: accepting, limits, single connections.

use super::*;

impl Host {
    /// Changes one thing.
    pub(super) fn interfere(&mut self) {
        world().begin_iteration();
        let service = world().random.below(self.engines.len() as u64) as usize;
        let choice = world().random.below(5);
        match choice {
            0 => self.pause(service),
            1 => self.resume(service),
            2 => self.close_one(service),
            3 => self.adopt_one(service),
            _ => self.set_limits(),
        }
        // Listeners have a turn, whether or not a connection waits.
        for service in 0..self.engines.len() {
            world()
                .listeners(service)
                .for_each(|it| it.idle_iterations = 0);
        }
    }

    fn pause(&mut self, service: usize) {
        if !world().is_shutting_down() {
            world().services[service].accepts_at = NEVER;
        }
        self.engines[service].pause_accepting();
    }

    pub(super) fn resume(&mut self, service: usize) {
        world().services[service].accepts_at = 0;
        self.engines[service].resume_accepting(now());
    }

    fn close_one(&mut self, service: usize) {
        let Some(token) = world().connections(service).find_map(|it| it.token) else {
            return;
        };
        world().is_host_closing = true;
        let is_known = self.engines[service].close_connection(token, now());
        judge(!is_known, &"a connection", "is not known");
        world().is_host_closing = false;
    }

    /// Accepts a connection by itself.
    fn adopt_one(&mut self, service: usize) {
        let has_place = world().has_place(service);
        let Some((stream, peer)) = world().take_first(service) else {
            return;
        };
        let error = self.engines[service].adopt(stream, peer, now()).err();
        let is_full = error.is_some_and(|it| it.kind() == io::ErrorKind::QuotaExceeded);
        judge(is_full && has_place, &"a connection", "is not adopted");
    }

    fn set_limits(&mut self) {
        let config = world().other_limits();
        let now = now();
        for engine in &mut self.engines {
            let result = engine.set_limits(&config, now);
            judge(result.is_err(), &"a limit", "cannot be changed");
        }
    }
}

impl World {
    /// Other limits, from now on. Open connections keep their places, and have the new timeouts and share
    /// the new budget.
    fn other_limits(&mut self) -> Config {
        let (plan, present) = (&self.plan, &self.plan.config);
        let drawn = config(&self.random, plan.is_bulk, plan.is_storm);
        let config = Config {
            max_connections: drawn.max_connections.min(present.max_connections),
            max_per_source: drawn.max_per_source,
            max_buffered: drawn.max_buffered.max(present.buffer_size),
            allow: drawn.allow,
            idle_timeout: drawn.idle_timeout,
            write_timeout: drawn.write_timeout,
            ..present.clone()
        };
        self.plan.config = config.clone();
        self.limits_changed_at = self.engine_now;
        self.services.iter_mut().for_each(Service::retry_accepting);
        for socket in &mut self.sockets {
            socket.is_exempt = socket.state == State::Open;
        }
        config
    }
}
