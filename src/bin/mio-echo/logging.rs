//! The log: which lines, and in which form they are written to standard error.

use std::env;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};

use log::{LevelFilter, Log, Metadata, Record, warn};
use simple_logger::SimpleLogger;

use crate::cli::LogOptions;

/// Starts the log.
pub(crate) fn start(options: &LogOptions) {
    let directives = Directives::parse(&match options.log_level {
        Some(level) => level.to_string(),
        None => env::var("RUST_LOG").unwrap_or_default(),
    });
    let shift = i16::from(options.verbose) - i16::from(options.quiet);
    let mut logger = SimpleLogger::new()
        .with_level(shifted(directives.level, shift))
        .with_colors(io::stderr().is_terminal());
    for (module, level) in directives.modules {
        logger = logger.with_module_level(&module, level);
    }
    log::set_max_level(logger.max_level());
    // Fails only if there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Logger(logger)));
    for text in directives.unknown {
        warn!("RUST_LOG: '{text}' ignored; write LEVEL or MODULE=LEVEL, such as mio_echo=debug");
    }
}

/// Escapes control characters. Arguments and the environment can come from others, and must neither
/// begin a new line of the log nor control the terminal.
pub(crate) fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            control if control.is_control() => escaped.extend(control.escape_default()),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A logger that cannot end the program. `SimpleLogger` prints with `eprintln!`, which panics if standard
/// error cannot be written to, because the disk is full or the reader of a pipe has gone. Then the line
/// is lost, and the service goes on.
struct Logger(SimpleLogger);

impl Logger {
    fn write(&self, record: &Record<'_>) {
        let text = escape_controls(&record.args().to_string());
        let mut escaped = Record::builder();
        escaped.metadata(record.metadata().clone());
        self.0.log(&escaped.args(format_args!("{text}")).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = catch_unwind(AssertUnwindSafe(|| self.write(record)));
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The value of `RUST_LOG`: `LEVEL` and `MODULE=LEVEL`, separated by commas, as in other programs.
struct Directives {
    level: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
    unknown: Vec<String>,
}

impl Directives {
    fn parse(text: &str) -> Self {
        let mut directives = Directives {
            level: LevelFilter::Info,
            modules: Vec::new(),
            unknown: Vec::new(),
        };
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let (module, level) = part.split_once('=').unwrap_or(("", part));
            match level.parse() {
                Ok(level) if module.is_empty() => directives.level = level,
                Ok(level) => directives.modules.push((module.to_owned(), level)),
                Err(_) => directives.unknown.push(part.to_owned()),
            }
        }
        directives
    }
}

/// The level `by` steps more verbose, within the range of levels.
fn shifted(level: LevelFilter, by: i16) -> LevelFilter {
    let step = usize::try_from(level as i16 + by).unwrap_or(0);
    LevelFilter::iter().nth(step).unwrap_or(LevelFilter::Trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_shifted_within_its_range() {
        assert_eq!(shifted(LevelFilter::Info, 0), LevelFilter::Info);
        assert_eq!(shifted(LevelFilter::Info, 2), LevelFilter::Trace);
        assert_eq!(shifted(LevelFilter::Info, 200), LevelFilter::Trace);
        assert_eq!(shifted(LevelFilter::Info, -1), LevelFilter::Warn);
        assert_eq!(shifted(LevelFilter::Info, -200), LevelFilter::Off);
    }

    #[test]
    fn directives_are_levels_with_or_without_module() {
        let directives = Directives::parse("warn, mio_echo::echo=trace,mio=off,loud,mio=loud");
        assert_eq!(directives.level, LevelFilter::Warn);
        assert_eq!(
            directives.modules,
            [
                ("mio_echo::echo".to_owned(), LevelFilter::Trace),
                ("mio".to_owned(), LevelFilter::Off)
            ]
        );
        assert_eq!(directives.unknown, ["loud", "mio=loud"]);
        let none = Directives::parse("");
        assert_eq!((none.level, none.modules.len()), (LevelFilter::Info, 0));
    }
}
