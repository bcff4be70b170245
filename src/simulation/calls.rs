//! Descriptors, and what all calls have in common: they take time, fail, and are noted.

use super::*;

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
        result.map_err(io_error)
    }
}

/// `epoll_ctl(2)`. A socket that is ready already gets an event.
///
/// The engine registers through mio, which requires a real `Registry`. It is passed along and ignored: the
/// token is noted in the world instead.
impl event::Source for Descriptor {
    fn register(&mut self, _: &Registry, token: Token, _: Interest) -> io::Result<()> {
        self.call("epoll_ctl", |world, id| {
            let socket = &world.sockets[id];
            if socket.is_stream() {
                check!(world.may_open(socket), "{socket} must not be opened");
                world.expected.accepted += 1;
                world.reports.push_back((Some(token), vec!["Opened"]));
            }
            world.sockets[id].token = Some(token);
            world.note_change(id);
            Ok(())
        })
    }

    fn reregister(&mut self, _: &Registry, _: Token, _: Interest) -> io::Result<()> {
        panic!("sockets are registered once")
    }

    /// A connection is closed right after it, and reported with its token.
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        let socket = &mut world().sockets[self.0];
        socket.token = socket.token.filter(|_| socket.is_stream());
        socket.changed_at = None;
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
        // More calls and events than any iteration has.
        check!(self.work <= 20_000, "the iteration does not end");
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
        let is_lacking = self.now < until && errors(name).contains(shortage);
        if is_lacking && !self.is_calm {
            return Err(shortage);
        }
        if !self.happens(self.plan.calls_per_failure) {
            return Ok(());
        }
        let error = self.random.word(errors(name));
        if SHORTAGES.contains(error) {
            self.shortage = (error, self.now + self.random.magnitude(10 * SECOND));
        }
        Err(error)
    }

    fn note_call(&mut self, id: usize, name: &str, error: Option<&'static str>) {
        let activity = &mut self.sockets[id].activity;
        activity.has_called = true;
        let error = error.filter(|it| *it != "EINTR");
        let failure = error.filter(|it| *it != "EAGAIN");
        let is_failure = failure.is_some();
        activity.error = failure.or(activity.error).or(error);
        // Listeners and UDP sockets may back off.
        let retries_at = (self.engine_now + RETRY_INTERVAL) * u64::from(is_failure);
        self.retries_at = self.retries_at.max(retries_at);
        activity.has_progress |= is_failure || (error.is_none() && name != "epoll_ctl");
        self.expected.receive_errors += u64::from(is_failure && name == "recvmmsg");
        // An error of accept(2) itself, and not of a connection, pauses all listeners.
        let is_own = failure.is_some_and(|it| !errors("accept after loss").contains(it));
        if is_own && name == "accept" && !self.is_shutting_down() {
            self.accepts_at = self.engine_now + RETRY_INTERVAL;
        }
    }

    /// A socket is closed by the service, or a connection is lost in the backlog.
    pub(super) fn close(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        (socket.is_open, socket.changed_at) = (false, None);
        if id < UDP {
            // Connections in the backlog are reset.
            for connection in mem::take(&mut socket.waiting) {
                self.close(connection);
            }
        } else if id > UDP {
            if let Some(client) = self.wake_client(id) {
                client.connection = None;
            }
            // There may be room for another one, so listeners have a turn.
            self.retry_accepting();
            self.listeners().for_each(|it| it.activity.is_woken = true);
        }
    }
}

/// What a call returns: an error by its name.
pub(super) type Outcome<T> = Result<T, &'static str>;

/// The errors of a resource that the whole system can run out of.
const SHORTAGES: &str = "EMFILE ENFILE ENOBUFS ENOMEM ENOSPC";

/// Without `EBADF`, `EFAULT`, `ENOTSOCK` and `EINVAL`. `EAGAIN` follows from the state of the socket.
/// tcp(7), udp(7), unix(7) and ip(7) add to the pages of the calls. `EIO` refuses a train of datagrams
/// (`UDP_SEGMENT`). One text for each call: a name that is looked for in it is never a part of another one.
pub(super) fn errors(call: &str) -> &'static str {
    match call {
        "send" | "sendmmsg" | "recv" | "recvmmsg" => {
            "EINTR EACCES EALREADY ECONNREFUSED ECONNRESET EDESTADDRREQ EHOSTUNREACH EIO EISCONN \
             EMSGSIZE ENETUNREACH ENOBUFS ENOMEM ENOPROTOOPT ENOTCONN EOPNOTSUPP EPERM EPIPE ETIMEDOUT"
        }
        // It can return `EAGAIN` although there are bytes.
        "splice in" => "EINTR EAGAIN EACCES ECONNRESET ENOMEM ESPIPE ETIMEDOUT",
        "splice out" => "EINTR EACCES ECONNRESET ENOMEM EPIPE ESPIPE",
        "shutdown" => "ENOTCONN ENOBUFS",
        "accept" => "EINTR EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTONOSUPPORT ESOCKTNOSUPPORT",
        // Of a connection that was lost while it waited; see "Error handling" in accept(2).
        "accept after loss" => {
            "ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENONET ENOPROTOOPT EOPNOTSUPP \
             EPROTO ETIMEDOUT"
        }
        "epoll_ctl" => "EEXIST ELOOP ENOMEM ENOSPC EPERM",
        "pipe" => "EMFILE ENFILE",
        "malloc" => "ENOMEM",
        _ => panic!("{call} has no errors"),
    }
}

/// A system without an error of this name has another one instead.
#[cfg(unix)]
pub(super) fn io_error(name: &str) -> io::Error {
    use nix::errno::Errno;

    static ERRORS: LazyLock<HashMap<String, Errno>> = LazyLock::new(|| {
        let all = (1..=133).map(Errno::from_raw);
        all.map(|it| (format!("{it:?}"), it)).collect()
    });
    let errno = ERRORS.get(name);
    assert!(errno.is_some() || !cfg!(target_os = "linux"), "{name}");
    (*errno.unwrap_or(&Errno::EPROTO)).into()
}

/// On Windows the engine goes by the kind.
#[cfg(windows)]
pub(super) fn io_error(name: &str) -> io::Error {
    let kind = match name {
        "EAGAIN" => io::ErrorKind::WouldBlock,
        "EINTR" => io::ErrorKind::Interrupted,
        "ECONNRESET" => io::ErrorKind::ConnectionReset,
        "ENOTCONN" => io::ErrorKind::NotConnected,
        "EPIPE" => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::Other,
    };
    kind.into()
}
