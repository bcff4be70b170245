//! The log: which lines, and where they go.

use std::env;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};

use log::{LevelFilter, Log, Metadata, Record, warn};
use simple_logger::SimpleLogger;

use crate::cli::LogOptions;

/// Starts the log, on standard error.
pub(crate) fn start(options: &LogOptions) {
    let directives = match options.log_level {
        Some(level) => Directives {
            level: Some(level),
            ..Directives::default()
        },
        None => Directives::parse(&env::var("RUST_LOG").unwrap_or_default()),
    };
    let level = shifted(
        directives.level.unwrap_or(LevelFilter::Info),
        i16::from(options.verbose) - i16::from(options.quiet),
    );
    let mut logger = SimpleLogger::new()
        .with_level(level)
        .with_colors(io::stderr().is_terminal());
    for (module, level) in directives.modules {
        logger = logger.with_module_level(&module, level);
    }
    log::set_max_level(logger.max_level());
    // Fails only where there is a logger already, and this is the first thing that main does.
    let _ = log::set_boxed_logger(Box::new(Unstoppable(logger)));
    for text in directives.unknown {
        warn!("RUST_LOG: '{text}' ignored; write LEVEL or MODULE=LEVEL, such as mio_echo=debug");
    }
}

/// The text with its control characters escaped. Arguments and the environment may have been written by
/// others, and must neither begin a new line of the log nor control the terminal.
pub(crate) fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// A logger that cannot end the program. `SimpleLogger` prints with `eprintln!`, which panics
/// where standard error cannot be written to: a full disk, or a pipe whose reader has gone. The
/// service outlives its log. Each line has its control characters escaped.
struct Unstoppable(SimpleLogger);

impl Unstoppable {
    fn write(&self, record: &Record<'_>) {
        let text = escape_controls(&record.args().to_string());
        let mut escaped = Record::builder();
        escaped.metadata(record.metadata().clone());
        self.0.log(&escaped.args(format_args!("{text}")).build());
    }
}

impl Log for Unstoppable {
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

/// What `RUST_LOG` says: `LEVEL` and `MODULE=LEVEL`, separated by commas, as other programs
/// take it.
#[derive(Debug, Default, PartialEq)]
struct Directives {
    level: Option<LevelFilter>,
    modules: Vec<(String, LevelFilter)>,
    unknown: Vec<String>,
}

impl Directives {
    fn parse(text: &str) -> Self {
        let mut directives = Directives::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (module, level) = match part.split_once('=') {
                Some((module, level)) => (Some(module), level),
                None => (None, part),
            };
            match (module, level.parse()) {
                (None, Ok(level)) => directives.level = Some(level),
                (Some(module), Ok(level)) => directives.modules.push((module.to_owned(), level)),
                (_, Err(_)) => directives.unknown.push(part.to_owned()),
            }
        }
        directives
    }
}

/// The level `by` steps more talkative, but no more than there are.
fn shifted(level: LevelFilter, by: i16) -> LevelFilter {
    let all: Vec<LevelFilter> = LevelFilter::iter().collect();
    let step = (level as i16 + by).clamp(0, LevelFilter::Trace as i16);
    all[usize::try_from(step).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_shifted_as_far_as_they_go() {
        assert_eq!(shifted(LevelFilter::Info, 0), LevelFilter::Info);
        assert_eq!(shifted(LevelFilter::Info, 2), LevelFilter::Trace);
        assert_eq!(shifted(LevelFilter::Info, 200), LevelFilter::Trace);
        assert_eq!(shifted(LevelFilter::Info, -1), LevelFilter::Warn);
        assert_eq!(shifted(LevelFilter::Info, -200), LevelFilter::Off);
    }

    #[test]
    fn directives_are_levels_of_all_or_of_a_module() {
        let directives = Directives::parse("warn, mio_echo::echo=trace,mio=off,loud,mio=loud");
        assert_eq!(directives.level, Some(LevelFilter::Warn));
        assert_eq!(
            directives.modules,
            [
                ("mio_echo::echo".to_owned(), LevelFilter::Trace),
                ("mio".to_owned(), LevelFilter::Off)
            ]
        );
        assert_eq!(directives.unknown, ["loud", "mio=loud"]);
        assert_eq!(Directives::parse(""), Directives::default());
    }
}
