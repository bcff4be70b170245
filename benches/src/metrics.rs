//! The figures that are taken from the load generator's results.

use std::collections::BTreeMap;

use serde_json::Value;

/// A figure, where it comes from and how it is shown.
#[derive(Clone, Copy)]
pub(crate) struct Metric {
    /// Name in `results.json`, with the unit.
    pub(crate) name: &'static str,
    /// Position in the load generator's results: a JSON pointer (RFC 6901).
    pointer: &'static str,
    pub(crate) title: &'static str,
    /// Unit in tables and charts.
    pub(crate) unit: &'static str,
    /// Factor from the unit of the results to `unit`.
    pub(crate) scale: f64,
    pub(crate) higher_is_better: bool,
    /// Helps to interpret the other figures: tables show only its median.
    pub(crate) is_context: bool,
}

pub(crate) const RATE: Metric = Metric {
    name: "echoes_per_s",
    pointer: "/echoes_per_s",
    title: "echoes",
    unit: "thousand/s",
    scale: 1e-3,
    higher_is_better: true,
    is_context: false,
};

pub(crate) const CONNECTIONS: Metric = Metric {
    title: "connections",
    ..RATE
};

pub(crate) const DATAGRAMS: Metric = Metric {
    title: "datagrams",
    ..RATE
};

pub(crate) const THROUGHPUT: Metric = Metric {
    name: "bytes_per_s",
    pointer: "/bytes_per_s",
    title: "throughput in each direction",
    unit: "MB/s",
    scale: 1e-6,
    ..RATE
};

/// Throughput of the greedy streams in the background.
pub(crate) const BACKGROUND_THROUGHPUT: Metric = Metric {
    name: "streams_bytes_per_s",
    pointer: "/streams_bytes_per_s",
    title: "throughput of the streams together, in each direction",
    ..THROUGHPUT
};

pub(crate) const CPU: Metric = Metric {
    name: "server_cpu_ns_per_echo",
    pointer: "/server_cpu_ns_per_echo",
    title: "CPU time per echo",
    unit: "µs",
    scale: 1e-3,
    higher_is_better: false,
    is_context: false,
};

/// For workloads with messages of this size.
pub(crate) const CPU_PER_64_KIB: Metric = Metric {
    title: "CPU time per 64 KiB",
    ..CPU
};

pub(crate) const CPU_PER_CONNECTION: Metric = Metric {
    title: "CPU time per connection",
    ..CPU
};

pub(crate) const P50: Metric = Metric {
    name: "latency_p50_ns",
    pointer: "/latency_ns/p50",
    title: "round-trip time, median",
    ..CPU
};

pub(crate) const P99: Metric = Metric {
    name: "latency_p99_ns",
    pointer: "/latency_ns/p99",
    title: "round-trip time, 99th percentile",
    ..CPU
};

pub(crate) const MEMORY: Metric = Metric {
    name: "server_rss_bytes_per_connection",
    pointer: "/server_rss_bytes_per_connection",
    title: "memory per connection",
    unit: "bytes",
    scale: 1.0,
    ..CPU
};

pub(crate) const SERVER_CORE: Metric = Metric {
    name: "server_cpu_ratio",
    pointer: "/server_cpu_ratio",
    title: "server core",
    unit: "% busy",
    scale: 100.0,
    higher_is_better: false,
    is_context: true,
};

/// Near 100 %, the load generator is the bottleneck, not the server.
pub(crate) const CLIENT_CORE: Metric = Metric {
    name: "client_cpu_ratio",
    pointer: "/own_cpu_ratio",
    title: "load core",
    ..SERVER_CORE
};

/// Values by metric name, without those that were not measured.
pub(crate) type Values = BTreeMap<String, f64>;

/// Reads the values of `metrics` from the load generator's results.
pub(crate) fn values(metrics: &[Metric], json: &Value) -> Values {
    let mut values = Values::new();
    for metric in metrics {
        if let Some(value) = json.pointer(metric.pointer).and_then(Value::as_f64) {
            values.insert(metric.name.to_owned(), value);
        }
    }
    values
}

/// Returns why the figures of a run are invalid, or `None` if every echo was correct and in time.
pub(crate) fn failure(json: &Value) -> Option<String> {
    const COUNTERS: [&str; 8] = [
        "lost",
        "late",
        "corrupted",
        "reordered",
        "duplicated",
        "connections_failed",
        "connections_ended_early",
        "unsent",
    ];

    let mut reasons = Vec::new();
    for name in COUNTERS {
        if let Some(count @ 1..) = json[name].as_u64() {
            reasons.push(format!("{count} {}", name.replace('_', " ")));
        }
    }
    for error in json["errors"].as_array().into_iter().flatten() {
        reasons.push(error.as_str().map_or("unknown error".to_owned(), explain));
    }
    if json["echoes"].as_u64().unwrap_or(0) == 0 {
        reasons.push("no echo within the timeout".to_owned());
    }
    if reasons.is_empty() && json["is_clean"] != true {
        reasons.push("not every echo was correct".to_owned());
    }
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn explain(error: &str) -> String {
    if error.starts_with("Cannot assign requested address") {
        format!("out of local ports: {error}")
    } else {
        error.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn clean() -> Value {
        json!({
            "echoes": 10,
            "echoes_per_s": 5.5,
            "latency_ns": {"p50": 1000, "p99": 2000},
            "server_cpu_ns_per_echo": null,
            "errors": [],
            "is_clean": true,
            "lost": 0,
        })
    }

    #[test]
    fn reads_top_level_and_nested_values() {
        let values = values(&[RATE, P99], &clean());
        let expected = [("echoes_per_s", 5.5), ("latency_p99_ns", 2000.0)];
        assert_eq!(
            values,
            expected.map(|(name, it)| (name.to_owned(), it)).into()
        );
    }

    #[test]
    fn omits_missing_and_null_values() {
        assert!(values(&[CPU, MEMORY], &clean()).is_empty());
    }

    #[test]
    fn clean_run_is_valid() {
        assert_eq!(failure(&clean()), None);
    }

    #[test]
    fn failure_lists_counters_and_errors() {
        let mut json = clean();
        json["is_clean"] = false.into();
        json["lost"] = 3.into();
        json["connections_failed"] = 1.into();
        json["errors"] = json!(["Cannot assign requested address (os error 99)"]);
        let expected = "3 lost, 1 connections failed, \
                        out of local ports: Cannot assign requested address (os error 99)";
        assert_eq!(failure(&json).as_deref(), Some(expected));
    }

    #[test]
    fn run_without_echoes_is_a_failure() {
        let mut json = clean();
        json["echoes"] = 0.into();
        assert_eq!(
            failure(&json).as_deref(),
            Some("no echo within the timeout")
        );
        assert!(failure(&json!({"echoes": 1})).is_some());
    }
}
