//! For tests: what was logged.

use std::cell::RefCell;
use std::mem;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// What a thread has logged, down to a level.
struct Kept {
    level: LevelFilter,
    lines: Vec<(Level, String)>,
    /// How many of them were taken.
    taken: usize,
}

impl Kept {
    const fn new(level: LevelFilter) -> Self {
        Kept {
            level,
            lines: Vec::new(),
            taken: 0,
        }
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::new(LevelFilter::Off)) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_enabled = KEPT.with_borrow(|it| metadata.level() <= it.level);
        is_enabled && metadata.target().starts_with("mio_echo")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            KEPT.with_borrow_mut(|it| it.lines.push(line));
        }
    }

    fn flush(&self) {}
}

/// From now on keeps what this thread logs.
pub(crate) fn start(level: LevelFilter) {
    static START: Once = Once::new();
    START.call_once(|| log::set_logger(&Logger).unwrap());
    log::set_max_level(level.max(log::max_level()));
    KEPT.set(Kept::new(level));
}

/// What this thread has logged since the last call.
pub(crate) fn take() -> Vec<(Level, String)> {
    KEPT.with_borrow_mut(|it| {
        let taken = mem::replace(&mut it.taken, it.lines.len());
        it.lines[taken..].to_vec()
    })
}

/// What this thread has logged since the start.
pub(crate) fn all() -> Vec<(Level, String)> {
    KEPT.with_borrow(|it| it.lines.clone())
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
