//! The counters as Prometheus reads them: its text format, version 0.0.4.
//!
//! The names, the labels and the help are all written here and have nothing to be escaped, so that
//! the format is no more than a line for each. Names follow Prometheus' rules for them: units are
//! in plural, and a counter ends in `_total`.

use std::fmt;

use mio_echo::Stats;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All that the service counts.
pub(super) struct Exposition<'a>(pub(super) &'a Stats);

impl fmt::Display for Exposition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exposition(stats) = self;
        for topic in [connections, bytes, datagrams, event_loop] {
            for family in topic(stats) {
                family.fmt(f)?;
            }
        }
        Ok(())
    }
}

/// A metric: a value, or one for each reason.
struct Family {
    kind: &'static str,
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

enum Samples {
    One(u64),
    ByReason(Vec<(&'static str, u64)>),
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Family {
            kind,
            name,
            help,
            samples,
        } = self;
        writeln!(f, "# HELP mio_echo_{name} {help}")?;
        writeln!(f, "# TYPE mio_echo_{name} {kind}")?;
        match samples {
            Samples::One(value) => writeln!(f, "mio_echo_{name} {value}"),
            Samples::ByReason(values) => values.iter().try_for_each(|(reason, value)| {
                writeln!(f, "mio_echo_{name}{{reason=\"{reason}\"}} {value}")
            }),
        }
    }
}

fn gauge(name: &'static str, help: &'static str, value: usize) -> Family {
    let samples = Samples::One(value as u64);
    Family {
        kind: "gauge",
        name,
        help,
        samples,
    }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    let samples = Samples::One(value);
    Family {
        kind: "counter",
        name,
        help,
        samples,
    }
}

fn by_reason(
    name: &'static str,
    help: &'static str,
    values: impl Into<Vec<(&'static str, u64)>>,
) -> Family {
    let samples = Samples::ByReason(values.into());
    Family {
        kind: "counter",
        name,
        help,
        samples,
    }
}

fn connections(stats: &Stats) -> Vec<Family> {
    let closed = &stats.closed;
    let rejected = &stats.rejected;
    vec![
        gauge(
            "connections_active",
            "Connections that are open now.",
            stats.active,
        ),
        counter(
            "connections_accepted_total",
            "Connections that were accepted.",
            stats.accepted,
        ),
        by_reason(
            "connections_closed_total",
            "Connections that were closed.",
            [
                ("peer_closed", closed.peer_closed),
                ("reset", closed.reset),
                ("error", closed.error),
                ("idle_timeout", closed.idle_timeout),
                ("write_timeout", closed.write_timeout),
                ("evicted", closed.evicted),
                ("aborted", closed.aborted),
            ],
        ),
        by_reason(
            "connections_rejected_total",
            "Connections that were accepted and immediately reset.",
            [
                ("not_allowed", rejected.not_allowed),
                ("too_many_from_source", rejected.too_many_from_source),
            ],
        ),
        counter(
            "accept_errors_total",
            "Connections that were lost before they could be accepted.",
            stats.accept_errors,
        ),
        counter(
            "accept_pauses_total",
            "Pauses of accepting, at the limit or without descriptors or memory.",
            stats.accept_pauses,
        ),
    ]
}

fn bytes(stats: &Stats) -> Vec<Family> {
    vec![
        counter(
            "received_bytes_total",
            "Bytes received from peers.",
            stats.bytes_received,
        ),
        counter(
            "sent_bytes_total",
            "Bytes sent back to peers.",
            stats.bytes_sent,
        ),
        gauge(
            "buffered_bytes",
            "Bytes held now for peers that do not take them.",
            stats.buffered,
        ),
        counter(
            "zero_copied_bytes_total",
            "Bytes received that were not copied.",
            stats.bytes_zero_copied,
        ),
    ]
}

fn datagrams(stats: &Stats) -> Vec<Family> {
    vec![
        counter(
            "datagrams_received_total",
            "Datagrams received.",
            stats.datagrams_received,
        ),
        counter(
            "datagrams_sent_total",
            "Datagrams sent back.",
            stats.datagrams_sent,
        ),
        counter(
            "datagram_errors_total",
            "Replies that failed with an error.",
            stats.datagram_errors,
        ),
        counter(
            "datagram_send_buffer_drops_total",
            "Replies dropped because the send buffer or memory was full.",
            stats.send_buffer_drops,
        ),
        counter(
            "datagram_receive_buffer_drops_total",
            "Datagrams that the system dropped because the receive buffer was full.",
            stats.receive_buffer_drops,
        ),
        counter(
            "receive_errors_total",
            "Errors that were received instead of a datagram.",
            stats.receive_errors,
        ),
        dropped(stats),
    ]
}

fn dropped(stats: &Stats) -> Family {
    let dropped = &stats.dropped;
    by_reason(
        "datagrams_dropped_total",
        "Datagrams that got no reply, by a rule.",
        [
            ("not_allowed", dropped.not_allowed),
            ("port_zero", dropped.port_zero),
            ("reserved_port", dropped.reserved_port),
            ("nfs_port", dropped.nfs_port),
            ("own_port", dropped.own_port),
            ("source_address", dropped.source_address),
            ("destination", dropped.destination),
            ("hop_limit", dropped.hop_limit),
        ],
    )
}

fn event_loop(stats: &Stats) -> Vec<Family> {
    vec![
        counter(
            "loop_iterations_total",
            "Iterations of the event loop.",
            stats.iterations,
        ),
        gauge(
            "run_queue_length",
            "Sockets that had a turn in the last iteration.",
            stats.run_queue,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn every_counter_is_exposed() {
        let stats = Stats::default();
        let text = Exposition(&stats).to_string();
        let counters = format!("{stats:?}").matches(": 0").count();
        assert_eq!(samples(&text).len(), counters, "{text}");
        for sample in samples(&text) {
            assert_eq!(text.matches(sample).count(), 1, "{sample} is there twice");
        }
    }

    #[test]
    fn a_metric_has_its_help_its_type_and_its_values() {
        let mut stats = Stats::default();
        stats.active = 3;
        stats.bytes_sent = u64::MAX;
        stats.closed.error = 7;
        let text = Exposition(&stats).to_string();
        for part in [
            "# HELP mio_echo_connections_active Connections that are open now.\n\
             # TYPE mio_echo_connections_active gauge\n\
             mio_echo_connections_active 3\n",
            "# TYPE mio_echo_sent_bytes_total counter\n\
             mio_echo_sent_bytes_total 18446744073709551615\n",
            "mio_echo_connections_closed_total{reason=\"peer_closed\"} 0\n\
             mio_echo_connections_closed_total{reason=\"reset\"} 0\n\
             mio_echo_connections_closed_total{reason=\"error\"} 7\n",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}
