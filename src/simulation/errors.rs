//! The numbers of the errors that calls return, by the names of the manual pages.

use std::fmt::Debug;

#[cfg(unix)]
pub(super) use nix::libc::*;
#[cfg(windows)]
pub(super) use windows::*;

/// The error as the story shows it.
pub(super) fn name(errno: i32) -> impl Debug {
    #[cfg(unix)]
    return nix::errno::Errno::from_raw(errno);
    #[cfg(windows)]
    return std::io::Error::from_raw_os_error(errno);
}

/// The errors of a connection, which is lost; see "Error handling" in accept(2).
#[cfg(unix)]
pub(super) const LOST: &[i32] = &[
    ECONNABORTED,
    EHOSTDOWN,
    EHOSTUNREACH,
    ENETDOWN,
    ENETUNREACH,
    #[cfg(target_os = "linux")]
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
    ETIMEDOUT,
];
#[cfg(windows)]
pub(super) const LOST: &[i32] = &[ECONNABORTED, ECONNRESET];

/// Most are Berkeley's numbers and 10000; see "Windows Sockets Error Codes" in Microsoft's reference.
/// Where Windows has no such error, it is the one that the standard library puts into the same kind.
#[cfg(windows)]
mod windows {
    pub(crate) const ENFILE: i32 = 4;
    pub(crate) const EPERM: i32 = 5;
    pub(crate) const ENOMEM: i32 = 8;
    pub(crate) const EPIPE: i32 = 109;
    pub(crate) const ENOSPC: i32 = 112;
    pub(crate) const ESPIPE: i32 = 132;
    pub(crate) const EEXIST: i32 = 183;
    pub(crate) const EINTR: i32 = 10004;
    pub(crate) const EACCES: i32 = 10013;
    pub(crate) const EMFILE: i32 = 10024;
    pub(crate) const EAGAIN: i32 = 10035;
    pub(crate) const EALREADY: i32 = 10037;
    pub(crate) const EDESTADDRREQ: i32 = 10039;
    pub(crate) const EMSGSIZE: i32 = 10040;
    pub(crate) const EPROTONOSUPPORT: i32 = 10043;
    pub(crate) const ESOCKTNOSUPPORT: i32 = 10044;
    pub(crate) const EOPNOTSUPP: i32 = 10045;
    pub(crate) const ENETUNREACH: i32 = 10051;
    pub(crate) const ECONNABORTED: i32 = 10053;
    pub(crate) const ECONNRESET: i32 = 10054;
    pub(crate) const ENOBUFS: i32 = 10055;
    pub(crate) const EISCONN: i32 = 10056;
    pub(crate) const ENOTCONN: i32 = 10057;
    pub(crate) const ETIMEDOUT: i32 = 10060;
    pub(crate) const ECONNREFUSED: i32 = 10061;
    pub(crate) const ELOOP: i32 = 10062;
    pub(crate) const EHOSTUNREACH: i32 = 10065;
}
