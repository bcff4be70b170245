//! The log: which lines, and in which form they are written to standard error.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record, warn};

use crate::cli::LogOptions;

/// Starts the log.
pub(crate) fn start(options: &LogOptions) {
    let mut directives = Directives::parse(&match options.log_level {
        Some(level) => level.to_string(),
        None => env::var("RUST_LOG").unwrap_or_default(),
    });
    let unknown = std::mem::take(&mut directives.unknown);
    let shift = i16::from(options.verbose) - i16::from(options.quiet);
    directives.level = shifted(directives.level, shift);
    let modules = directives.modules.iter().map(|(_, level)| *level);
    log::set_max_level(modules.fold(directives.level, std::cmp::max));
    let has_colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    // Fails only if there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Logger {
        directives,
        has_colours,
    }));
    for text in unknown {
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

/// Writes lines to standard error. If that fails, because the disk is full or the reader of a pipe has
/// gone, the line is lost and the service goes on.
struct Logger {
    directives: Directives,
    has_colours: bool,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.directives.level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let (on, off) = match record.level() {
            _ if !self.has_colours => ("", ""),
            Level::Error => ("\x1b[31m", "\x1b[0m"),
            Level::Warn => ("\x1b[33m", "\x1b[0m"),
            _ => ("\x1b[36m", "\x1b[0m"),
        };
        let (level, target) = (record.level(), record.target());
        let text = escape_controls(&record.args().to_string());
        // One call, so that the lines of several processes do not mix.
        let line = format!("{time} {on}{level:<5}{off} [{target}] {text}\n");
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
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
            let (module, level) = match part.split_once('=') {
                Some((module, level)) => (Some(module), level),
                None => (None, part),
            };
            match (module, level.parse()) {
                (None, Ok(level)) => directives.level = level,
                (Some(module), Ok(level)) => directives.modules.push((module.to_owned(), level)),
                (_, Err(_)) => directives.unknown.push(part.to_owned()),
            }
        }
        directives
    }

    /// The level of the longest name that the module begins with.
    fn level_of(&self, module: &str) -> LevelFilter {
        let names = self
            .modules
            .iter()
            .filter(|(name, _)| module.starts_with(name));
        let longest = names.max_by_key(|(name, _)| name.len());
        longest.map_or(self.level, |(_, level)| *level)
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

    #[test]
    fn longest_matching_module_decides() {
        let directives = Directives::parse("mio_echo::echo=trace,mio_echo=warn");
        for (module, level) in [
            ("mio_echo::echo::accept", LevelFilter::Trace),
            ("mio_echo::server", LevelFilter::Warn),
            ("mio::poll", LevelFilter::Info),
        ] {
            assert_eq!(directives.level_of(module), level, "{module}");
        }
    }
}
