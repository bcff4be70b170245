//! The examples do what they say. They are built whenever all tests are.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::{self, Running, config, connect, example, is_served, noise, read_to_the_end};

/// A process that ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an example that prints addresses in its first line, and gives them.
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
fn the_client_prints_what_comes_back_of_its_input() {
    let server = Running::start(config());
    let mut client = example("client");
    client
        .arg(server.addresses[0].to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut client = Background(client.spawn().unwrap());
    let bytes = noise(1_000_000);
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

#[test]
fn the_client_says_what_went_wrong() {
    let mut nobody = example("client");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = nobody
        .arg(port.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&port.to_string()) && text.contains("refused"),
        "{text}"
    );
    assert_eq!(example("client").output().unwrap().status.code(), Some(2));
}

#[test]
fn the_smallest_service_echoes() {
    let (_service, addresses) = start(example("minimal"));
    assert!(is_served(&mut connect(addresses[0])));
}

#[test]
fn an_echo_is_a_guest_of_an_application_that_reports_on_it() {
    let mut command = example("embed");
    command.args(["127.0.0.1:0", "127.0.0.1:0"]);
    let (_application, addresses) = start(command);
    let mut client = connect(addresses[0]);
    assert!(is_served(&mut client));
    let report = String::from_utf8(read_to_the_end(&mut connect(addresses[1]))).unwrap();
    assert_eq!(report, "1 connected now, 1 so far, 14 bytes echoed\n");
    assert!(is_served(&mut client));
}
