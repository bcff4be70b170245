//! The charts and their contents.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::metrics::Metric;
use crate::results::{Results, ServerResults};
use crate::servers::BASELINE;
use crate::svg::{self, Bar, Panel};
use crate::table::format_number;
use crate::workloads::{WORKLOADS, Workload};

struct Chart {
    file: &'static str,
    title: &'static str,
    workloads: &'static [&'static str],
    /// Names of the metrics: a panel for each workload and metric.
    metrics: &'static [&'static str],
}

const RATE: &str = "echoes_per_s";
const CPU: &str = "server_cpu_ns_per_echo";
const LATENCIES: [&str; 2] = ["latency_p50_ns", "latency_p99_ns"];
const SMALL: &[&str] = &["50x64B", "1000x64B", "50x1KiBx16"];

const CHARTS: &[Chart] = &[
    Chart {
        file: "small-messages.svg",
        title: "Small messages",
        workloads: SMALL,
        metrics: &[RATE],
    },
    Chart {
        file: "cpu.svg",
        title: "CPU time per echo",
        workloads: SMALL,
        metrics: &[CPU],
    },
    Chart {
        file: "bulk.svg",
        title: "Bulk transfer",
        workloads: &["8x64KiBx4", "1x64KiBx8"],
        metrics: &["bytes_per_s", CPU],
    },
    Chart {
        file: "latency.svg",
        title: "Latency of one connection",
        workloads: &["1x64B"],
        metrics: &LATENCIES,
    },
    Chart {
        file: "churn.svg",
        title: "Connection churn",
        workloads: &["churn"],
        metrics: &[RATE, CPU],
    },
    Chart {
        file: "memory.svg",
        title: "Memory per idle connection",
        workloads: &["idle"],
        metrics: &["server_rss_bytes_per_connection"],
    },
    Chart {
        file: "fairness.svg",
        title: "Latency beside greedy streams",
        workloads: &["ping"],
        metrics: &[LATENCIES[0], LATENCIES[1], "streams_bytes_per_s"],
    },
    Chart {
        file: "udp.svg",
        title: "UDP",
        workloads: &["udp"],
        metrics: &[RATE, CPU],
    },
];

/// Draws the charts into `directory` and returns their files.
///
/// Deletes the charts of workloads that were not measured, because they show other results.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for chart in CHARTS {
        let panels = chart.panels(results);
        let file = directory.join(chart.file);
        if !panels.is_empty() {
            svg::draw(&file, chart.title, &panels, &footer(results))?;
            files.push(file);
        } else if file.exists() {
            fs::remove_file(&file)?;
        }
    }
    Ok(files)
}

fn footer(results: &Results) -> String {
    let day = results.date.get(..10).unwrap_or(&results.date);
    format!(
        "Median of {} rounds of {} s; the line spans minimum to maximum. {}. {day}",
        results.rounds, results.duration_s, results.machine
    )
}

impl Chart {
    fn panels(&self, results: &Results) -> Vec<Panel> {
        let named = |name| WORKLOADS.iter().find(|it| it.name == name);
        let workloads = self.workloads.iter().copied().filter_map(named);
        let of_each = |workload| {
            let metrics = self.metrics.iter();
            metrics.filter_map(move |name| panel(workload, name, results))
        };
        workloads.flat_map(of_each).collect()
    }
}

/// Returns `None` if the workload or the metric was not measured.
fn panel(workload: &Workload, name: &str, results: &Results) -> Option<Panel> {
    let metric = workload.metrics.iter().find(|it| it.name == name)?;
    let measured = results
        .workloads
        .iter()
        .find(|it| it.name == workload.name)?;
    let bars = measured.servers.iter();
    let bars: Vec<Bar> = bars.filter_map(|server| bar(metric, server)).collect();
    let better = if metric.higher_is_better {
        "higher is better"
    } else {
        "lower is better"
    };
    let Metric { title, unit, .. } = metric;
    (!bars.is_empty()).then(|| Panel {
        title: format!("{}: {title}, {unit} ({better})", workload.title),
        bars,
    })
}

/// Returns a bar without figures if all rounds failed, and `None` if the metric was not measured.
fn bar(metric: &Metric, server: &ServerResults) -> Option<Bar> {
    let summary = server.summary.get(metric.name);
    let failures = server.failures();
    let text = match (summary, failures) {
        (Some(it), None) => format_number(it.median * metric.scale),
        (Some(it), Some((count, _))) => {
            let median = format_number(it.median * metric.scale);
            let rounds = server.rounds.len();
            format!("{median}; {count} of {rounds} rounds failed")
        }
        (None, Some((_, reason))) if server.summary.is_empty() => failure_text(reason),
        (None, _) => return None,
    };
    Some(Bar {
        label: server.title.clone(),
        text,
        figures: summary.map(|it| [it.min, it.median, it.max].map(|it| it * metric.scale)),
        highlighted: server.name.starts_with(BASELINE),
    })
}

/// Shortens the reason to what fits beside the label.
fn failure_text(reason: &str) -> String {
    const MAX_CHARS: usize = 70;

    let text: String = reason.chars().take(MAX_CHARS).collect();
    let ellipsis = if text.len() < reason.len() { "…" } else { "" };
    format!("failed: {text}{ellipsis}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn charts_refer_to_existing_workloads_and_metrics() {
        for chart in CHARTS {
            for name in chart.workloads {
                let workload = WORKLOADS.iter().find(|it| it.name == *name).unwrap();
                for metric in chart.metrics {
                    let mut names = workload.metrics.iter().map(|it| it.name);
                    assert!(names.any(|it| it == *metric), "{metric} of {name}");
                }
            }
        }
    }

    #[test]
    fn long_reason_is_cut() {
        assert_eq!(failure_text("3 lost"), "failed: 3 lost");
        let text = failure_text(&"ä".repeat(71));
        assert_eq!(text, format!("failed: {}…", "ä".repeat(70)));
    }

    #[test]
    fn every_workload_has_a_chart() {
        for workload in WORKLOADS {
            let mut shown = CHARTS.iter().flat_map(|it| it.workloads);
            assert!(shown.any(|name| *name == workload.name));
        }
    }

    #[test]
    fn failed_server_has_a_reason_and_missing_metric_no_bar() {
        let (workload, results) = example();
        let metric = |name| workload.metrics.iter().find(|it| it.name == name).unwrap();
        let texts = |name| -> Vec<String> {
            let bars = results
                .servers
                .iter()
                .filter_map(|it| bar(metric(name), it));
            bars.map(|it| it.text).collect()
        };
        assert_eq!(
            texts(RATE),
            ["200", "200; 1 of 2 rounds failed", "failed: 3 lost"]
        );
        assert_eq!(texts(CPU), ["failed: 3 lost"]);
    }
}
