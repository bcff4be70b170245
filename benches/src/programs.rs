//! Programs to run: built from this repository, or installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::Built;
use crate::native::{NATIVE, Native};
use crate::options::Options;
use crate::servers::{SERVERS, Server};

/// The directory of this package.
pub(crate) const BENCHES_DIR: &str = env!("CARGO_MANIFEST_DIR");
/// The directory of the package `mio-echo`.
const ROOT_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) struct Programs {
    paths: BTreeMap<String, PathBuf>,
    /// Why servers cannot be built, by the names of their programs.
    not_built: BTreeMap<&'static str, String>,
    pub(crate) versions: BTreeMap<String, String>,
}

impl Programs {
    /// Builds the programs of this repository that the selected servers need, looks for installed ones, and
    /// prints which servers are skipped.
    pub(crate) fn find(options: &Options) -> Result<Self> {
        let selected = SERVERS.iter().filter(|it| options.includes(it));
        let selected: Vec<&Server> = selected.collect();
        let built = build(&selected)?;
        let mut programs = Programs {
            versions: versions(&built),
            paths: built.executables,
            not_built: BTreeMap::new(),
        };
        programs.build_native(&selected);
        programs.find_socat();
        programs.find_python();
        for server in selected {
            if let Some(reason) = programs.missing_for(server) {
                eprintln!("{}: skipped, {reason}", server.title);
            }
        }
        Ok(programs)
    }

    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        let path = self.paths.get(name);
        Ok(path.with_context(|| format!("{name} is not installed"))?)
    }

    /// Returns why `server` cannot run: a program or module that it needs is missing.
    pub(crate) fn missing_for(&self, server: &Server) -> Option<String> {
        let needs = [Some(server.program()), server.needs];
        let mut needs = needs.into_iter().flatten();
        let missing = needs.find(|name| !self.paths.contains_key(*name))?;
        let not_installed = || format!("{missing} is not installed");
        Some(
            self.not_built
                .get(missing)
                .cloned()
                .unwrap_or_else(not_installed),
        )
    }

    fn build_native(&mut self, servers: &[&Server]) {
        let needed = |it: &&Native| servers.iter().any(|server| server.program() == it.name);
        for native in NATIVE.iter().filter(needed) {
            match native.build() {
                Ok(path) => {
                    let words: Vec<&str> = native.version.split(' ').collect();
                    let version = output(words[0], &words[1..]);
                    self.paths.insert(native.name.to_owned(), path);
                    let version = version.as_deref().map_or("?", str::trim);
                    self.versions
                        .insert(native.library.to_owned(), version.to_owned());
                }
                Err(reason) => drop(self.not_built.insert(native.name, reason)),
            }
        }
    }

    fn find_socat(&mut self) {
        let Some(text) = output("socat", &["-V"]) else {
            return;
        };
        let version = text
            .lines()
            .find_map(|it| it.strip_prefix("socat version "));
        let version = version.and_then(|it| it.split(' ').next());
        self.add("socat", "socat".into(), version.unwrap_or("?"));
    }

    /// Prefers an interpreter that has uvloop, so that both event loops run on the same.
    fn find_python(&mut self) {
        const EXECUTABLE: &str = "import sys, platform; \
                                  print(sys.executable, platform.python_version())";
        const UVLOOP: &str = "import uvloop; print(uvloop.__version__)";

        for candidate in ["python3", "/usr/bin/python3"] {
            // The candidate may be a wrapper script (pyenv), so ask for the interpreter's own path.
            let Some(text) = output(candidate, &["-c", EXECUTABLE]) else {
                continue;
            };
            let Some((executable, version)) = text.trim().rsplit_once(' ') else {
                continue;
            };
            let uvloop = output(executable, &["-c", UVLOOP]);
            if uvloop.is_some() || self.path("python3").is_err() {
                self.add("python3", executable.into(), version);
            }
            if let Some(version) = uvloop {
                self.add("uvloop", executable.into(), version.trim());
                return;
            }
        }
    }

    fn add(&mut self, name: &str, path: PathBuf, version: &str) {
        self.paths.insert(name.to_owned(), path);
        self.versions.insert(name.to_owned(), version.to_owned());
    }
}

/// Builds `mio-echo`, which is also the load generator, and the servers in Rust.
fn build(servers: &[&Server]) -> Result<Built> {
    const RUST: [&str; 3] = ["epoll", "tokio", "naive-mio"];

    let mut built = Built::default();
    built.build(ROOT_DIR, &["--bin", "mio-echo"])?;
    let programs = servers.iter().map(|it| it.program());
    let programs = programs.filter(|it| RUST.contains(it));
    let targets: Vec<&str> = programs.flat_map(|it| ["--bin", it]).collect();
    if !targets.is_empty() {
        built.build(BENCHES_DIR, &targets)?;
    }
    Ok(built)
}

fn versions(built: &Built) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for name in ["mio", "tokio"] {
        if let Some(version) = built.versions.get(name) {
            versions.insert(name.to_owned(), version.clone());
        }
    }
    let git = ["-C", ROOT_DIR, "describe", "--always", "--dirty"];
    for (name, program, arguments) in [("rustc", "rustc", &["-V"][..]), ("mio-echo", "git", &git)] {
        if let Some(text) = output(program, arguments) {
            versions.insert(name.to_owned(), text.trim().to_owned());
        }
    }
    versions
}

/// Returns the standard output of a program, or `None` if it is not installed or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
