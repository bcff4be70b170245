//! A picture of a part of a timeline that the example `timeline` has recorded.
//!
//! `cargo run --example timeline_svg -- trace.json "A title" 1200 1250 > picture.svg` draws the 50
//! milliseconds from 1.2 s on. `docs/guide/timeline.md` has such pictures.
//!
//! A row is a track: the loop, an endpoint, a connection or, at the bottom, a counter. Slices that would
//! be drawn over one of the same kind are left out.

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::error::Error;
use std::fmt::{self, Write};
use std::fs;
use std::process::ExitCode;

use serde_json::Value;

const USAGE: &str = "\
usage: timeline_svg FILE TITLE [FROM TO]

  FILE      a timeline that the example 'timeline' has written
  TITLE     is shown above the picture
  FROM TO   the part to draw, in milliseconds since the start; else all
";

/// In pixels. Labels are left of the plot.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 180.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 72.0;
const ROW: f64 = 26.0;

const STYLE: &str = "\
.timeline { max-width: 100%; height: auto }
.timeline text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.timeline .title { font-size: 15px; font-weight: bold }
.timeline .label { text-anchor: end }
.timeline .time { text-anchor: middle }
.timeline .paper { fill: #fff }
.timeline .grid { stroke: #d0d7de }
.timeline .open { fill: #eaeef2 }
.timeline .turn { fill: #c8d1da }
.timeline .waiting-for-events { fill: #818b98 }
.timeline .not-sleeping { fill: #a475f9 }
.timeline .recv, .timeline .splice-in, .timeline .recvmmsg { fill: #0969da }
.timeline .send, .timeline .splice-out, .timeline .sendmmsg { fill: #d1570b }
.timeline .accept { fill: #bf3989 }
.timeline .write-blocked { fill: #e5534b }
.timeline .event { fill: #1a9f4b }
.timeline .queued { fill: none; stroke: #1a9f4b }
.timeline .counter { fill: #57a6ff }
@media (prefers-color-scheme: dark) {
.timeline text { fill: #e6edf3 }
.timeline .paper { fill: #0d1117 }
.timeline .grid { stroke: #373e47 }
.timeline .open { fill: #21262d }
.timeline .turn { fill: #4b535d }
}
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|it| it == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let part = match &arguments[..] {
        [_, _] => Some((f64::MIN, f64::MAX)),
        [_, _, from, to] => from.parse().ok().zip(to.parse().ok()),
        _ => None,
    };
    let Some(part) = part.filter(|(from, to)| from < to) else {
        eprintln!("timeline_svg: wrong arguments; see timeline_svg --help");
        return ExitCode::from(2);
    };
    match draw(&arguments[0], &arguments[1], part) {
        Ok(svg) => {
            print!("{svg}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("timeline_svg: {}: {error}", arguments[0]);
            ExitCode::FAILURE
        }
    }
}

/// A trace event. Times are in milliseconds.
struct Event<'a> {
    phase: &'a str,
    name: &'a str,
    /// Of an arrow.
    id: u64,
    track: u64,
    at: f64,
    until: f64,
    args: &'a Value,
}

impl<'a> Event<'a> {
    fn new(json: &'a Value) -> Option<Self> {
        let at = json["ts"].as_f64()? / 1000.0;
        Some(Event {
            phase: json["ph"].as_str()?,
            name: json["name"].as_str()?,
            id: json["id"].as_u64().unwrap_or_default(),
            track: json["tid"].as_u64()?,
            at,
            until: at + json["dur"].as_f64().unwrap_or(0.0) / 1000.0,
            args: &json["args"],
        })
    }

    /// What a pointer over the slice shows.
    fn title(&self) -> String {
        let text = self.args["record"].as_str().unwrap_or(self.name);
        let time = (self.until - self.at) * 1000.0;
        format!("{}, {time:.1} µs", escaped(text))
    }
}

struct Picture<'a> {
    svg: String,
    /// The part of the timeline.
    from: f64,
    to: f64,
    /// The upper edge of each track's row.
    rows: HashMap<u64, f64>,
    bottom: f64,
    /// The height of a row; smaller if there are many.
    row: f64,
    /// The right edge of what is drawn, by track and name of the slices.
    drawn: HashMap<(u64, &'a str), f64>,
}

fn draw(file: &str, title: &str, (from, to): (f64, f64)) -> Result<String, Box<dyn Error>> {
    let json: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let events = json["traceEvents"].as_array().ok_or("no trace events")?;
    let events: Vec<Event> = events.iter().filter_map(Event::new).collect();
    let end = events.iter().map(|it| it.until).fold(0.0, f64::max);
    let mut picture = Picture {
        svg: String::new(),
        from: from.max(0.0),
        to: to.min(end),
        rows: HashMap::new(),
        bottom: TOP,
        row: ROW,
        drawn: HashMap::new(),
    };
    if picture.from >= picture.to {
        return Err("nothing is recorded there".into());
    }
    picture.add_tracks(&events)?;
    picture.row = ROW;
    for name in ["run_queue", "active", "buffered"] {
        picture.add_counter(name, &events)?;
    }
    Ok(picture.finish(title)?)
}

impl<'a> Picture<'a> {
    fn x(&self, at: f64) -> f64 {
        let share = (at - self.from) / (self.to - self.from);
        LEFT + (WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)
    }

    /// The tracks with a slice in this part.
    fn add_tracks(&mut self, events: &[Event<'a>]) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        let of_phase = |phase| events.iter().filter(move |it| it.phase == phase);
        let seen = |phase| of_phase(phase).filter(|it| it.at < to && it.until > from);
        let tracks: BTreeSet<u64> = seen("X").map(|it| it.track).collect();
        if tracks.len() > 20 {
            self.row = ROW / 2.0;
        }
        for track in of_phase("M").filter(|it| tracks.contains(&it.track)) {
            let top = self.add_row(track.args["name"].as_str().unwrap_or_default())?;
            self.rows.insert(track.track, top);
        }
        for slice in seen("X") {
            self.add_slice(slice)?;
        }
        let starts: HashMap<u64, f64> = of_phase("s").map(|it| (it.id, it.at)).collect();
        for end in seen("f") {
            self.add_arrow(starts[&end.id], end)?;
        }
        Ok(())
    }

    /// Returns the upper edge.
    fn add_row(&mut self, label: &str) -> Result<f64, fmt::Error> {
        let top = self.bottom;
        self.bottom += self.row;
        let (x, y, label) = (LEFT - 8.0, top + self.row / 2.0 + 4.0, escaped(label));
        writeln!(
            self.svg,
            r#"<text class="label" x="{x}" y="{y}">{label}</text>"#
        )?;
        Ok(top)
    }

    fn add_slice(&mut self, slice: &Event<'a>) -> fmt::Result {
        let x = self.x(slice.at);
        let right = self.x(slice.until).max(x + 1.0);
        let drawn = self.drawn.entry((slice.track, slice.name)).or_default();
        if right < *drawn + 0.5 {
            return Ok(());
        }
        *drawn = right;
        let share = match slice.name {
            "open" => 0.9,
            "event" => 0.8,
            "turn" => 0.6,
            _ => 0.4,
        };
        let (height, width) = (self.row * share, right - x);
        let y = self.rows[&slice.track] + (self.row - height) / 2.0;
        let class = slice.name.replace(' ', "-");
        let title = slice.title();
        writeln!(
            self.svg,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        )
    }

    /// From an event to its turn.
    fn add_arrow(&mut self, start: f64, end: &Event<'a>) -> fmt::Result {
        let (x, length) = (self.x(start), self.x(end.at) - self.x(start));
        let drawn = self.drawn.entry((end.track, end.name)).or_default();
        if x + length < *drawn + 3.0 {
            return Ok(());
        }
        *drawn = x + length;
        let y = self.rows[&end.track] + self.row * 0.14;
        writeln!(
            self.svg,
            r#"<path class="queued" d="M{x:.1} {y:.1}h{length:.1}v4m-2-3l2 3 2-3"/>"#
        )
    }

    /// Steps from value to value, the first of them before this part.
    fn add_counter(&mut self, name: &str, events: &[Event]) -> fmt::Result {
        let points = events
            .iter()
            .filter(|it| it.name == name && it.at < self.to);
        let mut points: Vec<_> = points
            .filter_map(|it| Some((it.at, it.args[name].as_f64()?)))
            .collect();
        points.dedup_by_key(|it| it.1.to_bits());
        let first = points.iter().rposition(|it| it.0 <= self.from);
        let points = &points[first.unwrap_or(0)..];
        let most = points.iter().map(|it| it.1).fold(0.0, f64::max);
        let bottom = self.add_row(&format!("{name}, at most {most}"))? + self.row - 3.0;
        write!(self.svg, r#"<path class="counter" d="M{LEFT} {bottom}"#)?;
        for (at, value) in points {
            let y = bottom - (self.row - 6.0) * value / most.max(1.0);
            write!(self.svg, "H{:.1}V{y:.1}", self.x(*at))?;
        }
        writeln!(self.svg, r#"H{}V{bottom}z"/>"#, WIDTH - RIGHT)
    }

    fn finish(&self, title: &str) -> Result<String, fmt::Error> {
        let (height, title) = (self.bottom + 8.0, escaped(title));
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="timeline" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">
<title>{title}</title>
<style>
{STYLE}</style>
<rect class="paper" width="{WIDTH}" height="{height}"/>
<text class="title" x="12" y="24">{title}</text>
"#
        );
        self.add_legend(&mut svg)?;
        self.add_axis(&mut svg)?;
        svg.push_str(&self.svg);
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    fn add_legend(&self, svg: &mut String) -> fmt::Result {
        let names: BTreeSet<&str> = self.drawn.keys().map(|it| it.1).collect();
        let mut x = 12.0;
        for name in names {
            let class = name.replace(' ', "-");
            let shape = match name {
                "queued" => "h8v7m-2-3l2 3 2-3",
                _ => "h10v10h-10z",
            };
            writeln!(svg, r#"<path class="{class}" d="M{x} 35{shape}"/>"#)?;
            writeln!(svg, r#"<text x="{}" y="44">{name}</text>"#, x + 15.0)?;
            x += name.chars().map(|_| 5.8).sum::<f64>() + 30.0;
        }
        Ok(())
    }

    /// At most ten times, from the left edge on.
    fn add_axis(&self, svg: &mut String) -> fmt::Result {
        let (scale, unit) = match self.to - self.from {
            ..2.0 => (1000.0, "µs"),
            2.0..2000.0 => (1.0, "ms"),
            _ => (0.001, "s"),
        };
        let span = (self.to - self.from) * scale;
        let precision = usize::from(span < 10.0);
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];
        let step = steps
            .into_iter()
            .find(|it| span / it <= 10.0)
            .unwrap_or(span);
        for count in 0..=10 {
            let time = f64::from(count) * step;
            let (x, bottom) = (self.x(self.from + time / scale), self.bottom);
            if time > span {
                break;
            }
            writeln!(
                svg,
                r#"<path class="grid" d="M{x:.1} {TOP}V{bottom}"/><text class="time" x="{x:.1}" y="64">{time:.precision$} {unit}</text>"#
            )?;
        }
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
