//! Builds the servers and the load generator, by the cargo that runs this.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What has been built.
#[derive(Default)]
pub(crate) struct Built {
    pub(crate) executables: BTreeMap<String, PathBuf>,
    /// Of the libraries in them, by name.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Built {
    /// Adds what cargo says of a package in this directory, built for release with these arguments.
    pub(crate) fn add(&mut self, directory: &str, arguments: &[&str]) -> Result<()> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--locked"]);
        command.arg("--message-format=json-render-diagnostics");
        command.args(arguments).current_dir(directory);
        let output = command.stderr(Stdio::inherit()).output().context("cargo")?;
        ensure!(output.status.success(), "cargo build: {}", output.status);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            self.note(line);
        }
        Ok(())
    }

    /// A line of cargo's: JSON, one of many kinds.
    fn note(&mut self, line: &str) {
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
    fn executables_and_versions_are_found_in_what_cargo_says() {
        let mut built = Built::default();
        built.note(
            r#"{"package_id":"registry+https://github.com/rust-lang/crates.io-index#tokio@1.2.3",
               "target":{"name":"tokio"},"executable":null}"#,
        );
        built.note(r#"{"target":{"name":"tokio"},"executable":"/target/release/tokio"}"#);
        built.note(r#"{"reason":"build-finished","success":true}"#);
        built.note("not JSON");
        assert_eq!(built.versions["tokio"], "1.2.3");
        assert_eq!(
            built.executables["tokio"],
            PathBuf::from("/target/release/tokio")
        );
        assert_eq!((built.versions.len(), built.executables.len()), (1, 1));
    }
}
