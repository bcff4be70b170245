//! For tests: what was logged.

use std::cell::RefCell;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    /// What this thread has logged, while it wants to know.
    static LINES: RefCell<Option<Vec<(Level, String)>>> = const { RefCell::new(None) };
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mio_echo")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            LINES.with_borrow_mut(|lines| lines.as_mut().map(|lines| lines.push(line)));
        }
    }

    fn flush(&self) {}
}

/// What this thread logs meanwhile, down to `debug`.
pub(crate) fn logged(act: impl FnOnce()) -> Vec<(Level, String)> {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
    LINES.set(Some(Vec::new()));
    act();
    LINES.take().unwrap()
}
