//! What was measured, as it is kept.

use std::collections::BTreeMap;
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
use crate::servers::{BASELINE, SERVERS, Server};
use crate::statistics::{Summary, summary};
use crate::workloads::Workload;

const FILE: &str = "results.json";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// When it began.
    pub(crate) date: String,
    command: String,
    versions: BTreeMap<String, String>,
    pub(crate) rounds: usize,
    pub(crate) duration_s: f64,
    warm_up_s: f64,
    server_core: usize,
    client_core: usize,
    /// What was not installed, by the name of the server that needs it.
    left_out: BTreeMap<String, String>,
    pub(crate) workloads: Vec<WorkloadResults>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadResults {
    pub(crate) name: String,
    load: String,
    pub(crate) servers: Vec<ServerResults>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerResults {
    pub(crate) name: String,
    pub(crate) title: String,
    command: String,
    /// Of the rounds that were measured, by the names of the metrics.
    pub(crate) summary: BTreeMap<String, Summary>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Round {
    Measured(Values),
    Failed(String),
}

impl Results {
    /// Without workloads.
    pub(crate) fn begin(options: &Options, programs: &Programs) -> Self {
        let lacking = |it: &Server| Some((it.name.to_owned(), programs.lacks(it)?.to_owned()));
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
            left_out: SERVERS.iter().filter_map(lacking).collect(),
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
        read.and_then(|text| Ok(serde_json::from_str(&text)?))
            .with_context(|| path.display().to_string())
    }
}

/// As one types it.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["cargo run --release --manifest-path benches/Cargo.toml".to_owned()];
    words.extend(arguments);
    if words.len() > 1 {
        words.insert(1, "--".to_owned());
    }
    words.join(" ")
}

impl WorkloadResults {
    /// Compares them with the baseline, if that is among them.
    pub(crate) fn new(workload: &Workload, mut servers: Vec<ServerResults>) -> Self {
        let baseline = servers.iter().find(|it| it.name == BASELINE);
        let baseline = baseline.map_or(Vec::new(), |it| it.rounds.clone());
        for server in &mut servers {
            for metric in workload.metrics {
                let values = column(&server.rounds, metric.name);
                if let Some(it) = summary(&values, &column(&baseline, metric.name)) {
                    server.summary.insert(metric.name.to_owned(), it);
                }
            }
        }
        WorkloadResults {
            name: workload.name.to_owned(),
            load: format!("load {}", workload.load),
            servers,
        }
    }
}

/// A metric in each of the rounds.
fn column(rounds: &[Round], name: &str) -> Vec<Option<f64>> {
    rounds.iter().map(|it| it.value(name)).collect()
}

impl Round {
    fn value(&self, name: &str) -> Option<f64> {
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
    /// Not yet compared.
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

    /// How many rounds failed, and why the first of them did.
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

    /// The baseline with two rounds; one that is twice as fast, and failed once; and one that
    /// always failed.
    pub(crate) fn example() -> (&'static Workload, WorkloadResults) {
        let workload = WORKLOADS.iter().find(|it| it.name == "50x64B").unwrap();
        let measured = |rate| Round::Measured([(RATE.name.to_owned(), rate)].into());
        let failed = || Round::Failed("3 lost".to_owned());
        let rounds = [
            (BASELINE, vec![measured(1e5), measured(3e5)]),
            ("epoll", vec![measured(2e5), failed()]),
            ("tokio", vec![failed(), failed()]),
        ];
        let servers = rounds.into_iter().map(|(name, rounds)| {
            let server = SERVERS.iter().find(|it| it.name == name).unwrap();
            ServerResults::new(server, workload, rounds)
        });
        let servers = servers.collect();
        (workload, WorkloadResults::new(workload, servers))
    }

    #[test]
    fn what_failed_or_was_not_measured_is_absent() {
        let (_, results) = example();
        let [baseline, epoll, tokio] = &results.servers[..] else {
            panic!("{results:?}");
        };
        assert_eq!(epoll.summary[RATE.name].ratio, Some(2.0));
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
    fn results_can_be_read_again() {
        let (_, results) = example();
        let json = serde_json::to_value(&results).unwrap();
        let again: WorkloadResults = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(again).unwrap(), json);
    }

    #[test]
    fn the_command_is_as_one_types_it() {
        let plain = "cargo run --release --manifest-path benches/Cargo.toml";
        assert_eq!(command([].into_iter()), plain);
        let arguments = ["--rounds".to_owned(), "3".to_owned()];
        assert_eq!(
            command(arguments.into_iter()),
            format!("{plain} -- --rounds 3")
        );
    }
}
