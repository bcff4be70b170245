//! The kinds of load.

use std::time::Duration;

use crate::metrics::{
    CLIENT_CORE, CONNECTIONS, CPU, CPU_PER_64_KIB, CPU_PER_CONNECTION, DATAGRAMS, MEMORY, Metric,
    P50, P99, RATE, SERVER_CORE, STREAMS, THROUGHPUT,
};
use crate::servers::{Server, Transport};

/// What is special about the load.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Steady,
    /// Connections one after the other. Each uses up a port for a while.
    Churn,
    Hold,
    /// Beside another load, with these arguments.
    Beside(&'static str),
}

pub(crate) struct Workload {
    /// On the command line and in the results.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) transport: Transport,
    pub(crate) kind: Kind,
    /// The load generator's arguments.
    pub(crate) load: &'static str,
    pub(crate) metrics: &'static [Metric],
    /// Servers that do not bear it.
    without: &'static [&'static str],
}

const PLAIN: Workload = Workload {
    name: "",
    title: "",
    transport: Transport::Tcp,
    kind: Kind::Steady,
    load: "",
    metrics: &[RATE, CPU, P50, P99, SERVER_CORE, CLIENT_CORE],
    without: &[],
};

const BULK: &[Metric] = &[THROUGHPUT, CPU_PER_64_KIB, SERVER_CORE, CLIENT_CORE];

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "1x64B",
        title: "1 × 64 B",
        load: "-c 1 -s 64",
        metrics: &[P50, P99, RATE, CPU, SERVER_CORE, CLIENT_CORE],
        ..PLAIN
    },
    Workload {
        name: "50x64B",
        title: "50 × 64 B",
        load: "-c 50 -s 64",
        ..PLAIN
    },
    Workload {
        name: "1000x64B",
        title: "1,000 × 64 B",
        load: "-c 1000 -s 64",
        ..PLAIN
    },
    Workload {
        name: "50x1KiBx16",
        title: "50 × 1 KiB × 16 outstanding",
        load: "-c 50 -s 1024 -o 16",
        ..PLAIN
    },
    Workload {
        name: "8x64KiBx4",
        title: "8 × 64 KiB × 4 outstanding",
        load: "-c 8 -s 65536 -o 4",
        metrics: BULK,
        ..PLAIN
    },
    Workload {
        name: "1x64KiBx8",
        title: "one stream of 64 KiB × 8 outstanding",
        load: "-c 1 -s 65536 -o 8",
        metrics: BULK,
        ..PLAIN
    },
    Workload {
        name: "churn",
        title: "churn: connect, echo 64 B, close; 50 at a time",
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
        ..PLAIN
    },
    Workload {
        name: "idle",
        title: "19,000 idle connections",
        kind: Kind::Hold,
        load: "--hold -c 19000",
        metrics: &[MEMORY],
        // A process for each connection.
        without: &["socat"],
        ..PLAIN
    },
    Workload {
        name: "ping",
        title: "1 B a thousand times a second, beside 8 greedy streams",
        kind: Kind::Beside("--stream -c 8"),
        load: "--rate 1000 -c 1 -s 1",
        metrics: &[P50, P99, STREAMS, SERVER_CORE],
        ..PLAIN
    },
    Workload {
        name: "udp",
        title: "UDP, 50 × 64 B",
        transport: Transport::Udp,
        load: "-c 50 -s 64",
        metrics: &[DATAGRAMS, CPU, P50, P99, SERVER_CORE, CLIENT_CORE],
        ..PLAIN
    },
];

impl Workload {
    pub(crate) fn is_for(&self, server: &Server) -> bool {
        let is_wanted = server.only.is_empty() || server.only.contains(&self.name);
        is_wanted
            && !self.without.contains(&server.name)
            && server.command(self.transport).is_some()
    }

    /// How long to put load on it before it counts, and how long then.
    pub(crate) fn times(
        &self,
        warm_up: Duration,
        duration: Duration,
    ) -> (Option<Duration>, Duration) {
        const SHORT: Duration = Duration::from_millis(200);
        const CHURN: Duration = Duration::from_secs(1);
        const HOLD: Duration = Duration::from_millis(500);

        match self.kind {
            Kind::Steady | Kind::Beside(_) => (Some(warm_up), duration),
            Kind::Churn => (Some(warm_up.min(SHORT)), duration.min(CHURN)),
            Kind::Hold => (None, HOLD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::SERVERS;

    fn takers(name: &str) -> Vec<&'static str> {
        let workload = WORKLOADS.iter().find(|it| it.name == name).unwrap();
        let servers = SERVERS.iter().filter(|it| workload.is_for(it));
        servers.map(|it| it.name).collect()
    }

    #[test]
    fn workload_names_are_unique() {
        for (place, workload) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..place].iter().all(|it| it.name != workload.name));
        }
    }

    #[test]
    fn workloads_and_servers_name_existing_ones() {
        for name in WORKLOADS.iter().flat_map(|it| it.without) {
            assert!(SERVERS.iter().any(|it| it.name == *name), "{name}");
        }
        for name in SERVERS.iter().flat_map(|it| it.only) {
            assert!(WORKLOADS.iter().any(|it| it.name == *name), "{name}");
        }
    }

    #[test]
    fn a_server_takes_part_where_it_can() {
        assert!(takers("1x64B").contains(&"mio-echo-busy-poll"));
        assert!(!takers("50x64B").contains(&"mio-echo-busy-poll"));
        assert!(takers("churn").contains(&"socat"));
        assert!(!takers("idle").contains(&"socat"));
        assert_eq!(
            takers("udp"),
            ["mio-echo", "epoll", "tokio", "asyncio", "uvloop"]
        );
    }
}
