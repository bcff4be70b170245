//! Sockets that a supervisor hands over: socket activation, see `sd_listen_fds(3)`.

use mio_echo::BoundSocket;

use crate::cli::Failure;

/// The sockets that are meant for this process, in the order of their descriptors.
///
/// To be called before anything else is opened: a descriptor that is announced and not there would
/// be taken for whatever has its number then.
#[cfg(unix)]
pub(crate) fn sockets() -> Result<Vec<BoundSocket>, Failure> {
    let malformed = |_| Failure::of_setup("LISTEN_PID and LISTEN_FDS are no numbers: unset them");
    let descriptors = sd_listen_fds::get().map_err(malformed)?.into_iter();
    // All of them before the first error, because those that are left would be closed.
    let owned = descriptors.map(|(name, descriptor)| (name, unix::owned(descriptor.into_std())));
    let owned: Vec<_> = owned.collect();
    let sockets = (3..).zip(owned).map(|(number, (name, descriptor))| {
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

#[cfg(unix)]
mod unix {
    use std::io;
    use std::mem;
    use std::os::fd::OwnedFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    /// Keeps the descriptor from children. Fails where there is none of that number: then it must
    /// not be closed either.
    pub(super) fn owned(descriptor: OwnedFd) -> io::Result<OwnedFd> {
        match fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
            Ok(_) => Ok(descriptor),
            Err(errno) => {
                mem::forget(descriptor);
                Err(errno.into())
            }
        }
    }
}

/// None: there are no such supervisors here.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn sockets() -> Result<Vec<BoundSocket>, Failure> {
    Ok(Vec::new())
}
