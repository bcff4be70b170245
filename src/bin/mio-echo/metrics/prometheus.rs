//! The counters in Prometheus' text format, version 0.0.4.
//!
//! The template is `prometheus.txt`. Its names follow the rules of Prometheus: units in plural, and
//! `_total` at the end of a counter.

use mio_echo::Stats;

/// All counters and gauges.
pub(super) fn text(stats: &Stats) -> String {
    let (closed, dropped, rejected) = (&stats.closed, &stats.dropped, &stats.rejected);
    format!(
        include_str!("prometheus.txt"),
        active = stats.active,
        accepted = stats.accepted,
        closed_peer_closed = closed.peer_closed,
        closed_reset = closed.reset,
        closed_error = closed.error,
        closed_idle_timeout = closed.idle_timeout,
        closed_write_timeout = closed.write_timeout,
        closed_evicted = closed.evicted,
        closed_aborted = closed.aborted,
        rejected_not_allowed = rejected.not_allowed,
        rejected_too_many_from_source = rejected.too_many_from_source,
        accept_errors = stats.accept_errors,
        accept_pauses = stats.accept_pauses,
        bytes_received = stats.bytes_received,
        bytes_sent = stats.bytes_sent,
        bytes_discarded = stats.bytes_discarded,
        buffered = stats.buffered,
        bytes_zero_copied = stats.bytes_zero_copied,
        datagrams_received = stats.datagrams_received,
        datagrams_sent = stats.datagrams_sent,
        datagram_errors = stats.datagram_errors,
        send_buffer_drops = stats.send_buffer_drops,
        receive_buffer_drops = stats.receive_buffer_drops,
        receive_errors = stats.receive_errors,
        dropped_not_allowed = dropped.not_allowed,
        dropped_port_zero = dropped.port_zero,
        dropped_reserved_port = dropped.reserved_port,
        dropped_nfs_port = dropped.nfs_port,
        dropped_own_port = dropped.own_port,
        dropped_source_address = dropped.source_address,
        dropped_destination = dropped.destination,
        dropped_hop_limit = dropped.hop_limit,
        iterations = stats.iterations,
        run_queue = stats.run_queue,
    )
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
        let text = text(&stats);
        let counters = format!("{stats:?}").replace("events_lost: 0", "");
        // Without `events_lost`: the program asks for no events of connections.
        let counters = counters.matches(": 0").count();
        assert_eq!(samples(&text).len(), counters, "{text}");
        for sample in samples(&text) {
            assert_eq!(text.matches(sample).count(), 1, "{sample} occurs twice");
        }
    }

    #[test]
    fn metric_has_help_type_and_value() {
        let mut stats = Stats::default();
        stats.active = 3;
        stats.bytes_sent = u64::MAX;
        stats.closed.error = 7;
        let text = text(&stats);
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
