//! The examples `minimal`, `client` and `embed`, and the command lines of all examples.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::peers::refusing_address;
use crate::common::{
    self, Running, config, connect, example, is_served, random_bytes, read_to_the_end,
};

/// A process that is killed at the end of the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an example and returns the addresses in its first line.
fn start(mut command: Command) -> (Background, Vec<SocketAddr>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let background = Background(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addresses = line.trim().split("tcp://").skip(1);
    let until = |text: &str| text.split(',').next().unwrap().parse().unwrap();
    (background, addresses.map(until).collect())
}

#[test]
fn client_prints_the_echo_of_its_input() {
    let server = Running::start(config());
    let mut client = example("client");
    client
        .arg(server.addresses[0].to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut client = Background(client.spawn().unwrap());
    let bytes = random_bytes(1_000_000);
    let mut stdin = client.0.stdin.take().unwrap();
    let mut stdout = client.0.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut echoed = Vec::new();
        stdout.read_to_end(&mut echoed).unwrap();
        echoed
    });
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    assert!(common::wait(&mut client.0).success());
    assert!(reader.join().unwrap() == bytes);
    assert_eq!(server.stop().closed.peer_closed, 1, "it half-closed");
}

/// Steps 04 and 05 do nothing on other systems.
#[cfg(target_os = "linux")]
#[test]
fn help_and_unknown_arguments() {
    let programs = [
        "client",
        "embed",
        "minimal",
        "peer",
        "timeline",
        "timeline_svg",
    ];
    let steps = (1..=12).map(|step| format!("guide_{step:02}"));
    for name in programs.map(String::from).into_iter().chain(steps) {
        let run = |arguments: &[&str]| {
            let mut command = example(&name);
            let output = command.args(arguments).stdin(Stdio::null()).output();
            let output = output.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let (stdout, stderr) = (text(output.stdout), text(output.stderr));
            (output.status.code(), stdout, stderr)
        };
        let (status, stdout, stderr) = run(&["--help"]);
        assert_eq!((status, &*stderr), (Some(0), ""), "{name}");
        assert!(stdout.contains("usage: "), "{name}: {stdout}");
        for arguments in [&["--unheard-of"][..], &["127.0.0.1:0"; 5]] {
            let (status, stdout, stderr) = run(arguments);
            assert!(status > Some(0), "{name} {arguments:?}: {status:?}");
            assert_eq!(
                (&*stdout, stderr.lines().count()),
                ("", 1),
                "{name}: {stderr}"
            );
        }
    }
}

#[test]
fn client_fails_with_a_message() {
    let address = refusing_address().to_string();
    let mut client = example("client");
    let output = client.arg(&address).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&address) && text.contains("refused"),
        "{text}"
    );
    assert_eq!(example("client").output().unwrap().status.code(), Some(2));
}

#[test]
fn minimal_echoes() {
    let (_service, addresses) = start(example("minimal"));
    assert!(is_served(&mut connect(addresses[0])));
}

#[test]
fn embed_echoes_and_reports() {
    let mut command = example("embed");
    command.args(["127.0.0.1:0", "127.0.0.1:0"]);
    let (_application, addresses) = start(command);
    let mut client = connect(addresses[0]);
    assert!(is_served(&mut client));
    let report = String::from_utf8(read_to_the_end(&mut connect(addresses[1]))).unwrap();
    assert_eq!(report, "1 connected now, 1 so far, 14 bytes echoed\n");
    assert!(is_served(&mut client));
}
