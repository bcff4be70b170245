//! The workloads under which the servers are compared.

use std::time::Duration;

use crate::metrics::{
    BACKGROUND_THROUGHPUT, CLIENT_CORE, CONNECTIONS, CPU, CPU_PER_64_KIB, CPU_PER_CONNECTION,
    DATAGRAMS, MEMORY, Metric, P50, P99, RATE, SERVER_CORE, THROUGHPUT,
};
use crate::servers::{PROCESS_PER_CONNECTION, Server, Transport};

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Connections that stay open and send all the time.
    Steady,
    /// A new connection for each echo. Each occupies a local port until the end of `TIME_WAIT`.
    Churn,
    /// Idle connections.
    Hold,
    /// Steady, while a second load generator runs with these arguments.
    WithBackground(&'static str),
}

pub(crate) struct Workload {
    /// Name on the command line and in `results.json`.
    pub(crate) name: &'static str,
    /// Name in tables and charts.
    pub(crate) title: &'static str,
    pub(crate) transport: Transport,
    pub(crate) kind: Kind,
    /// Arguments of `mio-echo load`.
    pub(crate) load: &'static str,
    pub(crate) metrics: &'static [Metric],
    /// Names of the servers that cannot take part, with the reason.
    excluded: &'static [(&'static str, &'static str)],
}

/// The common values of most workloads.
const DEFAULTS: Workload = Workload {
    name: "",
    title: "",
    transport: Transport::Tcp,
    kind: Kind::Steady,
    load: "",
    metrics: &[RATE, CPU, P50, P99, SERVER_CORE, CLIENT_CORE],
    excluded: &[],
};

const BULK: &[Metric] = &[THROUGHPUT, CPU_PER_64_KIB, SERVER_CORE, CLIENT_CORE];

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "1x64B",
        title: "1 connection, 64-byte messages, one at a time",
        load: "-c 1 -s 64",
        metrics: &[P50, P99, RATE, CPU, SERVER_CORE, CLIENT_CORE],
        ..DEFAULTS
    },
    Workload {
        name: "50x64B",
        title: "50 connections, 64-byte messages, one at a time",
        load: "-c 50 -s 64",
        ..DEFAULTS
    },
    Workload {
        name: "1000x64B",
        title: "1,000 connections, 64-byte messages, one at a time",
        load: "-c 1000 -s 64",
        ..DEFAULTS
    },
    Workload {
        name: "50x1KiBx16",
        title: "50 connections, 1 KiB messages, 16 at a time on each",
        load: "-c 50 -s 1024 -o 16",
        ..DEFAULTS
    },
    Workload {
        name: "8x64KiBx4",
        title: "8 connections, 64 KiB messages, 4 at a time on each",
        load: "-c 8 -s 65536 -o 4",
        metrics: BULK,
        ..DEFAULTS
    },
    Workload {
        name: "1x64KiBx8",
        title: "1 connection, 64 KiB messages, 8 at a time",
        load: "-c 1 -s 65536 -o 8",
        metrics: BULK,
        ..DEFAULTS
    },
    Workload {
        name: "churn",
        title: "Connections that echo 64 bytes and close, 50 at a time",
        kind: Kind::Churn,
        load: "--churn -c 50 -s 64",
        metrics: &[
            CONNECTIONS,
            CPU_PER_CONNECTION,
            P50,
            P99,
            SERVER_CORE,
            CLIENT_CORE,
        ],
        ..DEFAULTS
    },
    Workload {
        name: "idle",
        title: "19,000 idle connections",
        kind: Kind::Hold,
        load: "--hold -c 19000",
        metrics: &[MEMORY],
        excluded: &[
            ("socat", PROCESS_PER_CONNECTION),
            (
                "go",
                "io.Copy opens a pipe for each connection, more than the descriptors allow",
            ),
        ],
        ..DEFAULTS
    },
    Workload {
        name: "ping",
        title: "1 byte each millisecond, beside 8 connections that send as fast as they can",
        kind: Kind::WithBackground("--stream -c 8"),
        load: "--rate 1000 -c 1 -s 1",
        metrics: &[P50, P99, BACKGROUND_THROUGHPUT, SERVER_CORE],
        ..DEFAULTS
    },
    Workload {
        name: "udp",
        title: "UDP, 50 clients, 64-byte datagrams, one at a time",
        transport: Transport::Udp,
        load: "-c 50 -s 64",
        metrics: &[DATAGRAMS, CPU, P50, P99, SERVER_CORE, CLIENT_CORE],
        ..DEFAULTS
    },
];

impl Workload {
    /// Returns whether the server takes part.
    pub(crate) fn includes(&self, server: &Server) -> bool {
        self.is_for(server) && self.excludes(server).is_none()
    }

    /// Returns whether the server belongs to the comparison, unless it cannot take part.
    pub(crate) fn is_for(&self, server: &Server) -> bool {
        server.only.is_empty() || server.only.contains(&self.name)
    }

    /// Returns why the server cannot take part.
    pub(crate) fn excludes(&self, server: &Server) -> Option<&'static str> {
        if server.command(self.transport).is_none() {
            return Some("no UDP");
        }
        let mut excluded = self.excluded.iter();
        let found = excluded.find(|(name, _)| *name == server.name);
        found.map(|(_, reason)| *reason)
    }

    /// Returns the warm-up, if the workload has one, and the duration of the measurement.
    ///
    /// The arguments are those of the command line.
    pub(crate) fn times(
        &self,
        warm_up: Duration,
        duration: Duration,
    ) -> (Option<Duration>, Duration) {
        const CHURN_WARM_UP: Duration = Duration::from_millis(200);
        // Longer runs would use up the local ports.
        const CHURN_DURATION: Duration = Duration::from_secs(1);
        const HOLD_DURATION: Duration = Duration::from_millis(500);

        match self.kind {
            Kind::Steady | Kind::WithBackground(_) => (Some(warm_up), duration),
            Kind::Churn => (
                Some(warm_up.min(CHURN_WARM_UP)),
                duration.min(CHURN_DURATION),
            ),
            Kind::Hold => (None, HOLD_DURATION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::SERVERS;

    fn participants(name: &str) -> Vec<&'static str> {
        let workload = WORKLOADS.iter().find(|it| it.name == name).unwrap();
        let servers = SERVERS.iter().filter(|it| workload.includes(it));
        servers.map(|it| it.name).collect()
    }

    #[test]
    fn workload_names_are_unique() {
        for (index, workload) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..index].iter().all(|it| it.name != workload.name));
        }
    }

    #[test]
    fn workloads_and_servers_refer_to_existing_names() {
        for (name, _) in WORKLOADS.iter().flat_map(|it| it.excluded) {
            assert!(SERVERS.iter().any(|it| it.name == *name), "{name}");
        }
        for name in SERVERS.iter().flat_map(|it| it.only) {
            assert!(WORKLOADS.iter().any(|it| it.name == *name), "{name}");
        }
    }

    #[test]
    fn workload_includes_servers_that_can_take_part() {
        assert!(participants("1x64B").contains(&"mio-echo-busy-poll"));
        assert!(!participants("50x64B").contains(&"mio-echo-busy-poll"));
        assert!(participants("churn").contains(&"socat"));
        assert!(!participants("idle").contains(&"socat"));
        assert!(!participants("idle").contains(&"go"));
        assert_eq!(
            participants("udp"),
            [
                "mio-echo", "epoll", "tokio", "libuv", "go", "asyncio", "uvloop"
            ]
        );
    }
}
