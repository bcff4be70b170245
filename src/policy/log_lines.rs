//! For tests: what was logged.

use std::cell::RefCell;
use std::mem;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    /// What this thread has logged, down to a level.
    static LINES: RefCell<(LevelFilter, Vec<(Level, String)>)> =
        const { RefCell::new((LevelFilter::Off, Vec::new())) };
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_enabled = LINES.with_borrow(|(level, _)| metadata.level() <= *level);
        is_enabled && metadata.target().starts_with("mio_echo")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            LINES.with_borrow_mut(|(_, lines)| lines.push(line));
        }
    }

    fn flush(&self) {}
}

/// From now on keeps what this thread logs.
pub(crate) fn start(level: LevelFilter) {
    static START: Once = Once::new();
    START.call_once(|| log::set_logger(&Lines).unwrap());
    log::set_max_level(level.max(log::max_level()));
    LINES.set((level, Vec::new()));
}

/// What this thread has logged since the last call.
pub(crate) fn take() -> Vec<(Level, String)> {
    LINES.with_borrow_mut(|(_, lines)| mem::take(lines))
}

/// What this thread logs meanwhile, down to `debug`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn logged(act: impl FnOnce()) -> Vec<(Level, String)> {
    start(LevelFilter::Debug);
    act();
    let lines = take();
    start(LevelFilter::Off);
    lines
}
