//! The series of backends.

use super::{
    series::{visit_each, visit_statuses},
    visitor::{Family, Value, Visitor},
};
use crate::stats::BackendStats;

pub(super) fn visit(backends: &[BackendStats], visitor: &mut dyn Visitor) {
    let mut pass = Pass { backends, visitor };
    pass.requests();
    pass.connections();
    pass.state();
    pass.health();
    pass.sessions();
}

/// A pass over all backends for each family, as the formats want the samples of a family together.
struct Pass<'a> {
    backends: &'a [BackendStats],
    visitor: &'a mut dyn Visitor,
}

impl Pass<'_> {
    fn requests(&mut self) {
        self.each(&REQUESTS, |stats, visitor| {
            visit_statuses(label(stats), &stats.statuses, visitor);
        });
        self.each(&OUTCOMES, |stats, visitor| {
            visit_each("outcome", label(stats), &stats.outcomes, visitor);
        });
        self.each(&ATTEMPTS, |stats, visitor| {
            visit_each("outcome", label(stats), &stats.attempts, visitor);
        });
        self.counter(&RETRIES, |stats| stats.retries);
        self.counter(&HEDGES, |stats| stats.hedges);
        self.each(&DURATION, |stats, visitor| {
            visitor.sample(&[label(stats)], &Value::Histogram(&stats.duration));
        });
        self.each(&TIME_TO_FIRST_BYTE, |stats, visitor| {
            let histogram = Value::Histogram(&stats.time_to_first_byte);
            visitor.sample(&[label(stats)], &histogram);
        });
    }

    fn connections(&mut self) {
        self.counter(&CONNECTIONS_OPENED, |stats| stats.connections.opened);
        self.gauge(&CONNECTIONS_OPEN, |stats| stats.connections.open as f64);
        self.gauge(&CONNECTIONS_IDLE, |stats| stats.connections.idle as f64);
    }

    fn state(&mut self) {
        self.gauge(&IN_FLIGHT, |stats| f64::from(stats.backend.in_flight()));
        self.gauge(&UP, |stats| number(stats.backend.is_usable()));
        self.gauge(&WEIGHT, |stats| {
            f64::from(stats.backend.configured_weight())
        });
        self.gauge(&CAPACITY, |stats| stats.backend.capacity());
        self.states("mode", &MODE, &MODES, |stats| stats.backend.mode().as_str());
    }

    fn health(&mut self) {
        self.states("health", &HEALTH, &HEALTHS, |stats| {
            stats.backend.health().as_str()
        });
        self.states("circuit", &CIRCUIT, &CIRCUITS, |stats| {
            stats.backend.circuit().as_str()
        });
        self.gauge(&FLAPPING, |stats| number(stats.backend.is_flapping()));
        self.counter(&TRANSITIONS, |stats| stats.transitions);
        self.counter(&EJECTIONS, |stats| stats.ejections);
        self.each(&CHECKS, |stats, visitor| {
            let (passed, failed) = (stats.checks.passed, stats.checks.failed);
            visit_each(
                "result",
                label(stats),
                &[("passed", passed), ("failed", failed)],
                visitor,
            );
        });
        self.each(&CHECK_DURATION, |stats, visitor| {
            let checks = &stats.checks;
            let (count, sum) = (checks.passed + checks.failed, checks.duration);
            visitor.sample(&[label(stats)], &Value::Summary { count, sum });
        });
    }

    fn sessions(&mut self) {
        self.each(&STICKY_REQUESTS, |stats, visitor| {
            for (verdict, number) in &stats.sticky {
                let labels = [label(stats), ("verdict", verdict.as_str())];
                visitor.sample(&labels, &Value::Counter(*number));
            }
        });
        self.counter(&STICKY_SESSIONS, |stats| stats.sessions);
    }

    fn each(&mut self, family: &Family<'_>, visit: impl Fn(&BackendStats, &mut dyn Visitor)) {
        self.visitor.family(family);
        self.backends
            .iter()
            .for_each(|stats| visit(stats, self.visitor));
    }

    fn counter(&mut self, family: &Family<'_>, read: impl Fn(&BackendStats) -> u64) {
        self.each(family, |stats, visitor| {
            visitor.sample(&[label(stats)], &Value::Counter(read(stats)));
        });
    }

    fn gauge(&mut self, family: &Family<'_>, read: impl Fn(&BackendStats) -> f64) {
        self.each(family, |stats, visitor| {
            visitor.sample(&[label(stats)], &Value::Gauge(read(stats)));
        });
    }

    /// Visits a gauge for each state: 1 for the present one, 0 for the others.
    fn states(
        &mut self,
        name: &str,
        family: &Family<'_>,
        states: &[&str],
        read: impl Fn(&BackendStats) -> &'static str,
    ) {
        self.each(family, |stats, visitor| {
            let present = read(stats);
            for state in states {
                let is_it = Value::Gauge(number(*state == present));
                visitor.sample(&[label(stats), (name, *state)], &is_it);
            }
        });
    }
}

fn label(stats: &BackendStats) -> (&'static str, &str) {
    ("backend", stats.backend.id())
}

fn number(is: bool) -> f64 {
    f64::from(u8::from(is))
}

const HEALTHS: [&str; 3] = ["healthy", "unhealthy", "unknown"];
const CIRCUITS: [&str; 3] = ["closed", "half_open", "open"];
const MODES: [&str; 3] = ["draining", "maintenance", "ready"];

const REQUESTS: Family<'_> = Family::counter(
    "evenkeel_backend_requests",
    "Requests that ended at the backend, by the class of their status.",
);
const OUTCOMES: Family<'_> = Family::counter(
    "evenkeel_backend_request_outcomes",
    "Requests that ended at the backend, by how they ended.",
);
const ATTEMPTS: Family<'_> = Family::counter(
    "evenkeel_backend_attempts",
    "Attempts at the backend that ended, by how they ended.",
);
const RETRIES: Family<'_> = Family::counter(
    "evenkeel_backend_retries",
    "Attempts at the backend that began after another attempt had ended.",
);
const HEDGES: Family<'_> = Family::counter(
    "evenkeel_backend_hedges",
    "Attempts at the backend that began while another attempt ran.",
);
const DURATION: Family<'_> = Family::histogram(
    "evenkeel_backend_request_duration_seconds",
    "Time from the beginning of the attempt to the end of the request; tunnels are left out.",
)
.unit("seconds");
const TIME_TO_FIRST_BYTE: Family<'_> = Family::histogram(
    "evenkeel_backend_time_to_first_byte_seconds",
    "Time from the beginning of the attempt to the head of the response.",
)
.unit("seconds");
const CONNECTIONS_OPENED: Family<'_> = Family::counter(
    "evenkeel_backend_connections_opened",
    "Connections made to the backend, without those of checks.",
);
const CONNECTIONS_OPEN: Family<'_> = Family::gauge(
    "evenkeel_backend_connections_open",
    "Connections to the backend that are open.",
);
const CONNECTIONS_IDLE: Family<'_> = Family::gauge(
    "evenkeel_backend_connections_idle",
    "Open HTTP/1.1 connections to the backend that carry no request.",
);
const IN_FLIGHT: Family<'_> = Family::gauge(
    "evenkeel_backend_requests_in_flight",
    "Attempts at the backend that have not ended.",
);
const UP: Family<'_> = Family::gauge(
    "evenkeel_backend_usable",
    "1 if new requests can go to the backend, else 0.",
);
const WEIGHT: Family<'_> = Family::gauge(
    "evenkeel_backend_weight",
    "The configured weight of the backend.",
);
const CAPACITY: Family<'_> = Family::gauge(
    "evenkeel_backend_capacity_ratio",
    "The capacity that checks measured: 1 in full, less while the backend is degraded.",
);
const MODE: Family<'_> = Family::gauge(
    "evenkeel_backend_mode",
    "1 for the mode that an operator ordered, 0 for the others.",
);
const HEALTH: Family<'_> = Family::gauge(
    "evenkeel_backend_health",
    "1 for the measured health of the backend, 0 for the others.",
);
const CIRCUIT: Family<'_> = Family::gauge(
    "evenkeel_backend_circuit",
    "1 for the state of the circuit that outlier detection opens and closes, 0 for the others.",
);
const FLAPPING: Family<'_> = Family::gauge(
    "evenkeel_backend_flapping",
    "1 while the health of the backend changes so often that checks damp it, else 0.",
);
const TRANSITIONS: Family<'_> = Family::counter(
    "evenkeel_backend_health_transitions",
    "Changes of the measured health of the backend.",
);
const EJECTIONS: Family<'_> = Family::counter(
    "evenkeel_backend_ejections",
    "Times that outlier detection took the backend out of service.",
);
const CHECKS: Family<'_> = Family::counter(
    "evenkeel_backend_checks",
    "Active checks of the backend, by their result.",
);
const CHECK_DURATION: Family<'_> = Family::summary(
    "evenkeel_backend_check_duration_seconds",
    "Time that active checks of the backend took.",
)
.unit("seconds");
const STICKY_REQUESTS: Family<'_> = Family::counter(
    "evenkeel_backend_sticky_requests",
    "Requests at the backend, by what became of their sticky cookie.",
);
const STICKY_SESSIONS: Family<'_> = Family::counter(
    "evenkeel_backend_sticky_sessions",
    "Sticky sessions that began at the backend, or moved to it.",
);
