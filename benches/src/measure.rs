//! Measures a server under a workload.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::metrics::{self, Values};
use crate::options::Options;
use crate::process::{Outcome, ProcessGroup};
use crate::programs::{BENCHES_DIR, Programs};
use crate::quiet::{self, Snapshot};
use crate::ready;
use crate::results::Round;
use crate::servers::{Server, Transport};
use crate::stop::Stop;
use crate::workloads::{Kind, Workload};

/// How long the load generator waits for missing echoes: long enough for a busy machine.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the load generator to connect and to wait for missing echoes, besides its duration.
const EXTRA_TIME: Duration = Duration::from_secs(30);

/// How long the background load runs before the measured load starts.
const HEAD_START: Duration = Duration::from_millis(200);

/// What every measurement needs.
pub(crate) struct Bench<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) options: &'a Options,
    pub(crate) stop: &'a Stop,
}

impl Bench<'_> {
    /// Measures once. A failure is a result, too; the only error is a signal that stops the run.
    pub(crate) fn run_round(&self, workload: &Workload, server: &Server) -> Result<Round> {
        let cores = self.options.cores();
        let before = quiet::disturbance(cores, quiet::WATCH);
        let start = Snapshot::of(cores);
        let values = self.measure(workload, server);
        let stolen = start.stolen_until(&Snapshot::of(cores));
        self.stop.check()?;
        Ok(match values {
            Ok(mut values) => {
                let largest = before.into_iter().chain(stolen).reduce(f64::max);
                values.extend(largest.map(|it| (quiet::KEY.to_owned(), it)));
                Round::Measured(values)
            }
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
        ready::wait_until_ready(&process, workload.transport, port, self.stop)?;
        let target = Target {
            endpoint: match workload.transport {
                Transport::Tcp => format!("tcp://127.0.0.1:{port}"),
                Transport::Udp => format!("udp://127.0.0.1:{port}"),
            },
            server_pid: server.single_process.then(|| process.id()),
        };
        let json = match workload.kind {
            Kind::WithBackground(background) => {
                self.run_with_background(background, workload, &target)?
            }
            _ => self.run_load(workload, &target)?,
        };
        Ok(metrics::values(workload.metrics, &json))
    }

    fn start_server(
        &self,
        server: &Server,
        transport: Transport,
        port: u16,
    ) -> Result<ProcessGroup> {
        let command_line = server
            .command(transport)
            .context("the server does not support this transport")?;
        let command_line = command_line.replace("PORT", &port.to_string());
        let mut words = command_line.split(' ');
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(self.programs.path(program)?);
        command.args(words).current_dir(BENCHES_DIR);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        ProcessGroup::start(&mut command, self.options.server_core)
    }

    fn run_load(&self, workload: &Workload, target: &Target) -> Result<Value> {
        let (warm_up, duration) = workload.times(self.options.warm_up, self.options.duration);
        let load = self.start_load(workload.load, warm_up, duration, target)?;
        let timeout = warm_up.unwrap_or_default() + duration + EXTRA_TIME;
        valid_results(&load.wait(timeout, self.stop)?)
    }

    /// Starts the background load before the measured load, and interrupts it afterwards.
    fn run_with_background(
        &self,
        background: &str,
        workload: &Workload,
        target: &Target,
    ) -> Result<Value> {
        let (warm_up, duration) = workload.times(self.options.warm_up, self.options.duration);
        let longer = warm_up.unwrap_or_default() + duration + EXTRA_TIME;
        let streams = self.start_load(background, Some(Duration::ZERO), longer, target)?;
        thread::sleep(HEAD_START);
        let mut json = self.run_load(workload, target)?;
        streams.interrupt()?;
        let outcome = streams.wait(EXTRA_TIME, self.stop)?;
        let background = valid_results(&outcome).context("background load")?;
        json["streams_bytes_per_s"] = background["bytes_per_s"].clone();
        Ok(json)
    }

    fn start_load(
        &self,
        arguments: &str,
        warm_up: Option<Duration>,
        duration: Duration,
        target: &Target,
    ) -> Result<ProcessGroup> {
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        let mut command = Command::new(self.programs.path("mio-echo")?);
        command.args(["load", "--json"]).args(arguments.split(' '));
        command.args(["--timeout", &milliseconds(ECHO_TIMEOUT)]);
        command.args(["--duration", &milliseconds(duration)]);
        if let Some(warm_up) = warm_up {
            command.args(["--warmup", &milliseconds(warm_up)]);
        }
        if let Some(pid) = target.server_pid {
            command.args(["--server-pid", &pid.to_string()]);
        }
        command.arg(&target.endpoint).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        ProcessGroup::start(&mut command, self.options.client_core)
    }
}

/// The server under load.
struct Target {
    endpoint: String,
    /// Its process ID, if it is one process.
    server_pid: Option<u32>,
}

/// Parses the results of the load generator.
///
/// Fails if the load generator failed, or if an echo was lost, late or wrong.
fn valid_results(outcome: &Outcome) -> Result<Value> {
    let Ok(json) = serde_json::from_str(&outcome.stdout) else {
        let message = outcome.stderr.lines().last().unwrap_or("no results");
        bail!("{message} ({})", outcome.status);
    };
    if let Some(reason) = metrics::failure(&json) {
        bail!(reason);
    }
    Ok(json)
}
