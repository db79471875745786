//! Who looks after a pool: checks its backends, judges live traffic, and moves on what time
//! brings; and what becomes of what they found when they leave.

use tokio::time::Instant;

use super::{
    Backend, Circuit, EventKind, HealthStatus, Pool, Reason, Source, Transition, control::Control,
    state::FULL,
};

impl Pool {
    /// Says that somebody checks the backends: from now on those not measured yet are held until
    /// their first check passes. Undone when the last guard is dropped: what was measured is
    /// unknown then, as nobody would notice that it has changed, and serves.
    pub fn attach_prober(&self) -> ProberGuard {
        ProberGuard {
            _guard: self.attach_roles(&[Role::HealthOwner, Role::Prober]),
        }
    }

    /// Says that somebody looks after the backends in these ways.
    pub(crate) fn attach_roles(&self, roles: &'static [Role]) -> RoleGuard {
        let mut control = self.control();
        let before = control.roles.probers;
        for role in roles {
            *control.roles.count(*role) += 1;
        }
        if before == 0 && control.roles.probers > 0 {
            self.publish_and_notify(control, false);
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
            if *count == 0 {
                if control.closed {
                    continue;
                }
                match role {
                    Role::Prober => vacated.changed = true,
                    Role::OutlierDetector => vacated.outlier_detector = true,
                    Role::HealthOwner => vacated.health_owner = true,
                    Role::Ticker => vacated.changed |= control.end_slow_starts(),
                }
            }
        }
        let events = control.forget(&mut vacated, now);
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

/// In which ways somebody looks after a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Will measure each backend, so that what was not measured yet is held.
    Prober,
    /// Ejects, and lets back in.
    OutlierDetector,
    /// Measured the backends, and will again: what is known of them stays, even while a runtime
    /// that ended keeps it from being measured.
    HealthOwner,
    /// Calls [`Pool::tick`].
    Ticker,
}

/// How many do so.
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

/// The last of whom vacated.
#[derive(Default)]
struct Vacated {
    outlier_detector: bool,
    health_owner: bool,
    /// What is known, or who is held, is not what the snapshot was made of.
    changed: bool,
}

impl Control {
    /// Forgets what nobody would notice the end of: what was measured, where nobody measures any
    /// more; ejections, where nobody judges.
    fn forget(&mut self, vacated: &mut Vacated, now: Instant) -> Vec<(Backend, EventKind)> {
        let mut events = Vec::new();
        if !vacated.health_owner && !vacated.outlier_detector {
            return events;
        }
        for backend in self.members.clone() {
            let state = backend.state();
            let from = backend.health();
            let offers = (state.capacity(), state.asks_to_drain());
            let is_measured = state.active() != HealthStatus::Unknown || offers != (FULL, false);
            let (measured, ejected) = (
                vacated.health_owner && is_measured,
                vacated.outlier_detector && backend.is_ejected(),
            );
            if !measured && !ejected {
                continue;
            }
            // Even where combined health stays as it is: of one that is down, an ejection too.
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
            let (source, reason) = match measured {
                true => (Source::Active, Reason::new("UNK", "active checks stopped")),
                false => (
                    Source::Passive,
                    Reason::new("TIME", "outlier detection stopped"),
                ),
            };
            let to = backend.health();
            self.update_slow_start(&backend, from, now);
            let (flaps, flapping) = state.flaps();
            let capacity = backend.capacity();
            let kind = match from == to {
                true if !measured => continue,
                true => EventKind::Capacity {
                    capacity,
                    draining: false,
                    reason,
                },
                false => EventKind::Health(Transition {
                    from,
                    to,
                    source,
                    reason,
                    streak: 0,
                    latency: None,
                    status: None,
                    previous: state.begin_health_period(now),
                    flaps,
                    flapping,
                    capacity,
                }),
            };
            events.push((backend, kind));
        }
        events
    }
}

/// One line for all: many layers end together.
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

/// While it lives, backends that were not measured yet are held; see [`Pool::attach_prober`].
#[derive(Debug)]
#[must_use]
pub struct ProberGuard {
    _guard: RoleGuard,
}

/// While it lives, somebody looks after a pool.
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
