//! The charts and their contents.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::metrics::Metric;
use crate::results::{Results, Round, ServerResults, WorkloadResults};
use crate::servers::{BASELINE, PROCESS_PER_CONNECTION, SERVERS, Server};
use crate::statistics::{self, Summary, Verdict};
use crate::svg::{self, Content, Figures, Panel, Row};
use crate::table::{format_estimate, format_number};
use crate::workloads::{WORKLOADS, Workload};

struct Chart {
    file: &'static str,
    /// The question that it answers.
    title: &'static str,
    workloads: &'static [&'static str],
    /// Names of the metrics: a panel for each workload and metric.
    metrics: &'static [&'static str],
}

const RATE: &str = "echoes_per_s";
const CPU: &str = "server_cpu_ns_per_echo";
const LATENCIES: &[&str] = &["latency_p50_ns", "latency_p99_ns"];
const SMALL: &[&str] = &["50x64B", "1000x64B", "50x1KiBx16"];
const BULK: &[&str] = &["8x64KiBx4", "1x64KiBx8"];

const CHARTS: &[Chart] = &[
    Chart {
        file: "small-messages.svg",
        title: "How many small messages does a server echo in a second?",
        workloads: SMALL,
        metrics: &[RATE],
    },
    Chart {
        file: "cpu.svg",
        title: "How much CPU time does the echo of a small message take?",
        workloads: SMALL,
        metrics: &[CPU],
    },
    Chart {
        file: "bulk.svg",
        title: "How much data does a server echo in a second?",
        workloads: BULK,
        metrics: &["bytes_per_s"],
    },
    Chart {
        file: "bulk-cpu.svg",
        title: "How much CPU time does the echo of 64 KiB take?",
        workloads: BULK,
        metrics: &[CPU],
    },
    Chart {
        file: "latency.svg",
        title: "How long does one client wait for its echo?",
        workloads: &["1x64B"],
        metrics: LATENCIES,
    },
    Chart {
        file: "churn.svg",
        title: "How many new connections does a server take in a second?",
        workloads: &["churn"],
        metrics: &[RATE],
    },
    Chart {
        file: "churn-cpu.svg",
        title: "How much CPU time does a short connection take?",
        workloads: &["churn"],
        metrics: &[CPU],
    },
    Chart {
        file: "memory.svg",
        title: "How much memory of the process does an idle connection take?",
        workloads: &["idle"],
        metrics: &["server_rss_bytes_per_connection"],
    },
    Chart {
        file: "fairness.svg",
        title: "How long does a byte wait beside clients that send as fast as they can?",
        workloads: &["ping"],
        metrics: LATENCIES,
    },
    Chart {
        file: "fairness-throughput.svg",
        title: "How fast are the clients that send as fast as they can?",
        workloads: &["ping"],
        metrics: &["streams_bytes_per_s"],
    },
    Chart {
        file: "udp.svg",
        title: "How many datagrams does a server echo in a second?",
        workloads: &["udp"],
        metrics: &[RATE],
    },
    Chart {
        file: "udp-cpu.svg",
        title: "How much CPU time does the echo of a datagram take?",
        workloads: &["udp"],
        metrics: &[CPU],
    },
];

/// Heading of the column of ratios.
const RATIOS: &str = "ratio to mio-echo (interval)";

/// Draws the charts into `directory` and returns their files.
///
/// Deletes the charts of workloads that were not measured, because they show other results.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for chart in CHARTS {
        let panels = chart.panels(results);
        let file = directory.join(chart.file);
        if !panels.is_empty() {
            let footer = chart.footer(results);
            let text = svg::render(chart.title, &panels, RATIOS, &footer);
            fs::write(&file, text).with_context(|| file.display().to_string())?;
            files.push(file);
        } else if file.exists() {
            fs::remove_file(&file)?;
        }
    }
    Ok(files)
}

impl Chart {
    fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        let named = |name: &&str| WORKLOADS.iter().find(|it| it.name == *name);
        self.workloads.iter().filter_map(named)
    }

    fn panels(&self, results: &Results) -> Vec<Panel> {
        let of_each = |workload| {
            let metrics = self.metrics.iter();
            metrics.filter_map(move |name| panel(workload, name, results))
        };
        self.workloads().flat_map(of_each).collect()
    }

    fn footer(&self, results: &Results) -> Vec<String> {
        let set = Duration::from_secs_f64(results.duration_s);
        let duration = self
            .workloads()
            .next()
            .map_or(set, |it| it.times(set, set).1);
        let confidence = statistics::confidence(results.rounds) * 100.0;
        let day = results.date.get(..10).unwrap_or(&results.date);
        let paragraphs = [
            format!(
                "Dots: rounds of {} s. Tick and figure: median of {} rounds. Whiskers: interval of the \
                 median, confidence {confidence:.0} %. Ratios: to mio-echo in the same round, their \
                 median and its interval. Noise: the interval contains 1, so the rounds show no \
                 difference.",
                duration.as_secs_f64(),
                results.rounds,
            ),
            format!("Versions: {}.", versions(results)),
            format!("{}. {day}. {}", results.machine, disturbance(results)),
        ];
        paragraphs.iter().flat_map(|it| wrap(it)).collect()
    }
}

/// Returns the versions of the servers, in the order of the table.
fn versions(results: &Results) -> String {
    let selected = SERVERS.iter().filter(|it| results.selected(it));
    let mut texts: Vec<String> = Vec::new();
    for Server { title, library, .. } in selected {
        if let Some(version) = results.versions.get(*library) {
            let version = version.strip_prefix(library).unwrap_or(version).trim();
            let version = version.split(' ').next().unwrap_or_default();
            texts.push(if title.contains(library) {
                format!("{library} {version}")
            } else {
                format!("{title} ({library} {version})")
            });
        }
    }
    texts.dedup();
    texts.join(", ")
}

/// Tells whether the machine was quiet.
pub(crate) fn disturbance(results: &Results) -> String {
    match results.disturbed() {
        (_, 0) => "Whether other programs ran meanwhile was not watched.".to_owned(),
        (0, all) => format!("Quiet machine: no other programs disturbed the {all} measurements."),
        (disturbed, all) => {
            format!("Noisy machine: other programs disturbed {disturbed} of {all} measurements.")
        }
    }
}

/// Splits text into lines that fit the width of a chart.
fn wrap(text: &str) -> Vec<String> {
    const MAX_CHARS: usize = 148;

    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |it| it.chars().count());
        match lines.last_mut() {
            Some(last) if line > 0 && line + word.chars().count() < MAX_CHARS => {
                last.push(' ');
                last.push_str(word);
            }
            Some(last) if line == 0 => last.push_str(word),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns `None` if the workload or the metric was not measured.
fn panel(workload: &Workload, name: &str, results: &Results) -> Option<Panel> {
    let metric = workload.metrics.iter().find(|it| it.name == name)?;
    let mut all = results.workloads.iter();
    let measured = all.find(|it| it.name == workload.name)?;
    let servers = SERVERS.iter();
    let servers = servers.filter(|it| results.selected(it) && workload.is_for(it));
    let row = |server: &Server| Row {
        label: server.title.to_owned(),
        highlighted: server.name.starts_with(BASELINE),
        content: content(metric, server, workload, results, measured),
    };
    let better = if metric.higher_is_better {
        "more"
    } else {
        "less"
    };
    let Metric { title, unit, .. } = metric;
    Some(Panel {
        title: workload.title.to_owned(),
        subtitle: format!("{title}, {unit}: {better} is better"),
        rows: servers.map(row).collect(),
    })
}

fn content(
    metric: &Metric,
    server: &Server,
    workload: &Workload,
    results: &Results,
    measured: &WorkloadResults,
) -> Content {
    let reason = || {
        let left_out = results.left_out.get(server.name).map(String::as_str);
        left_out
            .or(workload.excludes(server))
            .unwrap_or("not selected")
    };
    match measured.of(server) {
        Some(rounds) => figures(metric, server, rounds),
        None => Content::Missing(cut(&format!("not measured: {}", reason()))),
    }
}

/// Returns no figures if most rounds failed: what is left is not typical of the server.
fn figures(metric: &Metric, server: &Server, results: &ServerResults) -> Content {
    let rounds = results.rounds.len();
    match (results.summary.get(metric.name), results.failures()) {
        (_, Some((failed, reason))) if failed * 2 > rounds => Content::Missing(cut(&format!(
            "{failed} of {rounds} rounds failed: {reason}"
        ))),
        (Some(summary), failures) => {
            let figures = scaled(metric, summary, &results.rounds);
            let (note, emphasized) = match failures {
                Some((failed, _)) => (format!("{failed} of {rounds} rounds failed"), true),
                None => note(metric, server, summary),
            };
            Content::Figures(Figures {
                note,
                emphasized,
                incomplete: failures.is_some(),
                ..figures
            })
        }
        (None, _) if server.single_process => Content::Missing("not measured".to_owned()),
        (None, _) => Content::Missing(format!("not measured: {PROCESS_PER_CONNECTION}")),
    }
}

/// Returns the figures in the unit of the metric, without a note.
fn scaled(metric: &Metric, summary: &Summary, rounds: &[Round]) -> Figures {
    let it = summary.value;
    let rounds = rounds.iter().filter_map(|it| it.value(metric.name));
    Figures {
        rounds: rounds.map(|it| it * metric.scale).collect(),
        low: it.low * metric.scale,
        median: it.median * metric.scale,
        high: it.high * metric.scale,
        value: format_number(it.median * metric.scale),
        note: String::new(),
        emphasized: false,
        incomplete: false,
    }
}

/// Returns the ratio and what it says, and whether that is a difference.
fn note(metric: &Metric, server: &Server, summary: &Summary) -> (String, bool) {
    match &summary.ratio {
        Some(ratio) if server.name != BASELINE => {
            let verdict = Verdict::of(ratio, metric.higher_is_better);
            let text = format!("× {} {verdict}", format_estimate(ratio, 1.0));
            (text, verdict.is_difference())
        }
        _ => (String::new(), false),
    }
}

/// Shortens a reason to what fits beside the label.
fn cut(reason: &str) -> String {
    const MAX_CHARS: usize = 100;

    let text: String = reason.chars().take(MAX_CHARS).collect();
    let ellipsis = if text.len() < reason.len() { "…" } else { "" };
    text + ellipsis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{example, results_of};

    fn contents(name: &str) -> Vec<Content> {
        let (workload, results) = example();
        let metric = workload.metrics.iter().find(|it| it.name == name).unwrap();
        let servers = results.servers.iter().map(|rounds| {
            let server = SERVERS.iter().find(|it| it.name == rounds.name).unwrap();
            figures(metric, server, rounds)
        });
        servers.collect()
    }

    fn rows(results: &Results, workload: &str, metric: &str) -> Vec<(String, String)> {
        let workload = WORKLOADS.iter().find(|it| it.name == workload).unwrap();
        let rows = panel(workload, metric, results).unwrap().rows;
        let text = |content| match content {
            Content::Figures(it) => it.note,
            Content::Missing(reason) => reason,
        };
        rows.into_iter()
            .map(|it| (it.label, text(it.content)))
            .collect()
    }

    #[test]
    fn charts_refer_to_existing_workloads_and_metrics() {
        for chart in CHARTS {
            assert_eq!(chart.workloads().count(), chart.workloads.len());
            for workload in chart.workloads() {
                for metric in chart.metrics {
                    let mut names = workload.metrics.iter().map(|it| it.name);
                    assert!(
                        names.any(|it| it == *metric),
                        "{metric} of {}",
                        workload.name
                    );
                }
            }
        }
    }

    #[test]
    fn every_workload_has_a_chart() {
        for workload in WORKLOADS {
            let mut shown = CHARTS.iter().flat_map(|it| it.workloads);
            assert!(shown.any(|name| *name == workload.name));
        }
    }

    #[test]
    fn long_reason_is_cut() {
        assert_eq!(cut("3 lost"), "3 lost");
        assert_eq!(cut(&"ä".repeat(101)), format!("{}…", "ä".repeat(100)));
    }

    #[test]
    fn long_text_is_wrapped_between_words() {
        let text = "ä ".repeat(150) + "end";
        let lines = wrap(&text);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|it| it.chars().count() <= 148));
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn bar_is_hatched_if_some_rounds_failed_and_missing_if_most_did() {
        let contents = contents(RATE);
        let [
            Content::Figures(all),
            Content::Figures(half),
            Content::Missing(reason),
        ] = &contents[..]
        else {
            panic!("figures of two servers");
        };
        assert_eq!((all.incomplete, &*all.value), (false, "200"));
        assert_eq!(
            (half.incomplete, &*half.note),
            (true, "1 of 2 rounds failed")
        );
        assert_eq!(reason, "2 of 2 rounds failed: 3 lost");
    }

    /// Four of five rounds of a server that drops bytes fail, as in the fairness chart: the fifth one would
    /// be the best of all.
    #[test]
    fn single_round_of_five_has_no_bar() {
        let failed = || Round::Failed("1 lost, 9 corrupted".to_owned());
        let mut epoll: Vec<Round> = (0..4).map(|_| failed()).collect();
        epoll.push(measured(RATE, 1e9));
        let results = results_of("50x64B", vec![("epoll", epoll)]);
        let expected = "4 of 5 rounds failed: 1 lost, 9 corrupted";
        assert_eq!(rows(&results, "50x64B", RATE)[0].1, expected);
    }

    fn measured(metric: &str, value: f64) -> Round {
        Round::Measured([(metric.to_owned(), value)].into())
    }

    #[test]
    fn notes_tell_differences_from_noise() {
        let rounds = |values: [f64; 5]| values.map(|it| measured(CPU, it)).to_vec();
        let results = results_of(
            "50x64B",
            vec![
                (BASELINE, rounds([10.0, 30.0, 10.0, 20.0, 10.0])),
                ("epoll", rounds([9.0, 27.0, 9.0, 18.0, 8.0])),
                ("tokio", rounds([9.0, 31.0, 9.0, 25.0, 10.0])),
            ],
        );
        let notes: Vec<String> = rows(&results, "50x64B", CPU)
            .into_iter()
            .map(|it| it.1)
            .collect();
        let epoll = "× 0.900 (0.800 – 0.900) better";
        let tokio = "× 1.00 (0.900 – 1.25) noise";
        assert_eq!(notes, ["", epoll, tokio]);
    }

    #[test]
    fn server_that_cannot_be_measured_keeps_a_row_with_the_reason() {
        let rounds = || vec![measured(RATE, 1.0)];
        let mut results = results_of("50x64B", vec![(BASELINE, rounds()), ("socat", rounds())]);
        results
            .left_out
            .insert("uvloop".to_owned(), "uvloop is not installed".to_owned());
        let reason = |metric| rows(&results, "50x64B", metric).pop().unwrap();
        let uvloop = (
            "Python uvloop".to_owned(),
            "not measured: uvloop is not installed".to_owned(),
        );
        assert_eq!(reason(RATE), uvloop);
        let cpu = rows(&results, "50x64B", CPU);
        let socat = (
            "socat".to_owned(),
            "not measured: a process for each connection".to_owned(),
        );
        assert!(cpu.contains(&socat), "{cpu:?}");
        let udp = results_of("udp", vec![(BASELINE, rounds())]).workloads;
        results.workloads.extend(udp);
        let udp = rows(&results, "udp", RATE);
        assert!(
            udp.contains(&("socat".to_owned(), "not measured: no UDP".to_owned())),
            "{udp:?}"
        );
    }

    #[test]
    fn footer_names_the_versions_and_the_noise() {
        let round = |noise: f64| {
            let values = [
                (RATE.to_owned(), 1.0),
                ("disturbance_ratio".to_owned(), noise),
            ];
            Round::Measured(values.into())
        };
        let mut results = results_of("50x64B", vec![("tokio", vec![round(0.0), round(0.5)])]);
        results
            .versions
            .insert("tokio".to_owned(), "1.2.3".to_owned());
        results
            .versions
            .insert("uvloop".to_owned(), "4.5.6".to_owned());
        let footer = CHARTS[0].footer(&results).join(" ");
        assert!(footer.contains("Versions: tokio 1.2.3."), "{footer}");
        let noise = "Noisy machine: other programs disturbed 1 of 2 measurements.";
        assert!(footer.contains(noise), "{footer}");
    }
}
