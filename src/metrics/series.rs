//! The series of a snapshot: of listeners, and of the pool as a whole.

use super::{
    backend_series, process,
    visitor::{Family, Value, Visitor},
};
use crate::stats::{ListenerStats, StatsSnapshot};

/// Visits all series, family by family.
pub(super) fn visit(snapshot: &StatsSnapshot, visitor: &mut dyn Visitor) {
    visitor.family(&BUILD);
    visitor.sample(
        &[("version", env!("CARGO_PKG_VERSION"))],
        &Value::Gauge(1.0),
    );
    visit_requests(&snapshot.listeners, visitor);
    visit_connections(&snapshot.listeners, visitor);
    backend_series::visit(&snapshot.backends, visitor);
    visit_pool(snapshot, visitor);
    process::visit(visitor);
}

fn visit_requests(listeners: &[ListenerStats], visitor: &mut dyn Visitor) {
    visitor.family(&ACCEPTED);
    for listener in listeners {
        visitor.sample(&[label(listener)], &Value::Counter(listener.accepted));
    }
    visitor.family(&IN_FLIGHT);
    for listener in listeners {
        visitor.sample(&[label(listener)], &Value::Gauge(listener.in_flight as f64));
    }
    visitor.family(&REQUESTS);
    for listener in listeners {
        visit_statuses(label(listener), &listener.statuses, visitor);
    }
    visitor.family(&OUTCOMES);
    for listener in listeners {
        visit_each("outcome", label(listener), &listener.outcomes, visitor);
    }
    visitor.family(&DURATION);
    for listener in listeners {
        visitor.sample(&[label(listener)], &Value::Histogram(&listener.duration));
    }
}

fn visit_connections(listeners: &[ListenerStats], visitor: &mut dyn Visitor) {
    visitor.family(&CONNECTIONS_OPENED);
    for listener in listeners {
        let opened = Value::Counter(listener.connections_opened);
        visitor.sample(&[label(listener)], &opened);
    }
    visitor.family(&CONNECTIONS_OPEN);
    for listener in listeners {
        let (opened, closed) = (listener.connections_opened, listener.connections_closed);
        let open = Value::Gauge(opened.saturating_sub(closed) as f64);
        visitor.sample(&[label(listener)], &open);
    }
    visitor.family(&CONNECTION_FAILURES);
    for listener in listeners {
        visit_each(
            "reason",
            label(listener),
            &listener.connection_failures,
            visitor,
        );
    }
    visitor.family(&HANDSHAKES);
    for listener in listeners {
        for kind in &listener.handshakes {
            let labels = [
                label(listener),
                ("version", kind.version),
                ("cipher", kind.cipher),
                ("key_exchange", kind.key_exchange),
                ("resumed", if kind.resumed { "true" } else { "false" }),
            ];
            visitor.sample(&labels, &Value::Counter(kind.count));
        }
    }
    visitor.family(&HANDSHAKE_FAILURES);
    for listener in listeners {
        let failures = &listener.handshake_failures;
        visit_each("cause", label(listener), failures, visitor);
    }
}

fn visit_pool(snapshot: &StatsSnapshot, visitor: &mut dyn Visitor) {
    let usable = snapshot
        .backends
        .iter()
        .filter(|stats| stats.backend.is_usable());
    for (family, value) in [
        (BACKENDS, Some(snapshot.backends.len() as f64)),
        (USABLE, Some(usable.count() as f64)),
        (STICKY_SKEW, snapshot.sticky_skew),
    ] {
        if let Some(value) = value {
            visitor.family(&family);
            visitor.sample(&[], &Value::Gauge(value));
        }
    }
    for gauge in &snapshot.gauges {
        visitor.family(&Family::gauge(gauge.name, gauge.help));
        visitor.sample(&[], &Value::Gauge(gauge.value));
    }
}

/// Visits the requests by the class of their status. All classes are there, so that a rate has a first
/// value.
pub(super) fn visit_statuses(label: (&str, &str), statuses: &[u64], visitor: &mut dyn Visitor) {
    for (class, number) in CLASSES.iter().zip(statuses) {
        visitor.sample(&[label, ("status", *class)], &Value::Counter(*number));
    }
}

pub(super) fn visit_each(
    name: &str,
    label: (&str, &str),
    numbers: &[(&'static str, u64)],
    visitor: &mut dyn Visitor,
) {
    for (value, number) in numbers {
        visitor.sample(&[label, (name, *value)], &Value::Counter(*number));
    }
}

fn label(listener: &ListenerStats) -> (&'static str, &str) {
    ("listener", &listener.name)
}

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

const BUILD: Family<'_> = Family::info("evenkeel_build", "The version of the library.");
const ACCEPTED: Family<'_> = Family::counter(
    "evenkeel_requests_accepted",
    "Requests that arrived; equals evenkeel_requests_total + evenkeel_requests_in_flight.",
);
const IN_FLIGHT: Family<'_> = Family::gauge(
    "evenkeel_requests_in_flight",
    "Requests that arrived and have not ended.",
);
const REQUESTS: Family<'_> = Family::counter(
    "evenkeel_requests",
    "Requests that ended, by the class of their status.",
);
const OUTCOMES: Family<'_> = Family::counter(
    "evenkeel_request_outcomes",
    "Requests that ended, by how they ended.",
);
const DURATION: Family<'_> = Family::histogram(
    "evenkeel_request_duration_seconds",
    "Time from the arrival of a request to its end; tunnels are left out.",
)
.unit("seconds");
const CONNECTIONS_OPENED: Family<'_> = Family::counter(
    "evenkeel_connections_opened",
    "Connections of clients that were accepted.",
);
const CONNECTIONS_OPEN: Family<'_> = Family::gauge(
    "evenkeel_connections_open",
    "Connections of clients that are open.",
);
const CONNECTION_FAILURES: Family<'_> = Family::counter(
    "evenkeel_connection_failures",
    "Connections that ended without a request, and requests that the server refused.",
);
const HANDSHAKES: Family<'_> = Family::counter(
    "evenkeel_tls_handshakes",
    "TLS handshakes with clients that succeeded.",
);
const HANDSHAKE_FAILURES: Family<'_> = Family::counter(
    "evenkeel_tls_handshake_failures",
    "TLS handshakes with clients that failed, by cause.",
);
const BACKENDS: Family<'_> = Family::gauge("evenkeel_pool_backends", "Backends in the pool.");
const USABLE: Family<'_> = Family::gauge(
    "evenkeel_pool_backends_usable",
    "Backends that new requests can go to.",
);
const STICKY_SKEW: Family<'_> = Family::gauge(
    "evenkeel_sticky_skew",
    "Most requests of sticky sessions at a backend for its weight, over the mean, of the last minute or two.",
);
