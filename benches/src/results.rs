//! The contents of `results.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::metrics::Values;
use crate::options::Options;
use crate::programs::Programs;
use crate::quiet;
use crate::servers::{BASELINE, SERVERS, Server};
use crate::statistics::{Summary, summary};
use crate::workloads::Workload;

const FILE: &str = "results.json";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Start of the run, RFC 3339 in UTC.
    pub(crate) date: String,
    /// Command line that repeats the run.
    command: String,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) rounds: usize,
    pub(crate) duration_s: f64,
    warm_up_s: f64,
    server_core: usize,
    client_core: usize,
    /// Why selected servers cannot run, by their names.
    pub(crate) left_out: BTreeMap<String, String>,
    pub(crate) workloads: Vec<WorkloadResults>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadResults {
    pub(crate) name: String,
    /// Command line of the load generator.
    load: String,
    pub(crate) servers: Vec<ServerResults>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerResults {
    pub(crate) name: String,
    pub(crate) title: String,
    command: String,
    /// Over the rounds that were measured, by metric name. For readers of the file: `load` computes it.
    #[serde(default, skip_deserializing)]
    pub(crate) summary: BTreeMap<String, Summary>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Round {
    Measured(Values),
    /// With the reason.
    Failed(String),
}

impl Results {
    /// Returns results without workloads, of a run that starts now.
    pub(crate) fn new(options: &Options, programs: &Programs) -> Self {
        let selected = SERVERS.iter().filter(|it| options.includes(it));
        let reason = |it: &Server| Some((it.name.to_owned(), programs.missing_for(it)?));
        Results {
            machine: Machine::this(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: command(env::args().skip(1)),
            versions: programs.versions.clone(),
            rounds: options.rounds,
            duration_s: options.duration.as_secs_f64(),
            warm_up_s: options.warm_up.as_secs_f64(),
            server_core: options.server_core,
            client_core: options.client_core,
            left_out: selected.filter_map(reason).collect(),
            workloads: Vec::new(),
        }
    }

    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| path.display().to_string())
    }

    pub(crate) fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let read = fs::read_to_string(&path).map_err(anyhow::Error::from);
        let mut results: Results = read
            .and_then(|text| Ok(serde_json::from_str(&text)?))
            .with_context(|| path.display().to_string())?;
        results
            .workloads
            .iter_mut()
            .for_each(WorkloadResults::summarise);
        Ok(results)
    }

    /// Returns whether the server was selected.
    pub(crate) fn selected(&self, server: &Server) -> bool {
        let mut workloads = self.workloads.iter();
        let is_left_out = self.left_out.contains_key(server.name);
        is_left_out || workloads.any(|it| it.of(server).is_some())
    }

    /// Returns how many measurements other programs disturbed, and of how many that is known.
    pub(crate) fn disturbed(&self) -> (usize, usize) {
        let servers = self.workloads.iter().flat_map(|it| &it.servers);
        let rounds = servers.flat_map(|it| &it.rounds);
        let shares: Vec<f64> = rounds.filter_map(|it| it.value(quiet::KEY)).collect();
        let disturbed = shares.iter().filter(|it| **it > quiet::LIMIT);
        (disturbed.count(), shares.len())
    }
}

/// Returns the command line that runs this program with these arguments.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["cargo run --release --manifest-path benches/Cargo.toml".to_owned()];
    words.extend(arguments);
    if words.len() > 1 {
        words.insert(1, "--".to_owned());
    }
    words.join(" ")
}

impl WorkloadResults {
    pub(crate) fn new(workload: &Workload, servers: Vec<ServerResults>) -> Self {
        let mut results = WorkloadResults {
            name: workload.name.to_owned(),
            load: format!("mio-echo load {}", workload.load),
            servers,
        };
        results.summarise();
        results
    }

    pub(crate) fn of(&self, server: &Server) -> Option<&ServerResults> {
        self.servers.iter().find(|it| it.name == server.name)
    }

    /// Summarises the rounds of each server, with ratios to the baseline if it was measured.
    fn summarise(&mut self) {
        let baseline = self.servers.iter().find(|it| it.name == BASELINE);
        let baseline = baseline.map_or(Vec::new(), |it| it.rounds.clone());
        for server in &mut self.servers {
            let values = |name| summary(&column(&server.rounds, name), &column(&baseline, name));
            let summary = server.metrics().into_iter();
            let summary = summary.filter_map(|name| Some((name.to_owned(), values(name)?)));
            server.summary = summary.collect();
        }
    }
}

/// Returns the value of a metric in each round.
fn column(rounds: &[Round], name: &str) -> Vec<Option<f64>> {
    rounds.iter().map(|it| it.value(name)).collect()
}

impl Round {
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        match self {
            Round::Measured(values) => values.get(name).copied(),
            Round::Failed(_) => None,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Round::Measured(_) => None,
            Round::Failed(reason) => Some(reason),
        }
    }
}

impl ServerResults {
    /// Returns results without a summary.
    pub(crate) fn new(server: &Server, workload: &Workload, rounds: Vec<Round>) -> Self {
        let command = server.command(workload.transport).unwrap_or_default();
        ServerResults {
            name: server.name.to_owned(),
            title: server.title.to_owned(),
            command: command.to_owned(),
            summary: BTreeMap::new(),
            rounds,
        }
    }

    /// Returns the names of the metrics that at least one round measured.
    fn metrics(&self) -> BTreeSet<&str> {
        let values = self.rounds.iter().filter_map(|it| match it {
            Round::Measured(values) => Some(values.keys()),
            Round::Failed(_) => None,
        });
        let names = values.flatten().map(String::as_str);
        names.filter(|it| *it != quiet::KEY).collect()
    }

    /// Returns the number of failed rounds and the first reason, or `None` if no round failed.
    pub(crate) fn failures(&self) -> Option<(usize, &str)> {
        let reasons: Vec<&str> = self.rounds.iter().filter_map(Round::reason).collect();
        reasons.first().map(|first| (reasons.len(), *first))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metrics::{CPU, RATE};
    use crate::workloads::WORKLOADS;

    /// Results of three servers: the baseline; one twice as fast, with one failed round; and one that
    /// always failed.
    pub(crate) fn example() -> (&'static Workload, WorkloadResults) {
        let workload = WORKLOADS.iter().find(|it| it.name == "50x64B").unwrap();
        let measured = |rate| Round::Measured([(RATE.name.to_owned(), rate)].into());
        let failed = || Round::Failed("3 lost".to_owned());
        let rounds = vec![
            (BASELINE, vec![measured(1e5), measured(3e5)]),
            ("epoll", vec![measured(2e5), failed()]),
            ("tokio", vec![failed(), failed()]),
        ];
        let mut results = results_of(workload.name, rounds);
        (workload, results.workloads.remove(0))
    }

    /// Results of one workload with these rounds of each server.
    pub(crate) fn results_of(workload: &str, servers: Vec<(&str, Vec<Round>)>) -> Results {
        let workload = WORKLOADS.iter().find(|it| it.name == workload).unwrap();
        let named = |(name, rounds)| {
            let server = SERVERS.iter().find(|it| it.name == name).unwrap();
            ServerResults::new(server, workload, rounds)
        };
        let servers: Vec<_> = servers.into_iter().map(named).collect();
        Results {
            machine: Machine::this(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            command: String::new(),
            versions: BTreeMap::new(),
            rounds: servers[0].rounds.len(),
            duration_s: 0.5,
            warm_up_s: 0.2,
            server_core: 0,
            client_core: 1,
            left_out: BTreeMap::new(),
            workloads: vec![WorkloadResults::new(workload, servers)],
        }
    }

    #[test]
    fn summary_omits_failures_and_missing_values() {
        let (_, results) = example();
        let [baseline, epoll, tokio] = &results.servers[..] else {
            panic!("{results:?}");
        };
        let ratio = epoll.summary[RATE.name].ratio;
        assert_eq!(ratio.map(|it| it.median), Some(2.0));
        assert_eq!(epoll.failures(), Some((1, "3 lost")));
        assert!(tokio.summary.is_empty());
        assert!(!baseline.summary.contains_key(CPU.name));
        let json = serde_json::to_value(&results).unwrap();
        assert_eq!(json["servers"][0]["summary"][RATE.name]["median"], 2e5);
        assert_eq!(json["servers"][1]["rounds"][0]["measured"][RATE.name], 2e5);
        assert_eq!(json["servers"][1]["rounds"][1]["failed"], "3 lost");
        assert!(json["servers"][0]["summary"].get(CPU.name).is_none());
    }

    #[test]
    fn results_survive_serialization() {
        let (_, results) = example();
        let json = serde_json::to_value(&results).unwrap();
        let mut again: WorkloadResults = serde_json::from_value(json.clone()).unwrap();
        again.summarise();
        assert_eq!(serde_json::to_value(again).unwrap(), json);
    }

    #[test]
    fn command_separates_arguments_from_those_of_cargo() {
        let plain = "cargo run --release --manifest-path benches/Cargo.toml";
        assert_eq!(command([].into_iter()), plain);
        let arguments = ["--rounds".to_owned(), "3".to_owned()];
        assert_eq!(
            command(arguments.into_iter()),
            format!("{plain} -- --rounds 3")
        );
    }
}
