//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::servers::{SERVERS, Server};
use crate::workloads::{WORKLOADS, Workload};

/// Puts the same load on mio-echo and on other echo servers, and compares.
///
/// A whole run takes some 20 minutes. Let nothing else run meanwhile.
#[derive(Debug, Parser)]
#[command(
    name = "mio-echo-comparison",
    bin_name = "cargo run --release --manifest-path benches/Cargo.toml --",
    max_term_width = 100
)]
pub(crate) struct Options {
    /// How often to measure each server with each workload
    #[arg(long, value_name = "N", default_value = "5", value_parser = rounds)]
    pub(crate) rounds: usize,

    /// For how long to measure each time; such as 2s or 500ms
    ///
    /// Connections one after the other (churn) are measured for a second at the most, so as not to
    /// use up all ports.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2s")]
    pub(crate) duration: Duration,

    /// For how long to put load on it before that
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "500ms")]
    pub(crate) warm_up: Duration,

    /// Only this workload; may be there several times
    #[arg(long, value_name = "WORKLOAD", value_parser = workload_names())]
    only: Vec<String>,

    /// Only this server; may be there several times. Without mio-echo there are no ratios
    #[arg(long, value_name = "NAME", value_parser = server_names())]
    server: Vec<String>,

    /// The core for the servers
    #[arg(long, value_name = "CORE", default_value = "0", value_parser = core)]
    pub(crate) server_core: usize,

    /// The core for the load generator
    #[arg(long, value_name = "CORE", default_value = "1", value_parser = core)]
    pub(crate) client_core: usize,

    /// Where the results and the charts go; what is there is replaced
    #[arg(long, value_name = "DIRECTORY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"),
          hide_default_value = true)]
    pub(crate) results: PathBuf,

    /// Draw the charts anew from the results that are there, and measure nothing
    #[arg(long)]
    pub(crate) draw: bool,
}

impl Options {
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        let is_wanted = |it: &&Workload| is_among(it.name, &self.only);
        WORKLOADS.iter().filter(is_wanted)
    }

    pub(crate) fn has(&self, server: &Server) -> bool {
        is_among(server.name, &self.server)
    }
}

/// Whether it was named, or nothing was.
fn is_among(name: &str, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|it| it == name)
}

fn workload_names() -> PossibleValuesParser {
    let names = WORKLOADS.iter().map(|it| it.name);
    PossibleValuesParser::new(names)
}

fn server_names() -> PossibleValuesParser {
    let names = SERVERS.iter().map(|it| it.name);
    PossibleValuesParser::new(names)
}

fn rounds(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok();
    let is_fit = |number: &usize| (1..=1000).contains(number);
    number.filter(is_fit).ok_or("write a number from 1 to 1000")
}

fn core(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok();
    let is_fit = |number: &usize| *number < rustix::thread::CpuSet::MAX_CPU;
    number.filter(is_fit).ok_or("write the number of a core")
}

fn time(text: &str) -> Result<Duration, &'static str> {
    let time = humantime::parse_duration(text).ok();
    let is_fit = |time: &Duration| (1..=600_000).contains(&time.as_millis());
    time.filter(is_fit)
        .ok_or("write a number and a unit, such as 2s, up to 10m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> (Vec<&'static str>, Vec<&'static str>) {
        let program = ["comparison"];
        let options = Options::parse_from(program.iter().chain(arguments));
        let workloads = options.workloads().map(|it| it.name).collect();
        let servers = SERVERS.iter().filter(|it| options.has(it));
        (workloads, servers.map(|it| it.name).collect())
    }

    #[test]
    fn without_filters_everything_is_measured() {
        let (workloads, servers) = names(&[]);
        assert_eq!(workloads.len(), WORKLOADS.len());
        assert_eq!(servers.len(), SERVERS.len());
    }

    #[test]
    fn filters_leave_what_they_name_in_the_order_of_the_tables() {
        let arguments = ["--only=udp", "--only=churn", "--server=tokio"];
        assert_eq!(names(&arguments), (vec!["churn", "udp"], vec!["tokio"]));
    }

    #[test]
    fn what_there_is_not_is_a_mistake() {
        for argument in ["--only=chrun", "--server=x", "--rounds=0", "--duration=0s"] {
            assert!(Options::try_parse_from(["comparison", argument]).is_err());
        }
    }
}
