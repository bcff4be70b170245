//! The progress bar: what is done of all that is to be done, and the rate.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Time and echoes of the last update.
    last: (u64, u64),
}

/// What is counted: times in nanoseconds, or a number.
pub(crate) enum Unit {
    Time,
    Number,
}

impl Progress {
    pub(crate) fn new(is_wanted: bool) -> Self {
        if !is_wanted || !std::io::stderr().is_terminal() {
            return Progress {
                bar: None,
                last: (0, 0),
            };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:<48} [{wide_bar}]")
            .expect("a template that it takes");
        bar.set_style(style.progress_chars("=> "));
        let bar = Some(bar);
        Progress { bar, last: (0, 0) }
    }

    /// Shows what is done at a time in nanoseconds. The rate is of the echoes since the last update.
    pub(crate) fn show(&mut self, what: &str, work: (u64, u64, Unit), now: u64, echoes: u64) {
        let (since, before) = std::mem::replace(&mut self.last, (now, echoes));
        if let Some(bar) = &self.bar {
            let (done, total, unit) = work;
            bar.set_length(total);
            bar.set_position(done.min(total));
            let part = part(done.min(total), total, &unit);
            let rate = (echoes - before) * 1_000_000_000 / (now - since).max(1);
            bar.set_message(format!("{what}: {part}, {rate} echoes/s"));
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The interval of updates.
    pub(crate) const PERIOD: Duration = Duration::from_millis(100);
}

/// `1.2 s of 3 s`, or `12 of 30`.
fn part(done: u64, total: u64, unit: &Unit) -> String {
    let tenths = |time: u64| (time / 1_000_000_000, time / 100_000_000 % 10);
    match (unit, tenths(done), tenths(total)) {
        (Unit::Number, ..) => format!("{done} of {total}"),
        (Unit::Time, (s, tenth), (all, 0)) => format!("{s}.{tenth} s of {all} s"),
        (Unit::Time, (s, tenth), (all, rest)) => format!("{s}.{tenth} s of {all}.{rest} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_time_or_a_number() {
        let (done, total) = (1_250_000_000, 3_000_000_000);
        assert_eq!(part(done, total, &Unit::Time), "1.2 s of 3 s");
        assert_eq!(part(done, done, &Unit::Time), "1.2 s of 1.2 s");
        assert_eq!(part(12, 30, &Unit::Number), "12 of 30");
    }
}
