//! Descriptors, and what all calls have in common: they take time, fail, and are noted.

use super::*;

/// More calls and events than any iteration has.
const MAX_WORK: u64 = 20_000;

/// A descriptor of the engine, of any kind of socket. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) usize);

impl Descriptor {
    /// A system call: does what `act` does with the socket, or fails with an error of its manual page.
    pub(super) fn call<T: Debug>(
        &self,
        name: &str,
        act: impl FnOnce(&mut World, usize) -> Outcome<T>,
    ) -> io::Result<T> {
        let mut world = world();
        let result = world.call(name).and_then(|()| act(&mut world, self.0));
        tell!(world, "{}: {name}: {result:?}", world.sockets[self.0]);
        world.note_call(self.0, name, result.as_ref().err().copied());
        result.map_err(error)
    }
}

/// `epoll_ctl(2)`. A socket that is ready already gets an event.
///
/// The engine registers through mio, which requires a real `Registry`. It is passed along and ignored: the
/// token is noted in the world instead.
impl event::Source for Descriptor {
    fn register(&mut self, _: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.call("epoll_ctl", |world, id| {
            world.sockets[id].token = Some(token);
            world.note_change(id);
            Ok(())
        })
    }

    fn reregister(&mut self, _: &Registry, _: Token, _: Interest) -> io::Result<()> {
        panic!("sockets are registered once")
    }

    /// Sockets other than UDP's are closed right after it.
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        let socket = &mut world().sockets[self.0];
        if socket.kind == Kind::Udp {
            (socket.token, socket.changed_at) = (None, None);
        }
        Ok(())
    }
}

/// close(2).
impl Drop for Descriptor {
    fn drop(&mut self) {
        if !thread::panicking() {
            let mut world = world();
            tell!(world, "{}: close", world.sockets[self.0]);
            world.check_close(self.0);
            world.close(self.0);
        }
    }
}

/// A call that moves nothing would block.
pub(super) fn or_would_block(count: usize) -> Outcome<usize> {
    if count > 0 { Ok(count) } else { Err("EAGAIN") }
}

impl World {
    /// Sometimes, but not in the calm part: once in `times`, or never if it is 0.
    pub(super) fn happens(&self, times: u64) -> bool {
        !self.is_calm && self.random.one_in(times)
    }

    /// A system call takes time, and fails if the seed says so. Meanwhile clients may act.
    pub(super) fn call(&mut self, name: &str) -> Outcome<()> {
        self.work += 1;
        check!(self.work <= MAX_WORK, "the iteration does not end");
        self.now += self.random.below(3);
        if self.random.one_in(8) {
            self.act();
        }
        self.may_fail(name)
    }

    /// Fails with one of the errors of this name, if the seed says so. Descriptors and memory can be short
    /// for a time: then each call that needs them fails.
    pub(super) fn may_fail(&mut self, name: &str) -> Outcome<()> {
        let (shortage, until) = self.shortage;
        let is_lacking = self.now < until && can_fail_with(name, shortage);
        if is_lacking && !self.is_calm {
            return Err(shortage);
        }
        let is_over = self.failures >= self.plan.max_failures;
        if is_over || !self.happens(self.plan.calls_per_failure) {
            return Ok(());
        }
        self.failures += 1;
        let error = self.random.word(errors(name));
        if SHORTAGES.contains(error) {
            self.shortage = (error, self.now + self.random.magnitude(10 * SECOND));
        }
        Err(error)
    }

    fn note_call(&mut self, id: usize, name: &str, error: Option<&'static str>) {
        let listener = self.sockets[id].address.map_or(UNIX, |_| TCP);
        let activity = &mut self.sockets[id].activity;
        activity.has_called = true;
        if error == Some("EINTR") {
            return;
        }
        let is_failure = error.is_some_and(|it| it != "EAGAIN");
        if is_failure || activity.error.is_none() {
            activity.error = error;
        }
        activity.has_progress |= is_failure || (error.is_none() && name != "epoll_ctl");
        self.expected.receive_errors += u64::from(is_failure && name == "recvmmsg");
        if is_failure && name == "epoll_ctl" {
            // A connection that cannot be registered pauses its listener.
            self.sockets[listener].activity.error = error;
        }
        // An error of accept(2) itself, and not of a connection, pauses all listeners.
        let is_paused = name == "accept" && error.is_some_and(|it| can_fail_with(name, it));
        if is_paused && !self.is_shutting_down() {
            self.accepts_at = self.engine_now + RETRY_INTERVAL;
        }
    }

    /// A socket is closed by the service, or a connection is lost in the backlog.
    pub(super) fn close(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        (socket.is_open, socket.changed_at) = (false, None);
        if socket.kind == Kind::Listener {
            // Connections in the backlog are reset.
            for connection in mem::take(&mut socket.waiting) {
                self.close(connection);
            }
        } else if socket.kind == Kind::Stream {
            if let Some(client) = self.wake_client(id) {
                client.connection = None;
            }
            // There may be room for another one, so listeners have a turn.
            self.retry_accepting();
            self.listeners().for_each(|it| it.activity.is_woken = true);
        }
    }
}
