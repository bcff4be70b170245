//! CPU time and memory of processes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// CPU time of client and server at a point in time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    /// In nanoseconds since the start of the program.
    pub(crate) at: u64,
    pub(crate) own: Option<Duration>,
    pub(crate) server: Option<Duration>,
}

/// Resident memory in bytes; see `proc_pid_status(5)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    /// Anonymous memory: without mapped files and shared memory.
    pub(crate) anon: u64,
}

pub(crate) struct ProcessStats {
    server: Option<Process>,
}

impl ProcessStats {
    /// # Errors
    ///
    /// The process does not exist or cannot be read, or the system is not Linux.
    pub(crate) fn new(server: Option<u32>) -> io::Result<Self> {
        let server = server.map(Process);
        if let Some(process) = &server {
            process.processor_time()?;
        }
        Ok(ProcessStats { server })
    }

    pub(crate) fn snapshot(&self, at: u64) -> Snapshot {
        let server = self.server.as_ref();
        Snapshot {
            at,
            own: own_processor_time(),
            server: server.and_then(|process| process.processor_time().ok()),
        }
    }

    pub(crate) fn server_memory(&self) -> Option<Memory> {
        let text = fs::read_to_string(self.server.as_ref()?.file("status")).ok()?;
        Some(Memory {
            rss: bytes(&text, "VmRSS:")?,
            anon: bytes(&text, "RssAnon:")?,
        })
    }
}

struct Process(u32);

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0).into()
    }

    /// The sum of all threads, in nanoseconds; stat has only hundredths of a second.
    fn processor_time(&self) -> io::Result<Duration> {
        let mut sum = None;
        for thread in fs::read_dir(self.file("task"))? {
            // The thread may have ended since.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let time = text.split_whitespace().next();
            *sum.get_or_insert(0) += time.and_then(|time| time.parse().ok()).unwrap_or(0);
        }
        let sum = sum.ok_or(io::ErrorKind::NotFound)?;
        Ok(Duration::from_nanos(sum))
    }
}

/// The value of a line of /proc/PID/status. Its kB are 1024 bytes.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(unix)]
fn own_processor_time() -> Option<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeVal;

    let duration = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        let microseconds = u64::try_from(time.tv_usec()).ok()?;
        Some(Duration::from_secs(seconds) + Duration::from_micros(microseconds))
    };
    let process_stats = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(duration(process_stats.user_time())? + duration(process_stats.system_time())?)
}

#[cfg(not(unix))]
fn own_processor_time() -> Option<Duration> {
    None
}
