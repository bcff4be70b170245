//! The errors that the manual pages name, of each call and of what can happen to it.

use super::*;

/// What a call returns: an error by its name.
pub(super) type Outcome<T> = Result<T, &'static str>;

/// The errors of a resource that the whole system can run out of.
pub(super) const SHORTAGES: &str = "EMFILE ENFILE ENOBUFS ENOMEM ENOSPC";

/// Without `EBADF`, `EFAULT`, `ENOTSOCK` and `EINVAL`. `EAGAIN` follows from the state of the socket.
/// tcp(7), udp(7), unix(7) and ip(7) add to the pages of the calls. `EIO` refuses a train of datagrams
/// (`UDP_SEGMENT`).
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

pub(super) fn can_fail_with(call: &str, error: &str) -> bool {
    errors(call).split(' ').any(|it| it == error)
}

/// A system without an error of this name has another one instead.
#[cfg(unix)]
pub(super) fn error(name: &str) -> io::Error {
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
pub(super) fn error(name: &str) -> io::Error {
    let kind = match name {
        "EAGAIN" => io::ErrorKind::WouldBlock,
        "EINTR" => io::ErrorKind::Interrupted,
        "ENOMEM" => io::ErrorKind::OutOfMemory,
        "ECONNABORTED" => io::ErrorKind::ConnectionAborted,
        "ECONNREFUSED" => io::ErrorKind::ConnectionRefused,
        "ECONNRESET" => io::ErrorKind::ConnectionReset,
        "EHOSTUNREACH" => io::ErrorKind::HostUnreachable,
        "ENETUNREACH" => io::ErrorKind::NetworkUnreachable,
        "ENOTCONN" => io::ErrorKind::NotConnected,
        "EPIPE" => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::Other,
    };
    kind.into()
}
