//! Which charts there are, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::metrics::Metric;
use crate::results::{Results, ServerResults};
use crate::servers::BASELINE;
use crate::svg::{self, Bar, Panel};
use crate::table::number;
use crate::workloads::{WORKLOADS, Workload};

struct Chart {
    file: &'static str,
    title: &'static str,
    workloads: &'static [&'static str],
    /// The names of the metrics that are shown of each.
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
        title: "What an echo takes",
        workloads: SMALL,
        metrics: &[CPU],
    },
    Chart {
        file: "bulk.svg",
        title: "Bulk",
        workloads: &["8x64KiBx4", "1x64KiBx8"],
        metrics: &["bytes_per_s", CPU],
    },
    Chart {
        file: "latency.svg",
        title: "One connection",
        workloads: &["1x64B"],
        metrics: &LATENCIES,
    },
    Chart {
        file: "churn.svg",
        title: "Connections one after the other",
        workloads: &["churn"],
        metrics: &[RATE, CPU],
    },
    Chart {
        file: "memory.svg",
        title: "Idle connections",
        workloads: &["idle"],
        metrics: &["server_rss_bytes_per_connection"],
    },
    Chart {
        file: "fairness.svg",
        title: "A small message beside greedy streams",
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

/// Draws the charts of what was measured, and gives their files. Those of what was not, which are of
/// other results, go.
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
        "Medians of {} × {} s; the line is from the least to the most. {}. {day}",
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

/// Nothing if it was not measured.
fn panel(workload: &Workload, name: &str, results: &Results) -> Option<Panel> {
    let metric = workload.metrics.iter().find(|it| it.name == name)?;
    let measured = results
        .workloads
        .iter()
        .find(|it| it.name == workload.name)?;
    let bars = measured.servers.iter();
    let bars: Vec<Bar> = bars.filter_map(|server| bar(metric, server)).collect();
    let better = if metric.more_is_better {
        "more is better"
    } else {
        "less is better"
    };
    let Metric { title, unit, .. } = metric;
    (!bars.is_empty()).then(|| Panel {
        title: format!("{}: {title}, {unit} ({better})", workload.title),
        bars,
    })
}

/// One without a figure where everything failed, and none where it was not measured.
fn bar(metric: &Metric, server: &ServerResults) -> Option<Bar> {
    let summary = server.summary.get(metric.name);
    let failures = server.failures();
    let text = match (summary, failures) {
        (Some(it), None) => number(it.median * metric.scale),
        (Some(it), Some((count, _))) => {
            let (median, rounds) = (number(it.median * metric.scale), server.rounds.len());
            format!("{median}; {count} of {rounds} rounds failed")
        }
        (None, Some((_, reason))) if server.summary.is_empty() => shortened(reason),
        (None, _) => return None,
    };
    Some(Bar {
        label: server.title.clone(),
        text,
        figures: summary.map(|it| [it.min, it.median, it.max].map(|it| it * metric.scale)),
        is_ours: server.name.starts_with(BASELINE),
    })
}

/// As much of a reason as fits beside a label.
fn shortened(reason: &str) -> String {
    const MOST: usize = 70;

    let text: String = reason.chars().take(MOST).collect();
    let rest = if text.len() < reason.len() { "…" } else { "" };
    format!("failed: {text}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn charts_refer_to_what_there_is() {
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
    fn long_reasons_are_shortened() {
        assert_eq!(shortened("3 lost"), "failed: 3 lost");
        let text = shortened(&"ä".repeat(71));
        assert_eq!(text, format!("failed: {}…", "ä".repeat(70)));
    }

    #[test]
    fn each_workload_is_in_a_chart() {
        for workload in WORKLOADS {
            let mut shown = CHARTS.iter().flat_map(|it| it.workloads);
            assert!(shown.any(|name| *name == workload.name));
        }
    }

    #[test]
    fn what_failed_has_a_reason_and_what_was_not_measured_no_bar() {
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
