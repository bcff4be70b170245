//! The results as text and as JSON.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::chart::{self, Time};
use crate::load::counters::{Counters, Faults};
use crate::load::options::Mode;
use crate::load::process_stats::{Memory, Snapshot};

/// Above this part of a core a thread counts as busy.
const BUSY: f64 = 0.95;

pub(crate) struct OpenLoop {
    pub(crate) sent: u64,
    pub(crate) late: u64,
}

pub(crate) struct Hold {
    /// Connections that were open at the end.
    pub(crate) held: u64,
    /// Start and end of holding.
    pub(crate) first: Snapshot,
    pub(crate) last: Snapshot,
    /// Memory of the server, without connections and with them.
    pub(crate) memory: [Option<Memory>; 2],
}

pub(crate) struct Results {
    pub(crate) endpoint: String,
    pub(crate) mode: Mode,
    pub(crate) connections: u64,
    pub(crate) size: u64,
    pub(crate) outstanding: u64,
    pub(crate) segment: bool,
    pub(crate) warmup: Duration,
    /// Start and end of the measurement.
    pub(crate) first: Snapshot,
    pub(crate) last: Snapshot,
    pub(crate) counters: Counters,
    pub(crate) open_loop: Option<OpenLoop>,
    pub(crate) hold: Option<Hold>,
}

impl Results {
    /// Whether at least one message came back, and all of them once, in order and as they were
    /// sent.
    pub(crate) fn is_clean(&self) -> bool {
        let is_faultless =
            self.counters.faults == Faults::default() && self.counters.errors.is_empty();
        is_faultless && self.counters.echoes > 0
    }

    fn elapsed(&self) -> f64 {
        elapsed(self.first, self.last)
    }

    fn connections_per_s(&self) -> f64 {
        rounded(ratio(float(self.counters.connected), self.elapsed()))
    }

    fn echoes_per_s(&self) -> f64 {
        rounded(ratio(float(self.counters.echoes), self.elapsed()))
    }

    fn bytes_per_s(&self) -> f64 {
        rounded(ratio(
            float(self.counters.echoes * self.size),
            self.elapsed(),
        ))
    }

    fn own_cpu(&self) -> Option<f64> {
        used(self.first.own, self.last.own)
    }

    fn server_cpu(&self) -> Option<f64> {
        used(self.first.server, self.last.server)
    }

    fn is_busy(&self, cpu: Option<f64>) -> Option<bool> {
        cpu.map(|cpu| ratio(cpu, self.elapsed()) > BUSY)
    }

    /// The process that limited the rate, judged by CPU time.
    fn bottleneck(&self) -> Option<&'static str> {
        match (
            self.is_busy(self.own_cpu()),
            self.is_busy(self.server_cpu()),
        ) {
            (Some(true), Some(false)) => Some("load"),
            (Some(true), Some(true)) => Some("both"),
            (_, Some(true)) => Some("server"),
            (Some(true), None) => Some("load or server"),
            _ => None,
        }
    }

    fn server_cpu_ns_per_echo(&self) -> Option<f64> {
        let cpu = self.server_cpu()?;
        (self.counters.echoes > 0).then(|| rounded(cpu * 1e9 / float(self.counters.echoes)))
    }

    pub(crate) fn json(&self) -> Value {
        let mut json = json!({
            "endpoint": self.endpoint,
            "mode": self.mode.name(),
            "connections": self.connections,
            "size_bytes": self.size,
            "outstanding": self.outstanding,
            "segment": self.segment,
            "warmup_s": self.warmup.as_secs_f64(),
            "duration_s": self.elapsed(),
            "sent": self.counters.sent,
            "echoes": self.counters.echoes,
            "echoes_per_s": self.echoes_per_s(),
            "bytes_per_s": self.bytes_per_s(),
            "latency_ns": self.latency(),
            "own_cpu_s": self.own_cpu(),
            "own_cpu_ratio": self.own_cpu().map(|cpu| ratio(cpu, self.elapsed())),
            "server_cpu_s": self.server_cpu(),
            "server_cpu_ratio": self.server_cpu().map(|cpu| ratio(cpu, self.elapsed())),
            "server_cpu_ns_per_echo": self.server_cpu_ns_per_echo(),
            "bottleneck": self.bottleneck(),
            "errors": self.counters.errors,
            "is_clean": self.is_clean(),
        });
        for (name, count) in self.counters.faults.named() {
            json[name] = count.into();
        }
        if let Mode::Open(rate) = self.mode {
            json["rate_per_s"] = rate.into();
            json["sent_late"] = self.open_loop.as_ref().map(|it| it.late).into();
        }
        if self.mode == Mode::Churn {
            json["connected"] = self.counters.connected.into();
            json["connections_per_s"] = self.connections_per_s().into();
        }
        if let Some(hold) = &self.hold {
            let [own, server] = hold.cpu();
            json["hold_own_cpu_s"] = own.into();
            json["hold_server_cpu_s"] = server.into();
            let [rss, anon] = hold.per_connection();
            json["hold_s"] = elapsed(hold.first, hold.last).into();
            json["held"] = hold.held.into();
            json["server_rss_bytes_per_connection"] = rss.into();
            json["server_rss_anon_bytes_per_connection"] = anon.into();
        }
        json
    }

    /// `null` without an echo.
    fn latency(&self) -> Value {
        let times = &self.counters.latency;
        if times.is_empty() {
            return Value::Null;
        }
        json!({
            "min": times.min(),
            "mean": rounded(times.mean()),
            "p50": times.value_at_quantile(0.5),
            "p90": times.value_at_quantile(0.9),
            "p99": times.value_at_quantile(0.99),
            "p999": times.value_at_quantile(0.999),
            "max": times.max(),
        })
    }

    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = &self.counters.latency;
        if times.is_empty() {
            return Ok(());
        }
        let at = |quantile| Time(times.value_at_quantile(quantile));
        writeln!(
            f,
            "latency     p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            Time(times.max())
        )?;
        chart::draw(f, times)
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.counters.faults.named();
        let some = faults.iter().filter(|(_, count)| *count > 0);
        let texts: Vec<String> = some
            .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
            .collect();
        if !texts.is_empty() {
            writeln!(f, "faults      {}", texts.join(", "))?;
        }
        for error in &self.counters.errors {
            writeln!(f, "error       {error}")?;
        }
        Ok(())
    }

    fn write_usage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |cpu: f64| 100.0 * ratio(cpu, self.elapsed());
        if let Some(cpu) = self.own_cpu() {
            writeln!(f, "processor   load {:.0} % of a core", percent(cpu))?;
        }
        if let Some(cpu) = self.server_cpu() {
            write!(f, "            server {:.0} % of a core", percent(cpu))?;
            match self.server_cpu_ns_per_echo() {
                Some(time) => writeln!(f, ", {time:.0} ns for each echo")?,
                None => writeln!(f)?,
            }
        }
        match self.bottleneck() {
            Some("load") => {
                f.write_str("note        load was the bottleneck, and not the server\n")
            }
            Some("load or server") => f.write_str(
                "note        load was busy all the time: it may be the bottleneck, and what waited \
                 in it is in the latency; see --server-pid\n",
            ),
            Some("both") => {
                f.write_str("note        load and server were both busy all the time\n")
            }
            _ => Ok(()),
        }
    }

    fn write_hold(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hold) = &self.hold else {
            return Ok(());
        };
        let (count, time) = (hold.held, elapsed(hold.first, hold.last));
        writeln!(f, "held        {count} connections for {time:.3} s")?;
        let [own, server] = hold.cpu();
        let percent = |(name, cpu): (_, Option<f64>)| {
            cpu.map(|cpu| format!("{name} {:.1} %", 100.0 * ratio(cpu, time)))
        };
        let used: Vec<_> = [("load", own), ("server", server)]
            .into_iter()
            .filter_map(percent)
            .collect();
        if !used.is_empty() {
            writeln!(f, "            of a core meanwhile: {}", used.join(", "))?;
        }
        if let [Some(rss), Some(anon)] = hold.per_connection() {
            writeln!(
                f,
                "memory      server {rss:.0} B for each connection, of it {anon:.0} B its own (RssAnon)"
            )?;
        }
        Ok(())
    }

    fn write_open_loop(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open_loop {
            Some(OpenLoop { sent, late }) if *late > 0 => writeln!(
                f,
                "note        load could not keep the rate itself: it sent {late} of {sent} messages \
                 more than 1 ms late"
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, mode) = (&self.endpoint, self.mode.name());
        let (connections, size) = (self.connections, self.size);
        writeln!(
            f,
            "{endpoint}: {mode}, {connections} connections, {size} B messages"
        )?;
        let (sent, echoes) = (self.counters.sent, self.counters.echoes);
        let elapsed = self.elapsed();
        writeln!(
            f,
            "messages    {sent} sent, {echoes} echoed in {elapsed:.3} s"
        )?;
        writeln!(
            f,
            "rate        {:.0} echoes/s, {} each way",
            self.echoes_per_s(),
            Speed(self.bytes_per_s())
        )?;
        if self.mode == Mode::Churn {
            let (count, rate) = (self.counters.connected, self.connections_per_s());
            writeln!(
                f,
                "connections {count} established, {rate:.0} connections/s"
            )?;
        }
        self.write_hold(f)?;
        self.write_latency(f)?;
        self.write_usage(f)?;
        self.write_open_loop(f)?;
        self.write_faults(f)?;
        f.write_str(if self.is_clean() {
            "verified    every byte; nothing lost, reordered or duplicated"
        } else if self.counters.echoes == 0 {
            "verified    nothing: no message came back while it was measured"
        } else {
            "verified    not everything came back as it was sent"
        })
    }
}

impl Hold {
    /// CPU time of client and server while connections were held, in seconds.
    fn cpu(&self) -> [Option<f64>; 2] {
        let (first, last) = (self.first, self.last);
        [used(first.own, last.own), used(first.server, last.server)]
    }

    /// Resident and anonymous memory of the server per connection, in bytes.
    fn per_connection(&self) -> [Option<f64>; 2] {
        let [Some(before), Some(after)] = self.memory else {
            return [None; 2];
        };
        let each = |before, after| {
            let grown = float(after) - float(before);
            (self.held > 0).then(|| rounded(grown / float(self.held)))
        };
        [each(before.rss, after.rss), each(before.anon, after.anon)]
    }
}

/// Bytes per second.
struct Speed(f64);

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ..1e6 => write!(f, "{:.1} kB/s", self.0 / 1e3),
            1e6..1e9 => write!(f, "{:.1} MB/s", self.0 / 1e6),
            _ => write!(f, "{:.2} GB/s", self.0 / 1e9),
        }
    }
}

fn elapsed(first: Snapshot, last: Snapshot) -> f64 {
    Duration::from_nanos(last.at - first.at).as_secs_f64()
}

fn used(first: Option<Duration>, last: Option<Duration>) -> Option<f64> {
    Some(last?.saturating_sub(first?).as_secs_f64())
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Rounded to tenths.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "15 digits are enough")]
fn float(count: u64) -> f64 {
    count as f64
}
