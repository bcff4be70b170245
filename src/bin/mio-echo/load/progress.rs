//! The progress bar.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn new(is_wanted: bool) -> Self {
        if !is_wanted || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:<24} [{wide_bar}] {elapsed}")
            .expect("a template that it takes");
        bar.set_style(style.progress_chars("=> "));
        Progress(Some(bar))
    }

    pub(crate) fn show(&self, what: impl FnOnce() -> String, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done.min(total));
            bar.set_message(what());
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }

    /// The interval of updates.
    pub(crate) const PERIOD: Duration = Duration::from_millis(100);
}
