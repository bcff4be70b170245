//! What is read off the load generator's results.

use std::collections::BTreeMap;

use serde_json::Value;

/// A number in the results, and how it is shown.
#[derive(Clone, Copy)]
pub(crate) struct Metric {
    /// In the results of a comparison, with the unit.
    pub(crate) name: &'static str,
    /// Where it is in those of the load generator, as a JSON pointer (RFC 6901).
    pointer: &'static str,
    pub(crate) title: &'static str,
    /// The unit that it is shown in, and how many of those one of the results' units is.
    pub(crate) unit: &'static str,
    pub(crate) scale: f64,
    pub(crate) more_is_better: bool,
    /// It is no result, but helps to understand the others: only its median is shown.
    pub(crate) is_context: bool,
}

pub(crate) const RATE: Metric = Metric {
    name: "echoes_per_s",
    pointer: "/echoes_per_s",
    title: "echoes",
    unit: "1000/s",
    scale: 1e-3,
    more_is_better: true,
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
    title: "throughput each way",
    unit: "MB/s",
    scale: 1e-6,
    ..RATE
};

/// What the greedy streams get, where they are beside what is measured.
pub(crate) const STREAMS: Metric = Metric {
    name: "streams_bytes_per_s",
    pointer: "/streams_bytes_per_s",
    title: "the streams beside it",
    ..THROUGHPUT
};

pub(crate) const CPU: Metric = Metric {
    name: "server_cpu_ns_per_echo",
    pointer: "/server_cpu_ns_per_echo",
    title: "CPU per echo",
    unit: "µs",
    scale: 1e-3,
    more_is_better: false,
    is_context: false,
};

/// Where that is the size of a message.
pub(crate) const CPU_PER_64_KIB: Metric = Metric {
    title: "CPU per 64 KiB",
    ..CPU
};

pub(crate) const CPU_PER_CONNECTION: Metric = Metric {
    title: "CPU per connection",
    ..CPU
};

pub(crate) const P50: Metric = Metric {
    name: "latency_p50_ns",
    pointer: "/latency_ns/p50",
    title: "latency p50",
    ..CPU
};

pub(crate) const P99: Metric = Metric {
    name: "latency_p99_ns",
    pointer: "/latency_ns/p99",
    title: "latency p99",
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
    title: "server's core",
    unit: "% busy",
    scale: 100.0,
    more_is_better: false,
    is_context: true,
};

/// Near 100 % the load generator is the limit, and not the server.
pub(crate) const CLIENT_CORE: Metric = Metric {
    name: "client_cpu_ratio",
    pointer: "/own_cpu_ratio",
    title: "load's core",
    ..SERVER_CORE
};

/// By name; what was not measured is absent.
pub(crate) type Values = BTreeMap<String, f64>;

/// The values of the metrics in the results of the load generator.
pub(crate) fn values(metrics: &[Metric], json: &Value) -> Values {
    let mut values = Values::new();
    for metric in metrics {
        if let Some(value) = json.pointer(metric.pointer).and_then(Value::as_f64) {
            values.insert(metric.name.to_owned(), value);
        }
    }
    values
}

/// What was wrong with a run, if anything was: then its figures mean nothing.
pub(crate) fn fault(json: &Value) -> Option<String> {
    const FAULTS: [&str; 8] = [
        "lost",
        "late",
        "corrupted",
        "reordered",
        "duplicated",
        "connections_failed",
        "connections_ended_early",
        "unsent",
    ];

    let mut texts = Vec::new();
    for name in FAULTS {
        if let Some(count @ 1..) = json[name].as_u64() {
            texts.push(format!("{count} {}", name.replace('_', " ")));
        }
    }
    for error in json["errors"].as_array().into_iter().flatten() {
        texts.push(error.as_str().map_or("an error".to_owned(), explained));
    }
    if json["echoes"].as_u64().unwrap_or(0) == 0 {
        texts.push("nothing came back in time".to_owned());
    }
    if texts.is_empty() && json["is_clean"] != true {
        texts.push("not everything came back as it was sent".to_owned());
    }
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn explained(error: &str) -> String {
    if error.starts_with("Cannot assign requested address") {
        format!("ports ran out: {error}")
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
    fn values_are_found_wherever_they_are() {
        let values = values(&[RATE, P99], &clean());
        let expected = [("echoes_per_s", 5.5), ("latency_p99_ns", 2000.0)];
        assert_eq!(
            values,
            expected.map(|(name, it)| (name.to_owned(), it)).into()
        );
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        assert!(values(&[CPU, MEMORY], &clean()).is_empty());
    }

    #[test]
    fn a_clean_run_has_no_fault() {
        assert_eq!(fault(&clean()), None);
    }

    #[test]
    fn faults_are_told_with_their_number() {
        let mut json = clean();
        json["is_clean"] = false.into();
        json["lost"] = 3.into();
        json["connections_failed"] = 1.into();
        json["errors"] = json!(["Cannot assign requested address (os error 99)"]);
        let expected = "3 lost, 1 connections failed, \
                        ports ran out: Cannot assign requested address (os error 99)";
        assert_eq!(fault(&json).as_deref(), Some(expected));
    }

    #[test]
    fn nothing_at_all_is_a_fault() {
        let mut json = clean();
        json["echoes"] = 0.into();
        assert_eq!(fault(&json).as_deref(), Some("nothing came back in time"));
        assert!(fault(&json!({"echoes": 1})).is_some());
    }
}
