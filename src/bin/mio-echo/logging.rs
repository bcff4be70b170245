//! The log: which lines, and in which form they are written to standard error.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use log::kv::{self, Key, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record, warn};
use serde_json::{Map, Value};
use simple_logger::SimpleLogger;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::cli::LogOptions;

/// UTC with microseconds: the calls of one turn are that close together.
const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
    Journald,
}

/// Set when the arguments are known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets the form of log lines and of errors, once.
pub(crate) fn set_format(format: LogFormat) {
    // Fails only if it is set already.
    let _ = FORMAT.set(format);
}

fn format() -> LogFormat {
    *FORMAT.get().unwrap_or(&LogFormat::Text)
}

/// Starts the log.
pub(crate) fn start(options: &LogOptions) {
    let text = match options.log_level {
        Some(level) => level.to_string(),
        None => env::var("RUST_LOG").unwrap_or_default(),
    };
    let (mut levels, unknown) = Levels::parse(&text);
    levels.shift(i16::from(options.verbose) - i16::from(options.quiet));
    log::set_max_level(levels.max());
    let mut output = SimpleLogger::new().with_colors(io::stderr().is_terminal());
    if levels.max() == LevelFilter::Trace {
        output = output.with_timestamp_format(MICROSECONDS);
    }
    keep_lost_lines_quiet();
    // Fails only if there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Logger { output, levels }));
    for text in unknown {
        warn!("RUST_LOG: '{text}' ignored; write LEVEL or MODULE=LEVEL, such as mio_echo=debug");
    }
}

/// Writes the error that ends the program. If that fails, only the exit status reports it.
pub(crate) fn print_error(error: &dyn Display) {
    if format() == LogFormat::Text {
        let text = escape_controls(&error.to_string());
        return write(&format!("mio-echo: {text}"));
    }
    let mut record = Record::builder();
    record.level(Level::Error).target("mio_echo");
    write(&line(&record.args(format_args!("{error}")).build()));
}

/// A line for programs.
fn line(record: &Record<'_>) -> String {
    let (target, text) = (record.target(), record.args().to_string());
    if format() == LogFormat::Json {
        let mut values = Values(Map::new());
        // Fails only if a value cannot be visited, and these can.
        let _ = record.key_values().visit(&mut values);
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let fields: [(_, Value); 4] = [
            ("time", time.into()),
            ("level", record.level().as_str().into()),
            ("target", target.into()),
            ("message", text.into()),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value));
        values.0.extend(fields);
        return Value::from(values.0).to_string();
    }
    // Of <syslog.h>.
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>[{target}] {}", escape_controls(&text))
}

/// The values of a record, such as `token` and `bytes`.
struct Values(Map<String, Value>);

impl<'a> VisitSource<'a> for Values {
    fn visit_pair(&mut self, key: Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(Value::from);
        let value = number.unwrap_or_else(|| value.to_string().into());
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

/// Writes a line with one call, so that lines of several processes are not mixed. If that fails, the
/// line is lost.
fn write(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Escapes control characters. Arguments and the environment can come from others, and must neither
/// begin a new line of the log nor control the terminal.
fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            control if control.is_control() => escaped.extend(control.escape_default()),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A panic of `eprintln!` is not printed: a line was lost, and there may be room for its text by now.
fn keep_lost_lines_quiet() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if !text.is_some_and(|it| it.starts_with("failed printing to stderr")) {
            print(panic);
        }
    }));
}

/// A logger that cannot end the program. `SimpleLogger` prints with `eprintln!`, which panics if standard
/// error cannot be written to, because the disk is full or the reader of a pipe has gone. Then the line
/// is lost, and the service goes on.
struct Logger {
    output: SimpleLogger,
    /// Which lines are written. To `SimpleLogger`, `mio_echo` would be a module within `mio`.
    levels: Levels,
}

impl Logger {
    fn write(&self, record: &Record<'_>) {
        if format() != LogFormat::Text {
            return write(&line(record));
        }
        let text = escape_controls(&record.args().to_string());
        let mut escaped = Record::builder();
        escaped.metadata(record.metadata().clone());
        self.output
            .log(&escaped.args(format_args!("{text}")).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.levels.of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = catch_unwind(AssertUnwindSafe(|| self.write(record)));
        }
    }

    fn flush(&self) {}
}

/// The levels of modules by their names. The empty name stands for all modules without their own level.
struct Levels(BTreeMap<String, LevelFilter>);

impl Levels {
    /// Parses the value of `RUST_LOG`: `LEVEL` and `MODULE=LEVEL`, separated by commas, as in other
    /// programs. Of several directives for a module the last one counts. Also returns the malformed ones.
    fn parse(text: &str) -> (Self, Vec<&str>) {
        let mut levels = BTreeMap::from([(String::new(), LevelFilter::Info)]);
        let mut unknown = Vec::new();
        let parts = text.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let directive = part.split_once('=').filter(|it| !it.0.is_empty());
            let (module, level) = directive.unwrap_or(("", part));
            match level.trim_start().parse() {
                Ok(level) => drop(levels.insert(module.trim_end().to_owned(), level)),
                Err(_) => unknown.push(part),
            }
        }
        (Levels(levels), unknown)
    }

    /// Makes the modules without their own level `by` steps more verbose. mio stays at `debug` at most:
    /// its trace is about the selector, and repeats what the library logs.
    fn shift(&mut self, by: i16) {
        let level = shifted(self.of(""), by);
        self.0.insert(String::new(), level);
        let mio = level.min(LevelFilter::Debug);
        self.0.entry("mio".to_owned()).or_insert(mio);
    }

    /// The level of a module: that of the nearest enclosing module with its own.
    fn of(&self, target: &str) -> LevelFilter {
        let encloses = |module: &str| {
            let inner = target.strip_prefix(module);
            inner.is_some_and(|it| it.is_empty() || module.is_empty() || it.starts_with("::"))
        };
        let mut from_longest = self.0.iter().rev();
        let nearest = from_longest.find(|(module, _)| encloses(module));
        nearest.map_or(LevelFilter::Off, |(_, level)| *level)
    }

    fn max(&self) -> LevelFilter {
        self.0.values().copied().max().unwrap_or(LevelFilter::Off)
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
        let (levels, unknown) = Levels::parse("warn, mio_echo::echo=trace,mio=off,loud,mio=loud");
        assert_eq!(levels.of("mio_echo"), LevelFilter::Warn);
        assert_eq!(levels.of("mio_echo::echo::accept"), LevelFilter::Trace);
        assert_eq!(levels.of("mio"), LevelFilter::Off);
        assert_eq!(unknown, ["loud", "mio=loud"]);
        let (mut levels, unknown) =
            Levels::parse("mio = off, mio_echo =debug,= warn,mio_echo=error");
        assert_eq!(levels.of("mio::poll"), LevelFilter::Off);
        assert_eq!(levels.of("mio_echo"), LevelFilter::Error);
        assert_eq!(levels.of("mi"), LevelFilter::Info);
        assert_eq!(levels.max(), LevelFilter::Info);
        assert_eq!(unknown, ["= warn"]);
        levels.shift(2);
        assert_eq!(levels.of("mi"), LevelFilter::Trace);
        assert_eq!(levels.of("mio::poll"), LevelFilter::Off);
        assert_eq!(levels.max(), LevelFilter::Trace);
        assert_eq!(Levels::parse("").0.max(), LevelFilter::Info);
    }

    #[test]
    fn mio_traces_only_by_its_name() {
        let of_mio = |text, by| {
            let mut levels = Levels::parse(text).0;
            levels.shift(by);
            levels.of("mio::poll")
        };
        assert_eq!(of_mio("", 2), LevelFilter::Debug);
        assert_eq!(of_mio("trace", 0), LevelFilter::Debug);
        assert_eq!(of_mio("trace", -2), LevelFilter::Info);
        assert_eq!(of_mio("mio=trace", 0), LevelFilter::Trace);
        assert_eq!(of_mio("mio=off", 2), LevelFilter::Off);
    }

    #[test]
    fn directive_sets_the_level_of_its_module_alone() {
        const MODULE: &[&str] = &["", "mio=", "mio_echo=", "mio_echo::echo=", "mio_echo = "];
        const LEVEL: &[&str] = &["off", "warn", "info", "DEBUG", "trace", "loud", ""];
        const END: &[&str] = &[",", " , ", ""];
        const TARGETS: [&str; 4] = ["mio", "mio::poll", "mio_echo", "mio_echo::echo::accept"];

        let groups = [MODULE, LEVEL, END, MODULE, LEVEL, END, MODULE, LEVEL];
        near_valid(&groups, |text, _| {
            let (levels, _) = Levels::parse(text);
            for target in TARGETS {
                assert_eq!(levels.of(target), expected_level(text, target));
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
