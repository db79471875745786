//! The roles that layers and tasks hold for a pool, and what the pool resets when the last holder of
//! a role leaves.
//!
//! A health status stays true only as long as checks go on. When they stop, for example because a
//! reload removed their settings, no event would ever correct it, so the pool resets it: health
//! becomes unknown, and ejections end.
//!
//! | role | held by | when its last holder leaves |
//! |---|---|---|
//! | prober | the task that checks | unknown backends are no longer held |
//! | health owner | the layer that starts such tasks | all measured health becomes unknown |
//! | outlier detector | the layer that ejects | all ejections end |
//! | ticker | the task that calls `Pool::tick` | slow starts end with their whole share |
//!
//! Prober and health owner are two roles because a runtime may end under a layer that lives on: the
//! layer starts another prober at its next call, and what was measured should not be forgotten in
//! between (`measured_health_outlives_a_task_but_not_its_owner`). A pool that was closed
//! ([`Pool::close`]) resets nothing.

use tokio::time::Instant;

use super::{
    Backend, Circuit, EventKind, HealthStatus, Pool, Reason, Source,
    control::Control,
    state::{FULL, State},
    transition::Cause,
};

impl Pool {
    /// Declares that active checks run for this pool. While a guard lives, a backend that was not
    /// checked yet is held: it gets no traffic until its first check passes. When the last guard is
    /// dropped, all health that checks measured becomes unknown, and backends of unknown health
    /// serve.
    ///
    /// [`HealthLayer`](crate::health::HealthLayer) and [`Prober`](crate::health::Prober) do this for
    /// their checks; call it for checks of your own, which report with
    /// [`measure`](Self::measure).
    pub fn attach_prober(&self) -> ProberGuard {
        ProberGuard {
            _guard: self.attach_roles(&[Role::HealthOwner, Role::Prober]),
        }
    }

    /// Holds these roles until the guard is dropped.
    pub(crate) fn attach_roles(&self, roles: &'static [Role]) -> RoleGuard {
        let mut control = self.control();
        let before = control.roles.probers;
        for role in roles {
            *control.roles.count(*role) += 1;
        }
        // From now on unknown members are held, which the snapshot must show. Other roles change
        // nothing yet.
        if before == 0 && control.roles.probers > 0 {
            self.publish_and_announce(control, false);
        }
        RoleGuard {
            pool: self.clone(),
            roles,
        }
    }

    fn detach(&self, roles: &[Role]) {
        let now = Instant::now();
        let mut control = self.control();
        let mut vacated = Vacated::default();
        for role in roles {
            let count = control.roles.count(*role);
            *count -= 1;
            // The holders of one pool may be layers of several stacks: what the last one leaves, no
            // other keeps up to date.
            if *count == 0 && !control.closed {
                match role {
                    Role::Prober => vacated.changed = true,
                    Role::OutlierDetector => vacated.outlier_detector = true,
                    Role::HealthOwner => vacated.health_owner = true,
                    Role::Ticker => vacated.changed |= control.end_slow_starts(),
                }
            }
        }
        let events = control.reset_health(&mut vacated, now);
        if !vacated.changed {
            return;
        }
        log(&vacated, &events);
        let readmitted = self.publish(&mut control, false);
        drop(control);
        for (backend, kind) in events {
            self.emit(&backend, kind);
        }
        self.announce_readmissions(readmitted);
    }
}

/// What a layer or a task does for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It checks each backend, so that a backend without a result is held.
    Prober,
    /// It ejects and readmits backends.
    OutlierDetector,
    /// It owns the measured health, which stays as long as it lives: a layer whose prober's runtime
    /// ended starts another one.
    HealthOwner,
    /// It calls [`Pool::tick`].
    Ticker,
}

/// How many hold each role.
#[derive(Default)]
pub(super) struct RoleCounts {
    pub(super) probers: usize,
    outlier_detectors: usize,
    health_owners: usize,
    tickers: usize,
}

impl RoleCounts {
    fn count(&mut self, role: Role) -> &mut usize {
        match role {
            Role::Prober => &mut self.probers,
            Role::OutlierDetector => &mut self.outlier_detectors,
            Role::HealthOwner => &mut self.health_owners,
            Role::Ticker => &mut self.tickers,
        }
    }
}

/// The roles that lost their last holder.
///
/// `changed` decides whether a snapshot is published at all: a layer that never measured anything
/// leaves without a trace.
#[derive(Default)]
struct Vacated {
    outlier_detector: bool,
    health_owner: bool,
    /// The current snapshot no longer shows the state of the members.
    changed: bool,
}

impl Control {
    /// Resets what only the vacated roles kept up to date: measured health and ejections. Returns
    /// the events.
    fn reset_health(&mut self, vacated: &mut Vacated, now: Instant) -> Vec<(Backend, EventKind)> {
        let mut events = Vec::new();
        if !vacated.health_owner && !vacated.outlier_detector {
            return events;
        }
        // A copy of the handles: `update_slow_start` needs the whole of `self`.
        for backend in self.members.clone() {
            let state = backend.state();
            let from = backend.health();
            let measured = vacated.health_owner && is_measured(state);
            let ejected = vacated.outlier_detector && backend.is_ejected();
            if !measured && !ejected {
                continue;
            }
            // Even if combined health stays as it is: the end of an ejection must show, too.
            vacated.changed = true;
            if measured {
                state.set_active(HealthStatus::Unknown);
                state.set_capacity(FULL);
                state.set_asks_to_drain(false);
                state.set_flaps(0, false);
            }
            if ejected {
                state.set_circuit(Circuit::Closed);
            }
            self.update_slow_start(&backend, from, now);
            // If both roles end at once, as they do with one health layer, the event names the checks:
            // their measurement is the one that operators know.
            let (source, code, detail) = match measured {
                true => (Source::Active, "UNK", "active checks stopped"),
                false => (Source::Passive, "TIME", "outlier detection stopped"),
            };
            let reason = Reason::new(code, detail);
            let kind = match from == backend.health() {
                true if !measured => None,
                true => Some(EventKind::Capacity {
                    capacity: backend.capacity(),
                    draining: false,
                    reason,
                }),
                false => Cause::new(source, reason)
                    .transition(&backend, from, now)
                    .map(EventKind::Health),
            };
            events.extend(kind.map(|kind| (backend, kind)));
        }
        events
    }
}

/// Returns true if an active check has written to this state.
fn is_measured(state: &State) -> bool {
    state.active() != HealthStatus::Unknown || state.capacity() != FULL || state.asks_to_drain()
}

/// Writes one line for all backends: the layers of a program often end together.
fn log(vacated: &Vacated, events: &[(Backend, EventKind)]) {
    let backends = events.len();
    if backends == 0 {
        return;
    }
    match vacated.health_owner {
        true => tracing::info!(
            target: "evenkeel::pool",
            backends, "health is unknown: active checks stopped"
        ),
        false => tracing::info!(
            target: "evenkeel::pool",
            backends, "ejections end: outlier detection stopped"
        ),
    }
}

/// While this guard lives, backends that were not checked yet are held; see
/// [`Pool::attach_prober`].
#[derive(Debug)]
#[must_use]
pub struct ProberGuard {
    _guard: RoleGuard,
}

/// Holds [roles](Role) for a pool until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct RoleGuard {
    pool: Pool,
    roles: &'static [Role],
}

impl Drop for RoleGuard {
    fn drop(&mut self) {
        self.pool.detach(self.roles);
    }
}
