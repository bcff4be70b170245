//! The examples `timeline` and `timeline_svg`: the file follows its format, and says what happened.
//!
//! The rules are those of Chromium's document "Trace Event Format".

#![cfg(unix)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{
    self, Directory, LIMIT, connect, connect_small, echo, echo_to_the_end, example, random_bytes,
    send_until_blocked,
};

/// The example as a process; killed when it is dropped.
struct Recording {
    child: Child,
    address: SocketAddr,
    file: PathBuf,
}

impl Recording {
    fn start(endpoint: &str, directory: &Directory) -> Self {
        let file = directory.file("trace.json");
        let mut command = example("timeline");
        command.arg(endpoint).arg(&file).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().split("://").nth(1).unwrap().parse().unwrap();
        Recording {
            child,
            address,
            file,
        }
    }

    /// Ends it as Ctrl-C does. Returns what it has written.
    fn stop(mut self) -> Timeline {
        common::signal(&self.child, Signal::SIGINT);
        assert!(common::wait(&mut self.child).success());
        Timeline::read(&self.file)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone)]
struct Slice {
    name: String,
    start: Duration,
    end: Duration,
    args: Value,
}

impl Slice {
    fn contains(&self, other: &Slice) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    fn is_apart_from(&self, other: &Slice) -> bool {
        self.end <= other.start || other.end <= self.start
    }

    fn bytes(&self) -> u64 {
        self.args["bytes"].as_u64().unwrap()
    }
}

/// A file that follows the format.
struct Timeline {
    tracks: HashMap<u64, String>,
    slices: HashMap<u64, Vec<Slice>>,
    /// Track, start and end of each.
    arrows: Vec<(u64, Duration, Duration)>,
    counters: BTreeMap<String, Vec<u64>>,
}

/// The unit of the format is the microsecond.
fn time(json: &Value) -> Duration {
    Duration::from_secs_f64(json.as_f64().unwrap() / 1e6)
}

impl Timeline {
    fn read(file: &PathBuf) -> Self {
        let json: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let mut timeline = Timeline {
            tracks: HashMap::new(),
            slices: HashMap::new(),
            arrows: Vec::new(),
            counters: BTreeMap::new(),
        };
        let mut starts = HashMap::new();
        for event in json["traceEvents"].as_array().unwrap() {
            timeline.add(event, &mut starts);
        }
        assert!(starts.is_empty(), "arrows without an end: {starts:?}");
        for (track, slices) in &timeline.slices {
            assert!(timeline.tracks.contains_key(track), "a track has no name");
            assert_nested(slices);
        }
        timeline
    }

    /// Checks the fields that the phase requires.
    fn add(&mut self, event: &Value, starts: &mut HashMap<String, (u64, Duration)>) {
        let name = event["name"].as_str().unwrap().to_owned();
        let (at, track) = (time(&event["ts"]), event["tid"].as_u64().unwrap());
        assert!(event["pid"].is_u64(), "{event}");
        let args = event["args"].clone();
        match event["ph"].as_str().unwrap() {
            "M" => {
                assert_eq!(name, "thread_name");
                let name = args["name"].as_str().unwrap().to_owned();
                assert_eq!(self.tracks.insert(track, name), None, "{event}");
            }
            "X" => self.slices.entry(track).or_default().push(Slice {
                name,
                start: at,
                end: at + time(&event["dur"]),
                args,
            }),
            "C" => {
                let value = args[&name].as_u64().unwrap();
                self.counters.entry(name).or_default().push(value);
            }
            "i" => assert_eq!(event["s"], "t", "{event}"),
            "s" => {
                let id = format!("{name} {} {}", event["cat"], event["id"]);
                assert_eq!(starts.insert(id, (track, at)), None, "{event}");
            }
            "f" => {
                let id = format!("{name} {} {}", event["cat"], event["id"]);
                let (from, start) = starts.remove(&id).expect("an arrow without a start");
                assert!(from == track && start <= at, "{event}");
                assert_eq!(event["bp"], "e", "it ends in the slice around it");
                self.arrows.push((track, start, at));
            }
            phase => panic!("phase {phase}: {event}"),
        }
    }

    /// The slices with this name in the track with that name.
    fn slices(&self, track: &str, name: &str) -> Vec<Slice> {
        let track = self.tracks.iter().find(|it| it.1 == track).unwrap().0;
        let slices = self.slices[track].iter();
        slices.filter(|it| it.name == name).cloned().collect()
    }

    /// The bytes of the calls with these names.
    fn bytes(&self, track: &str, names: [&str; 2]) -> u64 {
        let slices = names.map(|name| self.slices(track, name));
        slices.iter().flatten().map(Slice::bytes).sum()
    }
}

/// Slices of a track contain each other or are apart. They stand in the order of their starts, and those
/// outside first.
fn assert_nested(slices: &[Slice]) {
    let mut around: Vec<&Slice> = Vec::new();
    for slice in slices {
        while around.last().is_some_and(|it| it.end <= slice.start) {
            around.pop();
        }
        if let Some(outer) = around.last() {
            assert!(outer.contains(slice), "{outer:?} {slice:?}");
        }
        around.push(slice);
    }
}

/// The name of its track.
fn name(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

#[test]
fn timeline_has_each_call_with_its_bytes() {
    let directory = Directory::new();
    let recording = Recording::start("tcp://127.0.0.1:0", &directory);
    let mut talker = connect(recording.address);
    for _ in 0..5 {
        assert_eq!(echo(&mut talker, b"hello world"), b"hello world");
    }
    let streamer = connect(recording.address);
    let (talker, stream) = (name(&talker), name(&streamer));
    let bytes = random_bytes(1_000_000);
    assert!(echo_to_the_end(streamer, &bytes) == bytes);
    let listener = format!("tcp://{}", recording.address);
    let timeline = recording.stop();

    for call in ["recv", "send"] {
        let sizes = timeline.slices(&talker, call).into_iter();
        let sizes: Vec<_> = sizes.map(|it| it.bytes()).filter(|it| *it > 0).collect();
        assert_eq!(sizes, [11; 5], "{call}");
    }
    assert_eq!(timeline.bytes(&stream, ["recv", "splice in"]), 1_000_000);
    assert_eq!(timeline.bytes(&stream, ["send", "splice out"]), 1_000_000);
    let open = timeline.slices(&stream, "open");
    let last_turn = timeline.slices(&stream, "turn").pop().unwrap();
    assert_eq!(open[0].end, last_turn.end, "closed in its last turn");

    let mut accepts = timeline.slices(&listener, "accept");
    accepts.retain(|it| it.args["record"].to_string().contains("accept: 127.0.0.1:"));
    assert_eq!(accepts.len(), 2, "{accepts:?}");
    assert_eq!(timeline.tracks.len(), 4, "loop, listener and two peers");
    assert_eq!(timeline.counters["active"].iter().max(), Some(&2));
    assert!(timeline.counters["run_queue"].contains(&1));
}

#[test]
fn timeline_has_arrows_from_events_to_turns() {
    let directory = Directory::new();
    let recording = Recording::start("tcp://127.0.0.1:0", &directory);
    let mut client = connect(recording.address);
    for _ in 0..5 {
        echo(&mut client, b"hello world");
    }
    let timeline = recording.stop();
    for (track, start, end) in &timeline.arrows {
        let slices = &timeline.slices[track];
        let has = |name, at| slices.iter().any(|it| it.name == name && it.start == at);
        assert!(has("event", *start) && has("turn", *end), "{slices:?}");
        // A viewer binds an end to the innermost slice.
        let mut around = slices.iter().filter(|it| it.start <= *end && *end < it.end);
        assert_eq!(around.next_back().unwrap().name, "turn");
    }
    assert!(timeline.arrows.len() >= 6, "accept, and five messages");

    // The loop works in its turns, and does nothing while it sleeps.
    let turns = timeline.slices("loop", "turn");
    let sleeps = timeline.slices("loop", "waiting for events");
    for turn in timeline.slices(&name(&client), "turn") {
        assert!(turns.iter().any(|it| it.contains(&turn)), "{turn:?}");
        assert!(sleeps.iter().all(|it| it.is_apart_from(&turn)), "{turn:?}");
    }
    assert!(sleeps.len() >= 6, "{sleeps:?}");
}

#[test]
fn timeline_shows_what_is_pending_for_a_peer_that_does_not_read() {
    let directory = Directory::new();
    let recording = Recording::start("tcp://127.0.0.1:0", &directory);
    let mut stalled = connect_small(recording.address);
    let mut other = connect(recording.address);
    let bytes = vec![0; 65_536];
    // Each echo takes a turn of the loop. A peer that was read from in none of twenty is write-blocked.
    let mut blocked_turns = 0;
    while blocked_turns < 20 {
        let sent = send_until_blocked(&mut stalled, &bytes);
        blocked_turns = if sent > 0 { 0 } else { blocked_turns + 1 };
        echo(&mut other, b"hello world");
    }
    let (stalled, timeline) = (name(&stalled), recording.stop());
    let last = timeline.slices(&stalled, "write-blocked").pop().unwrap();
    let pending = last.args["pending"].as_u64().unwrap();
    assert!(
        pending > 0
            && timeline.counters["buffered"]
                .iter()
                .any(|it| *it >= pending)
    );
    let open = timeline.slices(&stalled, "open");
    assert_eq!(open[0].end, last.end, "until it is closed");
    let received = timeline.bytes(&stalled, ["recv", "splice in"]);
    let sent = timeline.bytes(&stalled, ["send", "splice out"]);
    assert_eq!(received, sent + pending);
}

#[test]
fn timeline_has_the_calls_for_datagrams() {
    let directory = Directory::new();
    let recording = Recording::start("udp://127.0.0.1:0", &directory);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(b"hello", recording.address).unwrap();
    assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 5);
    let timeline = recording.stop();
    assert_eq!(timeline.tracks.len(), 2, "loop and socket");
    let slices: Vec<_> = timeline.slices.values().flatten().collect();
    for call in ["recv", "send"] {
        assert!(
            slices.iter().any(|it| it.name.starts_with(call)),
            "{slices:?}"
        );
    }
}

#[test]
fn timeline_ends_after_its_time() {
    let directory = Directory::new();
    let file = directory.file("trace.json");
    let mut command = example("timeline");
    let output = command
        .arg("127.0.0.1:0")
        .arg(&file)
        .arg("0.5")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"listening on tcp://"));
    let sleeps = Timeline::read(&file).slices("loop", "waiting for events");
    assert!(!sleeps.is_empty());
}

#[test]
fn timeline_svg_draws_each_track() {
    let directory = Directory::new();
    let recording = Recording::start("tcp://127.0.0.1:0", &directory);
    echo(&mut connect(recording.address), b"hello world");
    let file = recording.file.clone();
    let timeline = recording.stop();
    let draw = |part: &[&str]| {
        let mut command = example("timeline_svg");
        let output = command
            .arg(&file)
            .arg("<a> & b")
            .args(part)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let svg = draw(&[]);
    let texts = texts_of(&svg);
    for track in timeline.tracks.values() {
        assert!(texts.contains(track), "{track}: {texts:?}");
    }
    for text in [
        "&lt;a&gt; &amp; b",
        "recv",
        "send",
        "accept",
        "event",
        "turn",
        "active, at most 1",
    ] {
        assert!(texts.contains(&text.to_owned()), "{text}: {texts:?}");
    }
    assert!(
        texts
            .iter()
            .any(|it| it.contains("recv 11 of 65536 bytes, ")),
        "{texts:?}"
    );
    assert!(svg.contains("prefers-color-scheme: dark"));

    // While the loop sleeps, nothing else is drawn.
    let sleep = &timeline.slices("loop", "waiting for events")[0];
    let part = [sleep.start, sleep.end].map(|it| (it.as_secs_f64() * 1000.0).to_string());
    let texts = texts_of(&draw(&[&part[0], &part[1]]));
    let has = |text: &str| texts.iter().any(|it| it == text);
    assert!(
        has("loop") && has("waiting for events") && !has("recv"),
        "{texts:?}"
    );
}

#[test]
fn pictures_of_the_guide_fit_into_its_pages() {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/");
    let page = fs::read_to_string(format!("{guide}timeline.md")).unwrap();
    for name in ["fairness", "stalled", "storm"] {
        let picture = fs::read_to_string(format!("{guide}{name}.svg")).unwrap();
        assert!(picture.len() < 60_000, "{name}");
        let title = &texts_of(&picture)[2];
        let command = format!("timeline_svg {name}.json \"{title}\" ");
        assert!(
            page.contains(&command) && page.contains(&format!("]({name}.svg)")),
            "{command}"
        );
        // The documentation has it inside of a text, where an empty line would end it.
        assert!(!picture.contains("\n\n"), "{name}");
    }
}

/// The texts in an XML document. Fails if it is not well-formed.
fn texts_of(xml: &str) -> Vec<String> {
    let (mut texts, mut open, mut rest) = (Vec::new(), Vec::new(), xml);
    while let Some((text, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').unwrap();
        rest = after;
        for entity in text.split('&').skip(1) {
            let known = ["lt;", "gt;", "amp;"];
            assert!(known.iter().any(|it| entity.starts_with(it)), "{text}");
        }
        texts.push(text.to_owned());
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
        // A name, then attributes with values in quotation marks.
        let parts: Vec<&str> = tag.split('"').collect();
        let names: String = parts.iter().copied().step_by(2).collect();
        let mut names = names.trim_end_matches('/').split(' ').skip(1);
        assert!(
            parts.len() % 2 == 1 && names.all(|it| it.ends_with('=')),
            "{tag}"
        );
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
    texts
}

#[test]
fn wrong_arguments_get_one_line() {
    let run = |name: &str, arguments: &[&str]| example(name).args(arguments).output().unwrap();
    for (arguments, problem) in [
        (
            &["--loud", "127.0.0.1:7007"][..],
            "unknown argument '--loud'",
        ),
        (&["127.0.0.1:7007"], "1 arguments"),
        (
            &["127.0.0.1:7007", "file", "long"],
            "'long' is no number of seconds",
        ),
    ] {
        let output = run("timeline", arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text, format!("timeline: {problem}; see timeline --help\n"));
    }
    let output = run("timeline_svg", &["file"]);
    assert_eq!(output.status.code(), Some(2));
    let output = run("timeline_svg", &["/", "a title"]);
    assert_eq!(output.status.code(), Some(1));
    for name in ["timeline", "timeline_svg"] {
        let help = run(name, &["--help"]);
        assert!(help.status.success() && help.stdout.starts_with(b"usage: timeline"));
    }
}
