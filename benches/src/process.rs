//! Processes that are started on a core of their own, and that always come to an end.

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

/// Raises the soft limit on open files to the hard one. What is started inherits it.
pub(crate) fn raise_open_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("limit on open files")
}

/// A process, and all that it forks. They end when this is dropped.
pub(crate) struct ProcessGroup {
    pid: Pid,
    /// Until its end is asked for: after that the number may be another process's.
    child: Option<Child>,
}

/// How a process has ended, and what it has printed.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ProcessGroup {
    /// Starts it on that core, by going there first: a process inherits where it may run.
    pub(crate) fn start(command: &mut Command, core: usize) -> Result<Self> {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).with_context(|| format!("core {core}"))?;
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| command.get_program().display().to_string())?;
        Ok(ProcessGroup {
            pid: Pid::from_child(&child),
            child: Some(child),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Whether the first of them has ended. It is not asked how: that would free its number, which
    /// is the group's as well.
    pub(crate) fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// Asks it to end.
    pub(crate) fn interrupt(&self) -> Result<()> {
        Ok(kill_process_group(self.pid, Signal::INT)?)
    }

    /// Waits for its end, for so long. What it prints has to be less than a pipe holds.
    pub(crate) fn finish(mut self, limit: Duration, stop: &Stop) -> Result<Outcome> {
        let begin = Instant::now();
        while !self.has_ended()? {
            stop.check()?;
            ensure!(begin.elapsed() < limit, "it did not end in {limit:?}");
            thread::sleep(Duration::from_millis(10));
        }
        let child = self.child.as_mut().context("has ended before")?;
        let stdout = text(child.stdout.take())?;
        let stderr = text(child.stderr.take())?;
        let status = self.end()?.context("has ended before")?;
        Ok(Outcome {
            status,
            stdout,
            stderr,
        })
    }

    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        // Those that have ended do not mind.
        let _ = kill_process_group(self.pid, Signal::KILL);
        child.wait().map(Some)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn text(pipe: Option<impl Read>) -> io::Result<String> {
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
    fn what_it_has_printed_and_how_it_ended() {
        let stop = Stop::catch().unwrap();
        let group = shell("echo hello; exit 3");
        let outcome = group.finish(Duration::from_secs(20), &stop).unwrap();
        assert_eq!(
            (outcome.status.code(), &*outcome.stdout),
            (Some(3), "hello\n")
        );
    }

    #[test]
    fn forks_end_with_it() {
        let mut group = shell("sleep 1000 & echo; wait");
        let stdout = group.child.as_mut().unwrap().stdout.take().unwrap();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut String::new()).unwrap();
        assert!(!group.has_ended().unwrap());
        drop(group);
        // The end comes when nobody has the pipe any more.
        assert_eq!(stdout.read_line(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn it_is_waited_for_so_long_and_not_longer() {
        let stop = Stop::catch().unwrap();
        let outcome = shell("sleep 1000").finish(Duration::from_millis(20), &stop);
        assert!(outcome.is_err());
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error() {
        let error = ProcessGroup::start(&mut Command::new("true"), CpuSet::MAX_CPU - 1).err();
        let text = format!("{:#}", error.unwrap());
        assert!(text.starts_with("core 1023: "), "{text}");
    }
}
