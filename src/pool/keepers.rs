//! Who looks after a pool: checks its backends, judges live traffic, and moves on what time
//! brings; and what becomes of what they found when they leave.

use tokio::time::Instant;

use super::{
    Backend, Circuit, EventKind, Health, Pool, Reason, Source, Transition, control::Control,
    state::FULL,
};

impl Pool {
    /// Says that somebody checks the backends: from now on those not measured yet are held until
    /// their first check passes. Undone when the last guard is dropped: what was measured is
    /// unknown then, as nobody would notice that it has changed, and serves.
    pub fn attach_prober(&self) -> ProberGuard {
        ProberGuard {
            _guard: self.attach_keeper(&[Role::Measures, Role::Holds]),
        }
    }

    /// Says that somebody looks after the backends in these ways.
    pub(crate) fn attach_keeper(&self, roles: &'static [Role]) -> KeeperGuard {
        let mut control = self.control();
        let before = control.keepers.probers;
        for role in roles {
            *control.keepers.count(*role) += 1;
        }
        if before == 0 && control.keepers.probers > 0 {
            self.publish_and_tell(control, false);
        }
        KeeperGuard {
            pool: self.clone(),
            roles,
        }
    }

    fn leave(&self, roles: &[Role]) {
        let now = Instant::now();
        let mut control = self.control();
        let mut left = Left::default();
        for role in roles {
            let count = control.keepers.count(*role);
            *count -= 1;
            if *count == 0 {
                if control.closed {
                    continue;
                }
                match role {
                    Role::Holds => left.changed = true,
                    Role::Judges => left.judges = true,
                    Role::Measures => left.measures = true,
                    Role::Ticks => left.changed |= control.end_ramps(),
                }
            }
        }
        let events = control.forget(&mut left, now);
        if !left.changed {
            return;
        }
        log(&left, &events);
        let readmitted = self.publish(&mut control, false);
        drop(control);
        for (backend, kind) in events {
            self.tell(&backend, kind);
        }
        self.tell_readmitted(readmitted);
    }
}

/// In which ways somebody looks after a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Will measure each backend, so that what was not measured yet is held.
    Holds,
    /// Ejects, and lets back in.
    Judges,
    /// Measured the backends, and will again: what is known of them stays, even while a runtime
    /// that ended keeps it from being measured.
    Measures,
    /// Calls [`Pool::tick`].
    Ticks,
}

/// How many do so.
#[derive(Default)]
pub(super) struct Keepers {
    pub(super) probers: usize,
    judges: usize,
    measurers: usize,
    tickers: usize,
}

impl Keepers {
    fn count(&mut self, role: Role) -> &mut usize {
        match role {
            Role::Holds => &mut self.probers,
            Role::Judges => &mut self.judges,
            Role::Measures => &mut self.measurers,
            Role::Ticks => &mut self.tickers,
        }
    }
}

/// The last of whom left.
#[derive(Default)]
struct Left {
    judges: bool,
    measures: bool,
    /// What is known, or who is held, is not what the snapshot was made of.
    changed: bool,
}

impl Control {
    /// Forgets what nobody would notice the end of: what was measured, where nobody measures any
    /// more; ejections, where nobody judges.
    fn forget(&mut self, left: &mut Left, now: Instant) -> Vec<(Backend, EventKind)> {
        let mut events = Vec::new();
        if !left.measures && !left.judges {
            return events;
        }
        for backend in self.members.clone() {
            let state = &backend.joined.state;
            let from = backend.health();
            let offers = (state.capacity(), state.asks_to_drain());
            let is_measured = state.active() != Health::Unknown || offers != (FULL, false);
            let (measured, ejected) = (
                left.measures && is_measured,
                left.judges && backend.is_ejected(),
            );
            if !measured && !ejected {
                continue;
            }
            // Even where combined health stays as it is: of one that is down, an ejection too.
            left.changed = true;
            if measured {
                state.set_active(Health::Unknown);
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
            self.warm_up_after(&backend, from, now);
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
                    previous: state.turn(now),
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
fn log(left: &Left, events: &[(Backend, EventKind)]) {
    let backends = events.len();
    if backends == 0 {
        return;
    }
    match left.measures {
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
    _guard: KeeperGuard,
}

/// While it lives, somebody looks after a pool.
#[derive(Debug)]
#[must_use]
pub(crate) struct KeeperGuard {
    pool: Pool,
    roles: &'static [Role],
}

impl Drop for KeeperGuard {
    fn drop(&mut self) {
        self.pool.leave(self.roles);
    }
}
