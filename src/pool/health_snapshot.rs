//! The health of a pool's backends in a form that can be stored and restored after a restart.
//!
//! The address is stored as text, with the scheme, so that a record of a backend that moved while the
//! balancer was down is not believed: the id alone would carry "healthy" to a machine that was never
//! checked.
//!
//! Each record is published by itself, with the lock free in between: restoring happens once, before
//! checks begin, so that the cost of many snapshots is paid once.

use std::sync::MutexGuard;

use super::{
    Backend, HealthStatus, Pool, Reason, Source, control::Control, routing::thousandths,
    state::FULL, transition::Cause,
};

/// The measured health of a pool's backends, to be stored and given to the pool of the next process
/// with [`Pool::restore_health`].
///
/// Without it, a restarted balancer holds every backend until its first check, or sends traffic to
/// backends that the process before knew to be down. With the feature `serde` it can be serialized.
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, Pool, pool::{HealthStatus, Measurement, Reason}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let backend = || Backend::new("a", "http://127.0.0.1:9001");
/// let before = Pool::new([backend()?])?;
/// let member = before.snapshot().backends()[0].clone();
/// before.measure(&member, Measurement::new(HealthStatus::Unhealthy, Reason::new("L4CON", "")));
/// let stored = before.health_snapshot();
///
/// let after = Pool::new([backend()?])?;
/// assert_eq!(after.restore_health(&stored), 1);
/// assert_eq!(after.snapshot().backends()[0].health(), HealthStatus::Unhealthy);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HealthSnapshot {
    /// One record for each member whose health is not unknown.
    pub backends: Vec<BackendHealth>,
}

/// The measured health of one backend.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackendHealth {
    /// The backend's id.
    pub id: String,
    /// The endpoint of its connections. The record is not restored for another endpoint.
    pub address: String,
    /// Whether it was healthy, checks and outlier detection combined.
    pub healthy: bool,
    /// How long it had been so, in milliseconds.
    pub for_ms: u64,
    /// Its capacity, 1.0 in full.
    pub capacity: f64,
    /// Whether it asked to be drained.
    pub draining: bool,
    /// How often its health changed within the flap window.
    pub flaps: u32,
}

impl Pool {
    /// Returns the measured health of the backends, without those whose health is unknown.
    #[must_use]
    pub fn health_snapshot(&self) -> HealthSnapshot {
        let snapshot = self.snapshot();
        // Unknown health is what a new process has anyhow.
        let known = snapshot.backends().iter().filter_map(|backend| {
            let healthy = match backend.health() {
                HealthStatus::Healthy => true,
                HealthStatus::Unhealthy => false,
                HealthStatus::Unknown => return None,
            };
            Some(BackendHealth {
                id: backend.id().to_owned(),
                address: address(backend),
                healthy,
                for_ms: u64::try_from(backend.in_state_for().as_millis()).unwrap_or(u64::MAX),
                capacity: backend.capacity(),
                draining: backend.asks_to_drain(),
                flaps: backend.flaps(),
            })
        });
        HealthSnapshot {
            backends: known.collect(),
        }
    }

    /// Takes over the health that an earlier process measured; call it before checks begin. A member
    /// that was unhealthy stays out of service until a check passes, and one that was healthy serves
    /// from the start. A record is taken over only for a member of the same id and endpoint that was
    /// not measured since, so that it never turns an unhealthy member healthy (invariant A). Returns
    /// the number of records that were taken over.
    ///
    /// Without active checks, no check ever corrects a member that is restored as unhealthy.
    pub fn restore_health(&self, known: &HealthSnapshot) -> usize {
        let mut restored = 0;
        for record in &known.backends {
            let control = self.control();
            let Some(member) = self.snapshot().get(&record.id).cloned() else {
                continue;
            };
            let state = member.state();
            // A check that came first knows more than a file. This also holds invariant A: a record
            // never turns an unhealthy member healthy.
            let measured = state.active() != HealthStatus::Unknown || member.is_ejected();
            if measured || address(&member) != record.address {
                continue;
            }
            self.write_record(control, &member, record);
            restored += 1;
        }
        restored
    }

    /// Takes over what the earlier process measured after the snapshot that was
    /// [restored](Self::restore_health): members that it found unhealthy since leave service until a
    /// check passes, unless the latest check of this process passed. It turns no unhealthy member
    /// healthy (invariant A). Returns the number of members that changed.
    pub fn restore_failures(&self, known: &HealthSnapshot) -> usize {
        let mut changed = 0;
        for record in known.backends.iter().filter(|record| !record.healthy) {
            let control = self.control();
            let Some(member) = self.snapshot().get(&record.id).cloned() else {
                continue;
            };
            let checked = member.last_check().is_some_and(|check| check.passed);
            let is_down = member.state().active() == HealthStatus::Unhealthy;
            if checked || is_down || address(&member) != record.address {
                continue;
            }
            self.write_record(control, &member, record);
            changed += 1;
        }
        changed
    }

    fn write_record(
        &self,
        mut control: MutexGuard<'_, Control>,
        member: &Backend,
        record: &BackendHealth,
    ) {
        let state = member.state();
        let from = member.health();
        state.set_active(match record.healthy {
            true => HealthStatus::Healthy,
            false => HealthStatus::Unhealthy,
        });
        state.set_flaps(record.flaps, false);
        state.set_capacity(thousandths(record.capacity).min(FULL));
        state.set_asks_to_drain(record.draining);
        let reason = Reason::new("INI", "restored from a health snapshot");
        let cause = Cause::new(Source::Active, reason);
        // With an event, like any other change: a subscriber that counts backends sees restored ones,
        // too.
        let change = self.publish_change(&mut control, member, from, cause);
        drop(control);
        self.announce_change(member, change);
    }
}

fn address(backend: &Backend) -> String {
    let scheme = backend.scheme().as_str();
    let dialled = backend.shown_address();
    match backend.configured_unix_socket() {
        Some(_) => format!("{scheme}+unix:{dialled}"),
        None => format!("{scheme}://{dialled}"),
    }
}
