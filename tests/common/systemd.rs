//! The program under systemd, which the test plays.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use super::service::PROGRAM;

/// The program with sockets passed as descriptors from 3 on, by a shell. `count` is the value of
/// `LISTEN_FDS`.
pub fn activated(sockets: Vec<OwnedFd>, count: usize, arguments: &str) -> Command {
    // The shell's process becomes the program's, so its number is the right `LISTEN_PID`.
    let environment = format!("LISTEN_PID=$$ LISTEN_FDS={count}");
    let dup = ["exec 3<&0", "exec 4<&1"][..sockets.len()].join("; ");
    let script =
        format!("{dup}; exec 0</dev/null 1>&2; export {environment}; exec '{PROGRAM}' {arguments}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_remove("RUST_LOG");
    let mut sockets = sockets.into_iter();
    if let Some(socket) = sockets.next() {
        command.stdin(socket);
    }
    if let Some(socket) = sockets.next() {
        command.stdout(socket);
    }
    command
}

/// The program with `NOTIFY_SOCKET`.
pub fn notifying(path: &Path, arguments: &[&str]) -> Command {
    let mut command = super::service::program(arguments);
    command
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env("NOTIFY_SOCKET", path);
    command
}
