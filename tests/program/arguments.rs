//! The command line of all subcommands: options, order, help and errors of one line.

use crate::common::service::{error_line, output, program};
use crate::common::{Running, config_at};

#[test]
fn global_options_precede_or_follow_the_subcommand() {
    let server = Running::start(config_at("127.0.0.1:0"));
    let endpoint = server.addresses[0].to_string();
    for arguments in [
        ["-v", "check", &endpoint],
        ["check", "-q", &endpoint],
        ["--log-level=debug", "check", &endpoint],
        ["check", &endpoint, "-vv"],
    ] {
        let status = output(program(&arguments)).status;
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn service_options_before_a_subcommand_are_an_error() {
    for arguments in [
        &["--reuse-port"][..],
        &["--backlog", "5"],
        // The default.
        &["--backlog", "1024"],
        &["--zero-copy=auto"],
        &["-v", "--metrics", "tcp://127.0.0.1:0"],
        &["127.0.0.1:0", "-v"],
    ] {
        let arguments = [arguments, &["check", "127.0.0.1:7007"]].concat();
        let (line, status) = error_line(program(&arguments));
        assert_eq!(status, Some(2), "{line}");
        assert!(
            line.contains("of the service do not go with a subcommand"),
            "{line}"
        );
        assert!(line.contains("see mio-echo check --help"), "{line}");
    }
    let (line, status) = error_line(program(&["check", "--backlog", "5", "127.0.0.1:7007"]));
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("unexpected argument '--backlog'"), "{line}");
}

/// A mistyped subcommand is an endpoint.
#[test]
fn endpoint_that_resembles_a_subcommand_gets_a_hint() {
    let check = "for the subcommand write mio-echo check";
    for (arguments, hint) in [
        (&["chek"][..], check),
        (&["CHECK", "127.0.0.1:7007"], check),
        (&["127.0.0.1:0", "check", "127.0.0.1:7007"], check),
        (&["--", "check"], check),
        (&["chek", "--bcklog", "5"], check),
        #[cfg(feature = "tools")]
        (&["Ping", "-c3", "127.0.0.1:7007"], "write mio-echo ping"),
        #[cfg(feature = "tools")]
        (&["laod"], "write mio-echo load"),
        (&["localhost"], "see mio-echo --help"),
        (&["127.0.0.1"], "see mio-echo --help"),
    ] {
        let (line, status) = error_line(program(arguments));
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains(hint), "{line}");
    }
}

#[test]
fn error_of_a_subcommand_names_its_help() {
    for arguments in [&["check"][..], &["check", "--no-such-option"]] {
        let (line, status) = error_line(program(arguments));
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains("see mio-echo check --help"), "{line}");
    }
}

#[test]
fn help_of_a_subcommand() {
    for arguments in [["help", "check"], ["check", "--help"]] {
        let output = output(program(&arguments));
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: mio-echo check [OPTIONS] <ENDPOINT>"));
    }
}

#[test]
fn version_of_a_subcommand() {
    let output = output(program(&["check", "--version"]));
    assert_eq!(output.status.code(), Some(0));
    let version = concat!("mio-echo-check ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
}

#[cfg(feature = "man")]
fn printed(arguments: &[&str]) -> String {
    let output = output(program(arguments));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[cfg(feature = "man")]
#[test]
fn manual_page_has_the_sections_of_the_help() {
    let page = printed(&["man"]);
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "SUBCOMMANDS",
        "EXAMPLES",
        "ENVIRONMENT",
        "LOG",
        "SIGNALS",
        r#""EXIT STATUS""#,
        r#""SEE ALSO""#,
    ] {
        assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
    }
    // A term and its meaning, a term alone on its line, and a paragraph.
    assert!(page.contains("\n.TP\n\\fBSIGUSR1\\fR\nlog a summary of the counters\n"));
    assert!(page.contains("\nsystemd is notified when"), "{page}");
    assert!(
        page.contains("\n.SH LOG\nLines on standard error"),
        "{page}"
    );
    assert!(printed(&["man", "check"]).contains(".TH MIO-ECHO-CHECK 1 "));
    let (line, status) = error_line(program(&["man", "fly"]));
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("no subcommand 'fly'"), "{line}");
}

#[cfg(feature = "man")]
#[test]
fn completions_know_all_options() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for option in ["drain-timeout", "log-format", "check"] {
            assert!(script.contains(option), "{option} for {shell}");
        }
    }
}
