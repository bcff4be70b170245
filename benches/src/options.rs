//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::servers::{SERVERS, Server};
use crate::workloads::{WORKLOADS, Workload};

/// Compares mio-echo with other echo servers under the same load.
///
/// A run of all workloads takes about 40 minutes. Other programs distort the figures meanwhile.
#[derive(Debug, Parser)]
#[command(
    name = "mio-echo-comparison",
    bin_name = "cargo run --release --manifest-path benches/Cargo.toml --",
    max_term_width = 100
)]
pub(crate) struct Options {
    /// Number of measurements of each server under each workload
    #[arg(long, value_name = "N", default_value = "15", value_parser = rounds)]
    pub(crate) rounds: usize,

    /// Duration of each measurement, such as 2s or 500ms
    ///
    /// churn is measured for at most one second, because each of its connections occupies a local port
    /// for a while. idle has a fixed duration.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "500ms")]
    pub(crate) duration: Duration,

    /// Duration of the load before each measurement
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "200ms")]
    pub(crate) warm_up: Duration,

    /// Measure only this workload; can be repeated
    #[arg(long, value_name = "WORKLOAD", value_parser = workload_names())]
    only: Vec<String>,

    /// Measure only this server; can be repeated. The ratios need mio-echo
    #[arg(long, value_name = "NAME", value_parser = server_names())]
    server: Vec<String>,

    /// Core on which the servers run
    #[arg(long, value_name = "CORE", default_value = "0", value_parser = core)]
    pub(crate) server_core: usize,

    /// Core on which the load generator runs
    #[arg(long, value_name = "CORE", default_value = "1", value_parser = core)]
    pub(crate) client_core: usize,

    /// Measure although other programs use the two cores
    #[arg(long)]
    pub(crate) noisy: bool,

    /// Directory for results.json and the charts, which are overwritten [default: benches/results]
    #[arg(long, value_name = "DIRECTORY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"),
          hide_default_value = true)]
    pub(crate) results: PathBuf,

    /// Summarise the rounds in results.json again, and redraw the charts, without measuring
    #[arg(long)]
    pub(crate) draw: bool,
}

impl Options {
    /// Returns the workloads that are not filtered out, in the order of the table.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        let selected = |it: &&Workload| is_selected(it.name, &self.only);
        WORKLOADS.iter().filter(selected)
    }

    pub(crate) fn cores(&self) -> [usize; 2] {
        [self.server_core, self.client_core]
    }

    /// Returns whether the server is not filtered out.
    pub(crate) fn includes(&self, server: &Server) -> bool {
        is_selected(server.name, &self.server)
    }
}

/// Returns whether `filter` is empty or contains `name`.
fn is_selected(name: &str, filter: &[String]) -> bool {
    filter.is_empty() || filter.iter().any(|it| it == name)
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
    let in_range = |number: &usize| (1..=1000).contains(number);
    number
        .filter(in_range)
        .ok_or("expected a number from 1 to 1000")
}

fn core(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok();
    let in_range = |number: &usize| *number < rustix::thread::CpuSet::MAX_CPU;
    number
        .filter(in_range)
        .ok_or("expected the number of a core")
}

fn time(text: &str) -> Result<Duration, &'static str> {
    let time = humantime::parse_duration(text).ok();
    let in_range = |time: &Duration| (1..=600_000).contains(&time.as_millis());
    time.filter(in_range)
        .ok_or("expected a number and a unit, such as 2s, from 1ms to 10m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected_names(arguments: &[&str]) -> (Vec<&'static str>, Vec<&'static str>) {
        let program = ["comparison"];
        let options = Options::parse_from(program.iter().chain(arguments));
        let workloads = options.workloads().map(|it| it.name).collect();
        let servers = SERVERS.iter().filter(|it| options.includes(it));
        (workloads, servers.map(|it| it.name).collect())
    }

    #[test]
    fn no_filter_selects_everything() {
        let (workloads, servers) = selected_names(&[]);
        assert_eq!(workloads.len(), WORKLOADS.len());
        assert_eq!(servers.len(), SERVERS.len());
    }

    #[test]
    fn filters_select_names_in_the_order_of_the_table() {
        let arguments = ["--only=udp", "--only=churn", "--server=tokio"];
        assert_eq!(
            selected_names(&arguments),
            (vec!["churn", "udp"], vec!["tokio"])
        );
    }

    #[test]
    fn unknown_names_and_values_out_of_range_are_errors() {
        for argument in ["--only=chrun", "--server=x", "--rounds=0", "--duration=0s"] {
            assert!(Options::try_parse_from(["comparison", argument]).is_err());
        }
    }
}
