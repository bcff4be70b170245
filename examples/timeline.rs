//! The service, recording what its loop does: a timeline for <https://ui.perfetto.dev> and
//! <chrome://tracing>.
//!
//! `cargo run --release --example timeline -- tcp://127.0.0.1:7007 trace.json` serves until Ctrl-C and
//! then writes the file. `docs/guide/timeline.md` shows what can be seen in it.
//!
//! The library logs each event and each system call with key-values, which `docs/trace.md` lists. A record
//! follows its call, so the call began when the record before it was made. Between two calls is the time
//! that recording took, one or two microseconds. Until the end all records are in memory.
//!
//! Exit status: 0 the file has been written, 1 an error, 2 the arguments are wrong.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use log::kv::{self, Key, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use mio_echo::{Config, Endpoint, Server};
use serde_json::{Value, json};

const USAGE: &str = "\
usage: timeline ENDPOINT FILE [SECONDS]

  ENDPOINT   where to serve, such as tcp://127.0.0.1:7007
  FILE       is overwritten with the timeline at the end
  SECONDS    for how long, such as 2.5; else until Ctrl-C
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|it| it == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let result = match parse(&arguments) {
        Ok((endpoint, file, limit)) => record(endpoint, file, limit).map_err(|it| (1, it)),
        Err(problem) => Err((2, format!("{problem}; see timeline --help").into())),
    };
    let Err((status, problem)) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("timeline: {problem}");
    ExitCode::from(status)
}

fn parse(arguments: &[String]) -> Result<(Endpoint, &str, Option<Duration>), String> {
    if let Some(option) = arguments.iter().find(|it| it.starts_with('-')) {
        return Err(format!("unknown argument '{option}'"));
    }
    let (endpoint, file, seconds) = match arguments {
        [endpoint, file] => (endpoint, file, None),
        [endpoint, file, seconds] => (endpoint, file, Some(seconds)),
        _ => return Err(format!("{} arguments", arguments.len())),
    };
    let time = |it: &String| Duration::try_from_secs_f64(it.parse().ok()?).ok();
    let limit = seconds.map(|it| time(it).ok_or(format!("'{it}' is no number of seconds")));
    let endpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    Ok((endpoint, file, limit.transpose()?))
}

/// Serves until the time is over or a signal arrives, then writes the file.
fn record(endpoint: Endpoint, file: &str, limit: Option<Duration>) -> Result<(), Box<dyn Error>> {
    let file = File::create(file).map_err(|error| format!("{file}: {error}"))?;
    log::set_logger(&Recorder).map_err(|error| error.to_string())?;
    log::set_max_level(LevelFilter::Trace);
    // At the end connections are aborted, and not waited for.
    let config = Config::builder().endpoint(endpoint);
    let mut server = Server::bind(config.drain_timeout(Duration::ZERO).build()?)?;
    #[cfg(unix)]
    shut_down_at_signal(server.shutdown_handle())?;
    println!("listening on {}", server.endpoints()[0]);
    while !server.is_finished() {
        let left = limit.map(|it| it.saturating_sub(START.elapsed()));
        server.turn(left)?;
        if left == Some(Duration::ZERO) {
            server.shutdown();
        }
    }
    log::set_max_level(LevelFilter::Off);
    write(file, &RECORDS.lock().unwrap())
}

/// A thread waits for the signal, so that no handler is needed.
#[cfg(unix)]
fn shut_down_at_signal(handle: mio_echo::ShutdownHandle) -> nix::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    std::thread::spawn(move || signals.wait().map(|_| handle.shutdown()));
    Ok(())
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static RECORDS: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// A record of the library. Times are since the start.
#[derive(Default)]
struct Kept {
    at: Duration,
    /// When it was kept.
    until: Duration,
    /// The key-values, and the text as `record`.
    values: Value,
}

/// A logger that keeps the records.
struct Recorder;

impl Log for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mio_echo")
    }

    fn log(&self, record: &Record<'_>) {
        let at = START.elapsed();
        if self.enabled(record.metadata()) {
            let mut kept = Kept::default();
            let _ = record.key_values().visit(&mut kept);
            kept.values["record"] = record.args().to_string().into();
            let mut records = RECORDS.lock().unwrap();
            records.push(Kept { at, ..kept });
            records.last_mut().unwrap().until = START.elapsed();
        }
    }

    fn flush(&self) {}
}

impl<'a> VisitSource<'a> for Kept {
    fn visit_pair(&mut self, key: Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(Value::from);
        let value = number.unwrap_or_else(|| value.to_string().into());
        self.values[key.as_str()] = value;
        Ok(())
    }
}

/// The track of the loop. Sockets have the numbers above.
const LOOP: usize = 1;

/// Trace events, in the form of Chromium's document "Trace Event Format".
#[derive(Default)]
struct Timeline {
    /// With their times, by which they are sorted.
    events: Vec<(Duration, Value)>,
    /// Where the slices stand in `events` that may still grow, by their track and name.
    growing: HashMap<(usize, &'static str), usize>,
    /// By token or endpoint. The token of a closed connection is used again.
    tracks: HashMap<Value, usize>,
    track_count: usize,
    /// When events have arrived since the last poll, by track.
    event_times: HashMap<usize, Duration>,
    /// The track of the socket that has its turn.
    turn: usize,
}

fn write(file: File, records: &[Kept]) -> Result<(), Box<dyn Error>> {
    let mut timeline = Timeline::default();
    timeline.add_track(&json!("loop"));
    for pair in records.windows(2) {
        timeline.add(&pair[1], &pair[0]);
    }
    // Stable: a slice stands before those inside of it that begin at the same time.
    timeline.events.sort_by_key(|(at, _)| *at);
    let events: Vec<Value> = timeline.events.into_iter().map(|it| it.1).collect();
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, &json!({ "traceEvents": events }))?;
    Ok(file.flush()?)
}

impl Timeline {
    /// `before` is the record before this one.
    fn add(&mut self, record: &Kept, before: &Kept) {
        let values = &record.values;
        for name in ["run_queue", "active", "buffered"] {
            if values[name].is_number() {
                let counter = json!({"name": name, "args": {name: values[name]}});
                self.push("C", LOOP, record.at, counter);
            }
        }
        if values["events"].is_number() {
            self.add_poll(record, before);
        }
        let names = [&values["token"], &values["endpoint"]];
        if let Some(name) = names.into_iter().find(|it| !it.is_null()) {
            let track = match self.tracks.get(name) {
                Some(track) => *track,
                None => self.add_socket(name, record),
            };
            self.add_to(track, record, before);
            if values["closed"].is_string() {
                self.tracks.remove(name);
            }
        }
    }

    /// The record before says why the loop sleeps or not.
    fn add_poll(&mut self, record: &Kept, before: &Kept) {
        self.grow(LOOP, "turn", before.at);
        let why = before.values["record"].as_str().unwrap_or_default();
        let name = why.split([',', ':']).next().unwrap_or_default();
        let args = json!({"record": why, "events": record.values["events"]});
        self.slice(LOOP, name, before.until, record.at, &args);
        self.growing_slice(LOOP, "turn", record.until, &json!({}));
        self.event_times.clear();
        self.turn = LOOP;
    }

    fn add_socket(&mut self, name: &Value, record: &Kept) -> usize {
        let peer = &record.values["peer"];
        let track = self.add_track(if peer.is_null() { name } else { peer });
        self.tracks.insert(name.clone(), track);
        if !peer.is_null() {
            self.growing_slice(track, "open", record.at, &record.values);
        }
        track
    }

    fn add_to(&mut self, track: usize, record: &Kept, before: &Kept) {
        let values = &record.values;
        if values["event"].is_string() {
            self.slice(track, "event", before.until, record.at, values);
            self.event_times.insert(track, before.until);
        }
        if let Some(call) = values["call"].as_str() {
            if self.turn != track {
                // Earlier than its first call, so that the arrow ends in the turn and not in the call.
                self.begin_turn(track, before.at);
            }
            self.slice(track, call, before.until, record.at, values);
        }
        if self.turn == track {
            self.grow(track, "turn", record.at);
        }
        if values["pending"].is_number() {
            self.growing_slice(track, "write-blocked", record.at, values);
        }
        if values["closed"].is_string() {
            self.grow(track, "write-blocked", record.at);
            self.grow(track, "open", record.at);
            let closed = json!({"name": "closed", "s": "t", "args": values});
            self.push("i", track, record.at, closed);
        }
    }

    /// An arrow leads here from the event since the last poll, if there was one.
    fn begin_turn(&mut self, track: usize, at: Duration) {
        self.turn = track;
        self.grow(track, "write-blocked", at);
        self.growing.remove(&(track, "write-blocked"));
        self.growing_slice(track, "turn", at, &json!({}));
        if let Some(event_at) = self.event_times.remove(&track) {
            let id = self.events.len();
            let arrow = json!({"name": "queued", "cat": "queued", "id": id, "bp": "e"});
            self.push("s", track, event_at, arrow.clone());
            self.push("f", track, at, arrow);
        }
    }

    fn add_track(&mut self, name: &Value) -> usize {
        self.track_count += 1;
        let name = json!({"name": "thread_name", "args": { "name": name }});
        self.push("M", self.track_count, Duration::ZERO, name);
        self.track_count
    }

    fn growing_slice(&mut self, track: usize, name: &'static str, at: Duration, args: &Value) {
        self.growing.insert((track, name), self.events.len());
        self.slice(track, name, at, at, args);
    }

    fn grow(&mut self, track: usize, name: &'static str, until: Duration) {
        if let Some(&index) = self.growing.get(&(track, name)) {
            let (at, slice) = &mut self.events[index];
            slice["dur"] = micros(until.saturating_sub(*at)).into();
        }
    }

    fn slice(&mut self, track: usize, name: &str, at: Duration, until: Duration, args: &Value) {
        let duration = micros(until.saturating_sub(at));
        let slice = json!({"name": name, "dur": duration, "args": args});
        self.push("X", track, at, slice);
    }

    fn push(&mut self, phase: &str, track: usize, at: Duration, mut event: Value) {
        event["ph"] = phase.into();
        event["pid"] = LOOP.into();
        event["tid"] = track.into();
        event["ts"] = micros(at).into();
        self.events.push((at, event));
    }
}

/// The unit of the format, to the nanosecond.
fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e9).round() / 1e3
}
