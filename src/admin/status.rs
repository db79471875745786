//! The state of the pool as a report: what `/status.json` and the page show.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    certificates::CertificateReport,
    change::{Change, changes},
    event_stream::Parts,
    samples::{Rates, Samples},
    time::{Clocks, Moment},
};
use crate::{
    pool::{
        Backend, Circuit, EventKind, HealthStatus, LastCheck, Mode, PastEvent, Reason, Snapshot,
        Source,
    },
    stats::CertificateRegistry,
};

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) time: Moment,
    pub(super) name: String,
    /// Orders are accepted, given the credentials.
    pub(super) writable: bool,
    pub(super) pool: PoolStatus,
    pub(super) backends: Vec<BackendStatus>,
    /// Of all backends, the latest first.
    pub(super) changes: Vec<Change>,
    /// Live updates have them apart, as they seldom change.
    #[serde(skip)]
    pub(super) certificates: CertificateReport,
}

/// The report with all its parts.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    status: &'a Status,
    #[serde(flatten)]
    certificates: &'a CertificateReport,
}

#[derive(Debug, Serialize)]
pub(super) struct PoolStatus {
    pub(super) backends: usize,
    pub(super) usable: usize,
    pub(super) held: usize,
    pub(super) panic_mode: bool,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    #[serde(flatten)]
    pub(super) rates: RatesStatus,
    pub(super) sticky_skew: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct RatesStatus {
    pub(super) window_seconds: f64,
    pub(super) requests_per_second: f64,
    pub(super) error_share: Option<f64>,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct BackendStatus {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) tier: u8,
    pub(super) locality: Option<String>,
    pub(super) usable: bool,
    pub(super) state: State,
    pub(super) health: &'static str,
    pub(super) since: Moment,
    pub(super) reason: Option<ReasonStatus>,
    pub(super) circuit: &'static str,
    pub(super) flapping: bool,
    pub(super) flaps: u32,
    pub(super) capacity: f64,
    pub(super) asks_to_drain: bool,
    pub(super) evacuated: bool,
    pub(super) last_check: Option<CheckStatus>,
    pub(super) mode: &'static str,
    /// When the drain ends.
    pub(super) deadline: Option<Moment>,
    pub(super) weight: u32,
    pub(super) weight_in_force: f64,
    /// The share of new requests that the backend gets now.
    pub(super) share: f64,
    pub(super) in_flight: u32,
    pub(super) max_in_flight: Option<u32>,
    pub(super) requests: u64,
    #[serde(flatten)]
    pub(super) rates: RatesStatus,
    /// What the points of `latency_ms` are the latency of: `requests` or `checks`.
    pub(super) latency_of: &'static str,
    pub(super) latency_ms: Vec<Option<f32>>,
    pub(super) sessions: Option<u64>,
    pub(super) session_share: Option<f64>,
    pub(super) ejections: u64,
}

/// The state of a backend in one word; of several that hold, the one that an operator has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Degraded,
    Down,
    Draining,
    Ejected,
    Evacuated,
    Flapping,
    Maintenance,
    /// Held until the first check.
    Unchecked,
    Up,
    /// The weight is 0.
    Weightless,
}

#[derive(Debug, Serialize)]
pub(super) struct ReasonStatus {
    pub(super) code: &'static str,
    pub(super) detail: String,
    /// What measured it: `checks` or `traffic`.
    pub(super) source: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct CheckStatus {
    pub(super) time: Moment,
    pub(super) passed: bool,
    pub(super) code: &'static str,
    pub(super) detail: String,
    pub(super) status: Option<u16>,
    pub(super) ms: f64,
}

/// What a report is made of.
pub(super) struct Sources<'a> {
    pub(super) name: &'a str,
    pub(super) writable: bool,
    pub(super) snapshot: &'a Snapshot,
    pub(super) samples: &'a Samples,
    /// The sticky sessions that began, by incarnation; empty if they are not counted.
    pub(super) sessions: &'a HashMap<u64, u64>,
    pub(super) sticky_skew: Option<f64>,
    pub(super) is_measured: bool,
    pub(super) certificates: Option<&'a CertificateRegistry>,
}

impl Status {
    pub(super) fn collect(source: &Sources<'_>) -> Self {
        let clocks = Clocks::read();
        let members = source.snapshot.backends();
        let shares = shares(source.snapshot);
        let session_total: u64 = source.sessions.values().sum();
        let certificates = source.certificates;
        let certificates = certificates.map(|all| CertificateReport::collect(all, &clocks));
        let mut all = Rates::default();
        let mut backends = Vec::with_capacity(members.len());
        for (backend, (weight_in_force, share)) in members.iter().zip(shares) {
            let rates = source.samples.rates(backend.incarnation());
            all.add(&rates);
            let sessions = source.sessions.get(&backend.incarnation()).copied();
            let mut status = BackendStatus::of(backend, &clocks);
            status.weight_in_force = weight_in_force;
            status.share = share;
            status.rates = RatesStatus::of(&rates);
            status.latency_of = if source.is_measured {
                "requests"
            } else {
                "checks"
            };
            status.latency_ms = source.samples.line(backend.incarnation());
            status.sessions = sessions;
            status.session_share = sessions
                .filter(|_| session_total > 0)
                .map(|number| rounded(number as f64 / session_total as f64));
            backends.push(status);
        }
        Self {
            time: clocks.present(),
            name: source.name.to_owned(),
            writable: source.writable,
            pool: PoolStatus {
                backends: members.len(),
                usable: source.snapshot.usable(),
                held: source.snapshot.held(),
                panic_mode: source.snapshot.in_panic_mode(),
                in_flight: members.iter().map(|b| u64::from(b.in_flight())).sum(),
                requests: members.iter().map(Backend::requests).sum(),
                rates: RatesStatus::of(&all),
                sticky_skew: source.sticky_skew.map(rounded),
            },
            backends,
            changes: changes(members, &clocks),
            certificates: certificates.unwrap_or_default(),
        }
    }

    /// Returns the whole report as one line of JSON.
    pub(super) fn json(&self) -> String {
        let whole = Whole {
            status: self,
            certificates: &self.certificates,
        };
        serde_json::to_string(&whole).unwrap_or_default()
    }

    /// Returns the parts of a live update.
    pub(super) fn parts(&self) -> Parts {
        Parts {
            status: serde_json::to_string(self).unwrap_or_default(),
            certificates: serde_json::to_string(&self.certificates).unwrap_or_default(),
        }
    }
}

impl RatesStatus {
    fn of(rates: &Rates) -> Self {
        let millis = |share| {
            rates
                .quantile(share)
                .map(|d| rounded(d.as_secs_f64() * 1_000.0))
        };
        Self {
            window_seconds: rounded(rates.window.as_secs_f64()),
            requests_per_second: rounded(rates.per_second()),
            error_share: rates.error_share().map(rounded),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
        }
    }
}

impl BackendStatus {
    /// Reports what the handle shows; the rest is empty.
    pub(super) fn of(backend: &Backend, clocks: &Clocks) -> Self {
        let mode = backend.mode();
        Self {
            id: backend.id().to_owned(),
            address: address(backend),
            tier: backend.configured_tier(),
            locality: backend.configured_locality().map(ToString::to_string),
            usable: backend.is_usable(),
            state: State::of(backend),
            health: backend.health().as_str(),
            since: clocks.moment(clocks.now - backend.in_state_for()),
            reason: last_reason(&backend.past_events()),
            circuit: backend.circuit().as_str(),
            flapping: backend.is_flapping(),
            flaps: backend.flaps(),
            capacity: backend.capacity(),
            asks_to_drain: backend.asks_to_drain(),
            evacuated: backend.is_evacuated(),
            last_check: backend
                .last_check()
                .map(|check| CheckStatus::of(check, clocks)),
            mode: mode.as_str(),
            deadline: match mode {
                Mode::Draining { until } => Some(clocks.moment(until)),
                Mode::Maintenance | Mode::Ready => None,
            },
            weight: backend.configured_weight(),
            weight_in_force: 0.0,
            share: 0.0,
            in_flight: backend.in_flight(),
            max_in_flight: backend.configured_max_in_flight(),
            requests: backend.requests(),
            rates: RatesStatus::of(&Rates::default()),
            latency_of: "checks",
            latency_ms: Vec::new(),
            sessions: None,
            session_share: None,
            ejections: backend.ejections(),
        }
    }
}

impl State {
    fn of(backend: &Backend) -> Self {
        match backend.mode() {
            Mode::Maintenance => return Self::Maintenance,
            Mode::Draining { .. } => return Self::Draining,
            Mode::Ready => {}
        }
        if backend.is_evacuated() {
            Self::Evacuated
        } else if backend.circuit() != Circuit::Closed {
            Self::Ejected
        } else if backend.health() == HealthStatus::Unhealthy {
            Self::Down
        } else if backend.asks_to_drain() {
            Self::Draining
        } else if backend.configured_weight() == 0 {
            Self::Weightless
        } else if !backend.is_usable() {
            Self::Unchecked
        } else if backend.is_flapping() {
            Self::Flapping
        } else if backend.capacity() < 1.0 {
            Self::Degraded
        } else {
            Self::Up
        }
    }
}

impl ReasonStatus {
    pub(super) fn of(reason: &Reason, source: Source) -> Self {
        Self {
            code: reason.code,
            detail: reason.detail.clone().into_owned(),
            source: match source {
                Source::Active => "checks",
                Source::Passive => "traffic",
            },
        }
    }
}

impl CheckStatus {
    fn of(check: LastCheck, clocks: &Clocks) -> Self {
        Self {
            time: clocks.moment(check.at),
            passed: check.passed,
            code: check.reason.code,
            detail: check.reason.detail.into_owned(),
            status: check.status.map(|status| status.as_u16()),
            ms: rounded(check.took.as_secs_f64() * 1_000.0),
        }
    }
}

/// Returns each member's weight in force and its share of new requests, in the members' order.
fn shares(snapshot: &Snapshot) -> Vec<(f64, f64)> {
    let mut all = vec![(0.0, 0.0); snapshot.backends().len()];
    for (group, share) in snapshot.groups().iter().zip(snapshot.shares()) {
        let total: u64 = group
            .weights()
            .iter()
            .map(|&weight| u64::from(weight))
            .sum();
        for (&position, &weight) in group.positions().iter().zip(group.weights()) {
            let of_group = f64::from(weight) / (total.max(1) as f64);
            if let Some(slot) = usize::try_from(position)
                .ok()
                .and_then(|at| all.get_mut(at))
            {
                let share = f64::from(*share) / SHARE_PARTS * of_group;
                *slot = (f64::from(weight) / WEIGHT_PARTS, rounded(share));
            }
        }
    }
    all
}

/// Returns why health is as it is: the reason of its last change.
fn last_reason(events: &[PastEvent]) -> Option<ReasonStatus> {
    events.iter().rev().find_map(|event| match &event.kind {
        EventKind::Health(change) => Some(ReasonStatus::of(&change.reason, change.source)),
        _ => None,
    })
}

fn address(backend: &Backend) -> String {
    let (scheme, path) = (backend.scheme().as_str(), backend.base_path());
    match backend.configured_unix_socket() {
        Some(_) => format!("{scheme}+unix:{}{path}", backend.shown_address()),
        None => format!("{scheme}://{}{path}", backend.shown_address()),
    }
}

/// Rounds to four decimals: a ten-thousandth of a share, a tenth of a microsecond.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The whole of `Snapshot::shares`.
const SHARE_PARTS: f64 = 10_000.0;
/// A weight of 1 in `Group::weights`.
const WEIGHT_PARTS: f64 = 1_000.0;
