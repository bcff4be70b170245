//! One server under one load, once.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::metrics::{self, Values};
use crate::options::Options;
use crate::process::{Outcome, ProcessGroup};
use crate::programs::{HERE, Programs};
use crate::ready;
use crate::results::Round;
use crate::servers::{Server, Transport};
use crate::stop::Stop;
use crate::workloads::{Kind, Workload};

/// For how long the load generator waits for what is missing: long enough for a machine that has
/// something else to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much longer than it should take to wait for the load generator: it connects, and may have to
/// wait for what is missing.
const SLACK: Duration = Duration::from_secs(30);

/// For how long a load is there before another begins beside it.
const HEAD_START: Duration = Duration::from_millis(200);

pub(crate) struct Bench<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) options: &'a Options,
    pub(crate) stop: &'a Stop,
}

impl Bench<'_> {
    /// The figures; or why there are none. It is an error only to be interrupted.
    pub(crate) fn round(&self, workload: &Workload, server: &Server) -> Result<Round> {
        let values = self.measure(workload, server);
        self.stop.check()?;
        Ok(match values {
            Ok(values) => Round::Measured(values),
            Err(error) => {
                let reason = format!("{error:#}");
                eprintln!("failed: {reason}");
                Round::Failed(reason)
            }
        })
    }

    fn measure(&self, workload: &Workload, server: &Server) -> Result<Values> {
        let port = ready::free_port(workload.transport)?;
        let process = self.start_server(server, workload.transport, port)?;
        ready::wait_for(&process, workload.transport, port, self.stop)?;
        let target = Target {
            endpoint: match workload.transport {
                Transport::Tcp => format!("tcp://127.0.0.1:{port}"),
                Transport::Udp => format!("udp://127.0.0.1:{port}"),
            },
            process: server.is_one_process.then(|| process.id()),
        };
        let json = match workload.kind {
            Kind::Beside(other) => self.load_beside(other, workload, &target)?,
            _ => self.load(workload, &target)?,
        };
        Ok(metrics::values(workload.metrics, &json))
    }

    fn start_server(
        &self,
        server: &Server,
        transport: Transport,
        port: u16,
    ) -> Result<ProcessGroup> {
        let line = server.command(transport).context("not over this")?;
        let line = line.replace("PORT", &port.to_string());
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(self.programs.path(program)?);
        command.args(words).current_dir(HERE);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        ProcessGroup::start(&mut command, self.options.server_core)
    }

    fn load(&self, workload: &Workload, target: &Target) -> Result<Value> {
        let (warm_up, duration) = workload.times(self.options.warm_up, self.options.duration);
        let load = self.start_load(workload.load, warm_up, duration, target)?;
        let limit = warm_up.unwrap_or_default() + duration + SLACK;
        verified(&load.finish(limit, self.stop)?)
    }

    /// The other load is there from before to after, and then told to end.
    fn load_beside(&self, other: &str, workload: &Workload, target: &Target) -> Result<Value> {
        let (warm_up, duration) = workload.times(self.options.warm_up, self.options.duration);
        let long = warm_up.unwrap_or_default() + duration + SLACK;
        let streams = self.start_load(other, Some(Duration::ZERO), long, target)?;
        thread::sleep(HEAD_START);
        let mut json = self.load(workload, target)?;
        streams.interrupt()?;
        let outcome = streams.finish(SLACK, self.stop)?;
        let beside = verified(&outcome).context("the streams beside it")?;
        json["streams_bytes_per_s"] = beside["bytes_per_s"].clone();
        Ok(json)
    }

    fn start_load(
        &self,
        arguments: &str,
        warm_up: Option<Duration>,
        duration: Duration,
        target: &Target,
    ) -> Result<ProcessGroup> {
        let time = |time: Duration| format!("{}ms", time.as_millis());
        let mut command = Command::new(self.programs.path("load")?);
        command.arg("--json").args(arguments.split(' '));
        command.args(["--timeout", &time(PATIENCE)]);
        command.args(["--duration", &time(duration)]);
        if let Some(warm_up) = warm_up {
            command.args(["--warmup", &time(warm_up)]);
        }
        if let Some(process) = target.process {
            command.args(["--server-pid", &process.to_string()]);
        }
        command.arg(&target.endpoint).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        ProcessGroup::start(&mut command, self.options.client_core)
    }
}

/// What the load is put on.
struct Target {
    endpoint: String,
    /// If it is one.
    process: Option<u32>,
}

/// What the load generator says, if everything came back as it was sent.
fn verified(outcome: &Outcome) -> Result<Value> {
    let Ok(json) = serde_json::from_str(&outcome.stdout) else {
        let last = outcome.stderr.lines().last().unwrap_or("no results");
        bail!("{last} ({})", outcome.status);
    };
    if let Some(fault) = metrics::fault(&json) {
        bail!(fault);
    }
    Ok(json)
}
