//! The log: which lines, and in which form they are written to standard error.

use std::env;
use std::io::{self, IsTerminal};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use log::{LevelFilter, Log, Metadata, Record, warn};
use simple_logger::SimpleLogger;

use crate::cli::LogOptions;

/// Starts the log.
pub(crate) fn start(options: &LogOptions) {
    let mut directives = Directives::parse(&match options.log_level {
        Some(level) => level.to_string(),
        None => env::var("RUST_LOG").unwrap_or_default(),
    });
    let shift = i16::from(options.verbose) - i16::from(options.quiet);
    directives.level = shifted(directives.level, shift);
    log::set_max_level(directives.max_level());
    let unknown = mem::take(&mut directives.unknown);
    let output = SimpleLogger::new().with_colors(io::stderr().is_terminal());
    // Fails only if there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Logger { output, directives }));
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

/// A logger that cannot end the program. `SimpleLogger` prints with `eprintln!`, which panics if standard
/// error cannot be written to, because the disk is full or the reader of a pipe has gone. Then the line
/// is lost, and the service goes on.
struct Logger {
    output: SimpleLogger,
    /// Which lines are written. To `SimpleLogger`, `mio_echo` would be a module within `mio`.
    directives: Directives,
}

impl Logger {
    fn write(&self, record: &Record<'_>) {
        let text = escape_controls(&record.args().to_string());
        let mut escaped = Record::builder();
        escaped.metadata(record.metadata().clone());
        self.output
            .log(&escaped.args(format_args!("{text}")).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.directives.level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = catch_unwind(AssertUnwindSafe(|| self.write(record)));
        }
    }

    fn flush(&self) {
        self.output.flush();
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
            let (module, level) = match part.split_once('=') {
                Some((module, level)) => (Some(module.trim_end()), level.trim_start()),
                None => (None, part),
            };
            match (module, level.parse()) {
                (None, Ok(level)) => directives.level = level,
                (Some(module), Ok(level)) if !module.is_empty() => {
                    directives.modules.push((module.to_owned(), level));
                }
                _ => directives.unknown.push(part.to_owned()),
            }
        }
        directives
    }

    /// The level of a module: that of the nearest enclosing module with a directive. The last directive for
    /// a module counts.
    fn level_of(&self, target: &str) -> LevelFilter {
        let is_within = |module: &str| {
            let rest = target.strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let enclosing = self.modules.iter().filter(|(module, _)| is_within(module));
        let nearest = enclosing.max_by_key(|(module, _)| module.len());
        nearest.map_or(self.level, |(_, level)| *level)
    }

    fn max_level(&self) -> LevelFilter {
        let levels = self.modules.iter().map(|(_, level)| *level);
        levels.fold(self.level, Ord::max)
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

    use crate::near_valid::near_valid;

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
        let spaced = Directives::parse("mio = off, mio_echo =debug,= warn,mio_echo=error");
        assert_eq!(spaced.level_of("mio::poll"), LevelFilter::Off);
        assert_eq!(spaced.level_of("mio_echo"), LevelFilter::Error);
        assert_eq!(spaced.level_of("mi"), LevelFilter::Info);
        assert_eq!(spaced.max_level(), LevelFilter::Debug);
        assert_eq!(spaced.unknown, ["= warn"]);
        let none = Directives::parse("");
        assert_eq!((none.level, none.modules.len()), (LevelFilter::Info, 0));
    }

    #[test]
    fn directive_sets_the_level_of_its_module_alone() {
        const MODULE: &[&str] = &["", "mio=", "mio_echo=", "mio_echo::echo=", "mio_echo = "];
        const LEVEL: &[&str] = &["off", "warn", "info", "DEBUG", "trace", "loud", ""];
        const END: &[&str] = &[",", " , ", ""];
        const TARGETS: [&str; 4] = ["mio", "mio::poll", "mio_echo", "mio_echo::echo::accept"];

        let groups = [MODULE, LEVEL, END, MODULE, LEVEL, END, MODULE, LEVEL];
        near_valid(&groups, |text, _| {
            let directives = Directives::parse(text);
            for target in TARGETS {
                assert_eq!(directives.level_of(target), expected_level(text, target));
            }
            Ok(())
        });
    }

    /// The level of the module, else of its parent, and so on, else of all. The last directive counts.
    fn expected_level(text: &str, module: &str) -> LevelFilter {
        // No module can have this name.
        const ALL: &str = ",";

        let level = text.split(',').rev().find_map(|part| {
            let (name, level) = part.split_once('=').unwrap_or((ALL, part));
            let level = level.trim().parse().ok();
            level.filter(|_| name.trim() == module)
        });
        let parent = module.rsplit_once("::").map_or(ALL, |(parent, _)| parent);
        match level {
            Some(level) => level,
            None if module == ALL => LevelFilter::Info,
            None => expected_level(text, parent),
        }
    }
}
