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
        &["-v", "--metrics", "tcp://127.0.0.1:0"],
        &["127.0.0.1:0", "-v"],
    ] {
        let arguments = [arguments, &["check", "127.0.0.1:7007"]].concat();
        let (line, status) = error_line(program(&arguments));
        assert_eq!(status, Some(2), "{line}");
        assert!(
            line.contains("of the service precede a subcommand"),
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
fn malformed_endpoint_names_the_help() {
    for arguments in [
        &["chek"][..],
        &["CHECK", "127.0.0.1:7007"],
        &["127.0.0.1:0", "check", "127.0.0.1:7007"],
        &["--", "check"],
        &["chek", "--bcklog", "5"],
    ] {
        let (line, status) = error_line(program(arguments));
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains("see mio-echo --help"), "{line}");
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
