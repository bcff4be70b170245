//! The machine on which the figures were measured.

use std::fmt;
use std::fs;
use std::thread;

use rustix::system::uname;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<usize>,
    kernel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

impl Machine {
    /// Describes this machine. What its system does not tell is absent.
    pub(crate) fn this() -> Self {
        let uname = uname();
        let (name, release) = (uname.sysname().to_string_lossy(), uname.release());
        // What follows the version is the name of a build.
        let version = release.to_string_lossy();
        let version = version.split('-').next().unwrap_or_default();
        let kibibytes = |text: String| text.strip_suffix(" kB")?.parse::<u64>().ok();
        Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().map(usize::from).ok(),
            kernel: format!("{name} {version}"),
            memory_bytes: field("/proc/meminfo", "MemTotal")
                .and_then(kibibytes)
                .map(|it| it * 1024),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cpu) = &self.cpu {
            write!(f, "{cpu}, ")?;
        }
        if let Some(cores) = self.cores {
            write!(f, "{cores} cores, ")?;
        }
        f.write_str(&self.kernel)
    }
}

/// Returns the value of the first line `name: value` in `file`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(value)
}
