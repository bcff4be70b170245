//! Sockets that a supervisor hands over: socket activation, see `sd_listen_fds(3)`.

#[cfg(unix)]
use std::{io, mem, os::fd::OwnedFd};

use mio_echo::BoundSocket;
#[cfg(unix)]
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::cli::Failure;

/// The descriptors that are meant for this process, with their names, in the order of their
/// numbers.
#[cfg(unix)]
pub(crate) struct Descriptors(Vec<(Option<String>, io::Result<OwnedFd>)>);

/// To be called before anything else is opened: a descriptor that is announced and not there would
/// be taken for whatever has its number then.
#[cfg(unix)]
pub(crate) fn descriptors() -> Result<Descriptors, Failure> {
    let malformed = |_| Failure::of_setup("LISTEN_PID and LISTEN_FDS are no numbers: unset them");
    let descriptors = sd_listen_fds::get().map_err(malformed)?.into_iter();
    // All of them before the first error, because those that are left would be closed.
    let owned = descriptors.map(|(name, descriptor)| (name, owned(descriptor.into_std())));
    Ok(Descriptors(owned.collect()))
}

/// The sockets that they are.
#[cfg(unix)]
pub(crate) fn sockets(descriptors: Descriptors) -> Result<Vec<BoundSocket>, Failure> {
    let sockets = (3..)
        .zip(descriptors.0)
        .map(|(number, (name, descriptor))| {
            let name = name.map_or(String::new(), |name| format!(" ({name})"));
            let socket = descriptor.and_then(BoundSocket::new).map_err(|error| {
                Failure::of_setup(format!(
                    "cannot serve at descriptor {number}{name}: {error}"
                ))
            })?;
            log::info!("descriptor {number}{name} is {}", socket.endpoint());
            Ok(socket)
        });
    sockets.collect()
}

/// Keeps the descriptor from children. Fails where there is none of that number: then it must not be
/// closed either.
#[cfg(unix)]
fn owned(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(descriptor),
        Err(errno) => {
            mem::forget(descriptor);
            Err(errno.into())
        }
    }
}

/// None: there are no such supervisors here.
#[cfg(not(unix))]
pub(crate) struct Descriptors;

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn descriptors() -> Result<Descriptors, Failure> {
    Ok(Descriptors)
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn sockets(_descriptors: Descriptors) -> Result<Vec<BoundSocket>, Failure> {
    Ok(Vec::new())
}
