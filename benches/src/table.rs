//! Results as a Markdown table that is also readable on a terminal.

use std::fmt::Write;

use crate::metrics::Metric;
use crate::results::{ServerResults, WorkloadResults};
use crate::servers::BASELINE;
use crate::statistics::{Estimate, Verdict};
use crate::workloads::Workload;

/// Explains the cells.
pub(crate) const LEGEND: &str = "\
Each cell: median of the rounds (its confidence interval), × median of the ratios to mio-echo in the same
round (its confidence interval). Noise: this interval contains 1, so the rounds show no difference.";

/// Returns the title, the table and the reasons of failed rounds.
pub(crate) fn render(workload: &Workload, results: &WorkloadResults) -> String {
    let mut rows = vec![header(workload)];
    rows.extend(results.servers.iter().map(|it| row(workload, it)));
    let mut text = format!("{}\n\n{}", workload.title, align(&rows));
    for server in &results.servers {
        if let Some((count, reason)) = server.failures() {
            let (title, rounds) = (&server.title, server.rounds.len());
            let _ = writeln!(
                text,
                "\n{title}: {count} of {rounds} rounds failed: {reason}"
            );
        }
    }
    text
}

fn header(workload: &Workload) -> Vec<String> {
    let mut cells = vec![String::new()];
    let titles = workload.metrics.iter();
    cells.extend(titles.map(|it| format!("{}, {}", it.title, it.unit)));
    cells
}

fn row(workload: &Workload, server: &ServerResults) -> Vec<String> {
    let mut cells = vec![server.title.clone()];
    cells.extend(workload.metrics.iter().map(|it| cell(it, server)));
    if let (true, Some((_, reason))) = (server.summary.is_empty(), server.failures()) {
        cells[1] = format!("failed: {reason}");
    }
    cells
}

/// Returns an empty cell if the metric was not measured.
fn cell(metric: &Metric, server: &ServerResults) -> String {
    let Some(it) = server.summary.get(metric.name) else {
        return String::new();
    };
    if metric.is_context {
        return format_number(it.value.median * metric.scale);
    }
    let ratio = it.ratio.filter(|_| server.name != BASELINE);
    let ratio = ratio.map_or(String::new(), |ratio| {
        let verdict = Verdict::of(&ratio, metric.higher_is_better);
        format!(", × {} {verdict}", format_estimate(&ratio, 1.0))
    });
    format_estimate(&it.value, metric.scale) + &ratio
}

/// Formats the median and the interval.
pub(crate) fn format_estimate(it: &Estimate, scale: f64) -> String {
    let [median, low, high] = [it.median, it.low, it.high].map(|it| format_number(it * scale));
    format!("{median} ({low} – {high})")
}

/// Formats with three significant digits, or all digits before the decimal point if there are more.
pub(crate) fn format_number(number: f64) -> String {
    let decimals = match number.abs() {
        ..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    group_thousands(&format!("{number:.decimals$}"))
}

/// Separates groups of three digits before the decimal point with commas.
pub(crate) fn group_thousands(text: &str) -> String {
    let whole = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (index, digit) in text.char_indices() {
        let starts_group = index > 0 && index < whole && (whole - index).is_multiple_of(3);
        if starts_group && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines: Vec<String> = rows.iter().map(|row| line(row, &widths, ' ')).collect();
    let rule = vec![String::new(); columns];
    lines.insert(1, line(&rule, &widths, '-'));
    lines.join("\n") + "\n"
}

fn line(cells: &[String], widths: &[usize], fill: char) -> String {
    let mut line = String::from("|");
    for (cell, width) in cells.iter().zip(widths) {
        let missing = width - cell.chars().count();
        let padding = String::from(fill).repeat(missing);
        let _ = write!(line, "{fill}{cell}{padding}{fill}|");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn table_shows_figures_and_failures() {
        let (workload, results) = example();
        let text = render(workload, &results);
        for part in [
            "| mio-echo          | 200 (100 – 300)        |",
            "| bare epoll loop   | 200 (200 – 200), × 2.00 (2.00 – 2.00) too few rounds |",
            "| tokio, one thread | failed: 3 lost",
            "bare epoll loop: 1 of 2 rounds failed: 3 lost",
            "tokio, one thread: 2 of 2 rounds failed: 3 lost",
        ] {
            let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(plain(&text).contains(&plain(part)), "{part} in\n{text}");
        }
    }

    #[test]
    fn lines_of_the_table_have_the_same_length() {
        let (workload, results) = example();
        let text = render(workload, &results);
        let rows = text.lines().filter(|it| it.starts_with('|'));
        let widths: Vec<usize> = rows.map(|it| it.chars().count()).collect();
        assert_eq!(widths, vec![widths[0]; 5]);
    }

    #[test]
    fn numbers_have_at_least_three_digits() {
        let numbers = [0.5, 1.0, 12.34, 123.4, 1234.5, 1_234_567.0].map(format_number);
        assert_eq!(
            numbers,
            ["0.500", "1.00", "12.3", "123", "1,234", "1,234,567"]
        );
    }
}
