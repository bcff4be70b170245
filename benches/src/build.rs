//! Builds the programs of this repository with cargo.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The executables that cargo has built, and the libraries in them.
#[derive(Default)]
pub(crate) struct Built {
    /// Paths by target name.
    pub(crate) executables: BTreeMap<String, PathBuf>,
    /// Versions of the libraries, by name.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Built {
    /// Builds the package in `directory` for release, and adds its executables and libraries.
    ///
    /// `arguments` select the targets. Uses the cargo that runs this program.
    pub(crate) fn build(&mut self, directory: &str, arguments: &[&str]) -> Result<()> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--locked"]);
        command.arg("--message-format=json-render-diagnostics");
        command.args(arguments).current_dir(directory);
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(
            output.status.success(),
            "cargo build failed: {}",
            output.status
        );
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            self.add_message(line);
        }
        Ok(())
    }

    /// Adds the target of one line of cargo's JSON messages. Ignores lines of other kinds.
    fn add_message(&mut self, line: &str) {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        let Some(name) = message["target"]["name"].as_str() else {
            return;
        };
        if let Some(path) = message["executable"].as_str() {
            self.executables.insert(name.to_owned(), path.into());
        } else if let Some((_, version)) = from_registry(&message["package_id"]) {
            self.versions.insert(name.to_owned(), version.to_owned());
        }
    }
}

fn from_registry(package: &Value) -> Option<(&str, &str)> {
    let package = package.as_str()?.strip_prefix("registry+")?;
    package.rsplit_once('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_executables_and_versions_in_cargo_messages() {
        let mut built = Built::default();
        built.add_message(
            r#"{"package_id":"registry+https://github.com/rust-lang/crates.io-index#tokio@1.2.3",
               "target":{"name":"tokio"},"executable":null}"#,
        );
        built.add_message(r#"{"target":{"name":"tokio"},"executable":"/target/release/tokio"}"#);
        built.add_message(r#"{"reason":"build-finished","success":true}"#);
        built.add_message("not JSON");
        assert_eq!(built.versions["tokio"], "1.2.3");
        assert_eq!(
            built.executables["tokio"],
            PathBuf::from("/target/release/tokio")
        );
        assert_eq!((built.versions.len(), built.executables.len()), (1, 1));
    }
}
