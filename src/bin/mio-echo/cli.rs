//! The command line: subcommands, the options that all of them share, and errors of one line.

use std::fmt;
use std::io;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use log::LevelFilter;
use mio_echo::{EndpointError, EndpointErrorKind};

use crate::logging::LogFormat;
use crate::options::ServiceOptions;

/// An echo service (RFC 862) over TCP, UDP and Unix sockets: returns to each peer what it sends.
///
/// One thread serves all peers. Memory and CPU are spent only on peers with something to do, and no
/// peer can delay the others.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100, after_long_help = include_str!("help.txt"),
          override_usage = "mio-echo [OPTIONS] [ENDPOINT]...\n       mio-echo [OPTIONS] <COMMAND>")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) service: ServiceOptions,
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// Without a subcommand, the program serves.
#[derive(Debug, Subcommand)]
#[allow(clippy::doc_markdown, reason = "the help is plain text")]
pub(crate) enum Command {
    /// Check that the service at ENDPOINT echoes
    Check(crate::check::Options),
    /// Send pings to an echo service, compare and time the replies, as ping(8) does
    #[cfg(feature = "tools")]
    Ping(crate::ping::Options),
    /// Put load on an echo service, compare every byte, and print rates and latencies
    #[cfg(feature = "tools")]
    Load(crate::load::Options),
    /// Print the manual page, as source for man(1): mio-echo man | man -l -
    #[cfg(feature = "man")]
    Man(crate::man::PageOptions),
    /// Print the completions of a shell
    #[cfg(feature = "man")]
    Completions(crate::man::CompletionsOptions),
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "the help is plain text")]
pub(crate) struct LogOptions {
    /// Log level: off, error, warn, info, debug or trace [default: RUST_LOG, or info]
    ///
    /// debug: each connection when it opens and closes. trace: each event and system call.
    #[arg(long, global = true, value_name = "LEVEL", value_parser = level)]
    pub(crate) log_level: Option<LevelFilter>,

    /// Form of the log: text, json or journald
    ///
    /// json: one object a line. journald: the priority in front, see sd-daemon(3), and no time stamp,
    /// because the journal adds its own.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    pub(crate) log_format: LogFormat,

    /// Log more: -v is one level more, -vv two
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Log less: -q is one level less, -qq two; ping prints no replies, load no progress
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse()
        .map_err(|_| "write off, error, warn, info, debug or trace")
}

impl Cli {
    /// Parses the arguments. Returns `None` after it has printed the help or the version.
    pub(crate) fn parse() -> Result<Option<Self>, CliError> {
        let matches = Cli::command().try_get_matches();
        match matches.and_then(|it| Ok((Cli::from_arg_matches(&it)?, it))) {
            // clap's group of these arguments, which is there if one of them was given.
            Ok((cli, it)) if cli.command.is_some() && it.contains_id("ServiceOptions") => {
                let message = "options and endpoints of the service do not go with a subcommand: \
                               leave them out";
                Err(CliError::usage(format!("{message}; {}", hint())))
            }
            Ok((cli, _)) => Ok(Some(cli)),
            Err(error) if error.use_stderr() => Err(CliError::usage(one_line(&error))),
            Err(help) => printed(help.print()).map(|()| None),
        }
    }
}

/// The result of printing, unless the reader has seen enough, as in `mio-echo --help | head`.
pub(crate) fn printed(result: io::Result<()>) -> Result<(), CliError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// clap's message without its usage, and the command that prints the help.
fn one_line(error: &clap::Error) -> String {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::UnknownArgument
        && ["-p", "--port"].contains(&&**option)
    {
        let instead = "the port is a part of ENDPOINT, such as 127.0.0.1:7007";
        return format!("there is no option '{option}': {instead}; {}", hint());
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim);
    let parts: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        // An unknown option is not meant as an endpoint.
        .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"))
        .map(|line| line.trim_start_matches("error: "))
        .map(|line| line.trim_start_matches("tip: "))
        .collect();
    let message = parts.join("; ").replace(":;", ":");
    format!("{message}; {}", hint())
}

/// The subcommand that the text names or resembles.
fn similar_subcommand(text: &str) -> Option<String> {
    let cli = Cli::command();
    let mut names = cli.get_subcommands().map(clap::Command::get_name);
    if let Some(name) = names.find(|name| name.eq_ignore_ascii_case(text)) {
        return Some(name.to_owned());
    }
    // The endpoints of the real command line accept any text. Without them clap suggests names.
    let probe = clap::Command::new("").no_binary_name(true);
    let probe = probe.subcommands(cli.get_subcommands().cloned());
    let error = probe.try_get_matches_from([text.to_lowercase()]).err()?;
    match error.get(ContextKind::SuggestedSubcommand)? {
        ContextValue::Strings(names) => names.last().cloned(),
        _ => None,
    }
}

/// Names the subcommand that an endpoint resembles, or the help of the program or of the subcommand.
fn hint() -> String {
    let known = Cli::command().ignore_errors(true).try_get_matches();
    let known = known.unwrap_or_default();
    if let Some(subcommand) = known.subcommand_name() {
        return format!("see mio-echo {subcommand} --help");
    }
    let endpoints = known.try_get_many::<String>("endpoints").ok().flatten();
    match endpoints.and_then(|mut texts| texts.find_map(|text| similar_subcommand(text))) {
        Some(subcommand) => format!("for the subcommand write mio-echo {subcommand}"),
        None => "see mio-echo --help".to_owned(),
    }
}

/// Why the program fails: one line, and the exit status.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) message: String,
    pub(crate) status: u8,
}

impl CliError {
    /// An error of the system or of a peer: status 1.
    pub(crate) fn failure(error: impl fmt::Display) -> Self {
        let message = error.to_string();
        CliError { message, status: 1 }
    }

    /// An error in the arguments: status 2.
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        let message = error.to_string();
        CliError { message, status: 2 }
    }

    /// For a call that makes a descriptor or registers it with the selector: what failed, and the
    /// limits that can be the cause.
    pub(crate) fn cannot(what: &str) -> impl Fn(io::Error) -> Self {
        let advice =
            "raise the limit on open files, or fs.epoll.max_user_watches, if that is the cause";
        move |error| CliError::failure(format!("cannot {what}: {error}; {advice}"))
    }

    /// Names the option that the error is about.
    pub(crate) fn of_option(self, name: &str) -> Self {
        let message = format!("{name}: {}", self.message);
        CliError { message, ..self }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        CliError::failure(error)
    }
}

impl From<EndpointError> for CliError {
    fn from(error: EndpointError) -> Self {
        match error.kind() {
            EndpointErrorKind::Unresolved => CliError::failure(error),
            // A mistyped subcommand is an endpoint, too.
            _ => CliError::usage(format!("{error}; {}", hint())),
        }
    }
}
