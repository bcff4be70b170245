//! Processes pinned to a core, and killed with everything they fork.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, setrlimit,
    waitid,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::stop::Stop;

/// Raises the soft limit of `RLIMIT_NOFILE` to the hard limit. Child processes inherit it.
pub(crate) fn raise_nofile_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit on open files")
}

/// A process and everything that it forks. Dropping this kills them.
pub(crate) struct ProcessGroup {
    pid: Pid,
    /// `None` after `kill`: the process has been reaped, and its ID may belong to another process.
    child: Option<Child>,
}

/// Exit status and output of a process.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ProcessGroup {
    /// Starts the command on `core`. Pins this thread first: a child process inherits the CPU affinity.
    pub(crate) fn start(command: &mut Command, core: usize) -> Result<Self> {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).with_context(|| format!("cannot pin to core {core}"))?;
        let child = command.process_group(0).spawn();
        let child =
            child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(ProcessGroup {
            pid: Pid::from_child(&child),
            child: Some(child),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Returns whether the first process has exited. Does not reap it (`WNOWAIT`): its ID is also that of
    /// the process group.
    pub(crate) fn has_exited(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// Sends `SIGINT`.
    pub(crate) fn interrupt(&self) -> Result<()> {
        Ok(kill_process_group(self.pid, Signal::INT)?)
    }

    /// Waits until the process exits, for at most `timeout`.
    ///
    /// The output has to fit into a pipe (64 KiB), because it is read afterwards.
    pub(crate) fn wait(mut self, timeout: Duration, stop: &Stop) -> Result<Outcome> {
        let start = Instant::now();
        while !self.has_exited()? {
            stop.check()?;
            ensure!(start.elapsed() < timeout, "did not exit within {timeout:?}");
            thread::sleep(Duration::from_millis(10));
        }
        let child = self.child.as_mut().context("already reaped")?;
        let stdout = read_all(child.stdout.take())?;
        let stderr = read_all(child.stderr.take())?;
        let status = self.kill()?.context("already reaped")?;
        Ok(Outcome {
            status,
            stdout,
            stderr,
        })
    }

    fn kill(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        // An error means that all of them have exited.
        let _ = kill_process_group(self.pid, Signal::KILL);
        child.wait().map(Some)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn read_all(pipe: Option<impl Read>) -> io::Result<String> {
    let mut text = String::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_string(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> ProcessGroup {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        ProcessGroup::start(&mut command, 0).unwrap()
    }

    #[test]
    fn wait_returns_output_and_status() {
        let stop = Stop::catch().unwrap();
        let group = shell("echo hello; exit 3");
        let outcome = group.wait(Duration::from_secs(20), &stop).unwrap();
        assert_eq!(
            (outcome.status.code(), &*outcome.stdout),
            (Some(3), "hello\n")
        );
    }

    #[test]
    fn drop_kills_forked_processes() {
        let mut group = shell("sleep 1000 & echo; wait");
        let stdout = group.child.as_mut().unwrap().stdout.take().unwrap();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut String::new()).unwrap();
        assert!(!group.has_exited().unwrap());
        drop(group);
        // The pipe ends when no process holds its write end any more.
        assert_eq!(stdout.read_line(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn wait_fails_after_timeout() {
        let stop = Stop::catch().unwrap();
        let outcome = shell("sleep 1000").wait(Duration::from_millis(20), &stop);
        assert!(outcome.is_err());
    }

    #[test]
    fn missing_core_is_an_error() {
        let error = ProcessGroup::start(&mut Command::new("true"), CpuSet::MAX_CPU - 1).err();
        let text = format!("{:#}", error.unwrap());
        assert!(text.starts_with("cannot pin to core 1023: "), "{text}");
    }
}
