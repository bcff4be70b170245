//! The latency distribution as a bar chart in text.

use std::fmt;

use hdrhistogram::Histogram;

const ROWS: u32 = 12;
const WIDTH: u64 = 50;

/// Rows with logarithmic bounds (1, 2, 5, 10 and so on), because the slowest times are often a
/// thousand times as long as most.
pub(crate) fn draw(f: &mut fmt::Formatter<'_>, times: &Histogram<u64>) -> fmt::Result {
    let bounds = bounds(times.min(), times.max());
    let counts: Vec<u64> = bounds
        .windows(2)
        .map(|pair| times.count_between(pair[0], pair[1] - 1))
        .collect();
    let max = counts.iter().copied().max().unwrap_or(0).max(1);
    for (pair, &count) in bounds.windows(2).zip(&counts) {
        // A count above 0 is always visible.
        let width = (count * WIDTH).div_ceil(max);
        let bar = "#".repeat(usize::try_from(width).unwrap_or(0));
        let until = Time(pair[1]).to_string();
        writeln!(f, "  < {until:>9} {count:>10} {bar}")?;
    }
    Ok(())
}

fn bounds(min: u64, max: u64) -> Vec<u64> {
    let steps = || (0..ROWS).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let first = steps().rfind(|&bound| bound <= min);
    let mut bounds = vec![first.unwrap_or(0)];
    for bound in steps().filter(|&bound| bound > min) {
        bounds.push(bound);
        if bound > max {
            break;
        }
    }
    bounds
}

/// Nanoseconds in a suitable unit.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..1_000 => return write!(f, "{} ns", self.0),
            1_000..1_000_000 => (1_000, "us"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        let (whole, thousandths) = (self.0 / unit, self.0 % unit * 1000 / unit);
        // Three digits, as in the histogram.
        match whole {
            _ if thousandths == 0 => write!(f, "{whole} {name}"),
            0..10 => write!(f, "{whole}.{:02} {name}", thousandths / 10),
            10..100 => write!(f, "{whole}.{} {name}", thousandths / 100),
            _ => write!(f, "{whole} {name}"),
        }
    }
}
