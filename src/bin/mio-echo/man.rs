//! The manual pages and the completions of shells, from the definition of the arguments and the texts
//! of the help.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, CliError, printed};

/// When the texts last changed.
const DATE: &str = "2026-11-26";

#[derive(Debug, Args)]
pub(crate) struct PageOptions {
    /// Print the page of this subcommand instead: check, ping or load
    #[arg(value_name = "SUBCOMMAND")]
    subcommand: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsOptions {
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(crate) fn print_page(options: &PageOptions) -> Result<(), CliError> {
    // These two have no pages of their own.
    let mut command = Cli::command()
        .disable_help_subcommand(true)
        .mut_subcommand("man", |it| it.hide(true))
        .mut_subcommand("completions", |it| it.hide(true));
    command.build();
    if let Some(name) = &options.subcommand {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| CliError::usage(format!("no subcommand '{name}'")))?;
    }
    printed(page(&command).and_then(|page| io::stdout().write_all(&page)))
}

pub(crate) fn print_completions(options: &CompletionsOptions) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "mio-echo", &mut script);
    printed(io::stdout().write_all(&script))
}

/// The source of a page: what clap knows, and the sections after the options in the help.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let name = command.get_display_name().unwrap_or("mio-echo");
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(DATE)
        .source(concat!("mio-echo ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let text = command.get_after_long_help().map(ToString::to_string);
    sections(&text.unwrap_or_default()).to_writer(&mut page)?;
    Ok(page)
}

/// Sections from text: a line that is not indented is a heading. A line with an indentation of two
/// begins an item, if two spaces or a line with more indentation follow its term, or is of a paragraph.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    // A heading begins a paragraph, too.
    let mut is_paragraph = true;
    for (index, line) in lines.iter().enumerate() {
        let (content, next) = (line.trim(), lines.get(index + 1));
        let (term, meaning) = content.split_once("  ").unwrap_or((content, ""));
        let is_item = !meaning.is_empty() || next.is_some_and(|it| indentation(it) > 2);
        match indentation(line) {
            0 => {
                let heading = content.trim_end_matches(':').to_uppercase();
                roff.control("SH", [&*heading]);
            }
            2 if is_item => {
                roff.control("TP", []).text([bold(term)]);
                if !meaning.is_empty() {
                    roff.text([roman(meaning.trim_start())]);
                }
            }
            2 if !is_paragraph => {
                roff.control("PP", []).text([roman(content)]);
            }
            _ => {
                roff.text([roman(content)]);
            }
        }
        is_paragraph = indentation(line) == 0 || indentation(line) == 2 && !is_item;
    }
    roff
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}
