//! Sockets that a supervisor hands over: socket activation, see `sd_listen_fds(3)`.

#[cfg(unix)]
use std::{env, io, mem, os::fd::OwnedFd, path::Path};

use mio_echo::BoundSocket;
#[cfg(unix)]
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
};

use crate::cli::CliError;

/// The descriptors that are meant for this process, with their names, in the order of their
/// numbers.
#[cfg(unix)]
pub(crate) struct Descriptors(Vec<(Option<String>, io::Result<OwnedFd>)>);

/// To be called before anything else is opened: a descriptor that is announced and not there would
/// be taken for whatever has its number then.
#[cfg(unix)]
pub(crate) fn descriptors() -> Result<Descriptors, CliError> {
    if let Some((number, name)) = first_missing() {
        return Err(unfit(number, name.as_deref(), &Errno::EBADF.into()));
    }
    let malformed = |_| CliError::failure("LISTEN_PID and LISTEN_FDS are no numbers: unset them");
    let descriptors = sd_listen_fds::get().map_err(malformed)?.into_iter();
    // All of them before the first error, because those that are left would be closed.
    let owned = descriptors.map(|(name, descriptor)| (name, owned(descriptor.into_std())));
    Ok(Descriptors(owned.collect()))
}

/// The sockets that they are.
#[cfg(unix)]
pub(crate) fn sockets(descriptors: Descriptors) -> Result<Vec<BoundSocket>, CliError> {
    let sockets = (3..)
        .zip(descriptors.0)
        .map(|(number, (name, descriptor))| {
            let socket = descriptor.and_then(BoundSocket::new);
            let socket = socket.map_err(|error| unfit(number, name.as_deref(), &error))?;
            let name = in_brackets(name.as_deref());
            log::info!("descriptor {number}{name} is {}", socket.endpoint());
            Ok(socket)
        });
    sockets.collect()
}

#[cfg(unix)]
fn unfit(number: u32, name: Option<&str>, error: &io::Error) -> CliError {
    let name = in_brackets(name);
    CliError::failure(format!(
        "cannot serve at descriptor {number}{name}: {error}"
    ))
}

#[cfg(unix)]
fn in_brackets(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(" ({name})"))
}

/// The first announced descriptor that is not open, with its name. `LISTEN_FDS` may be any number, and
/// `sd_listen_fds` would allocate memory for as many. Without /proc nothing is known, and none found.
#[cfg(unix)]
fn first_missing() -> Option<(u32, Option<String>)> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let count =
        number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id()))?;
    let open = Path::new("/proc/self/fd");
    let is_missing = |number: &u32| open.join(number.to_string()).symlink_metadata().is_err();
    let mut announced = (3..).take(count as usize);
    let number = announced.find(is_missing).filter(|_| open.exists())?;
    let names = env::var("LISTEN_FDNAMES").ok();
    let name = names.and_then(|names| names.split(':').nth(number as usize - 3).map(str::to_owned));
    Some((number, name))
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
pub(crate) fn descriptors() -> Result<Descriptors, CliError> {
    Ok(Descriptors)
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same on every system")]
pub(crate) fn sockets(_descriptors: Descriptors) -> Result<Vec<BoundSocket>, CliError> {
    Ok(Vec::new())
}
