//! What is known of the backends' health, to be kept over a restart.

use super::{
    Backend, HealthStatus, Pool, Reason, Source, routing::thousandths, state::FULL,
    transition::Cause,
};

/// What is known of the health of a pool's backends, fit to be stored (serde under the feature
/// `serde`) and given to the pool of the next process: see [`Pool::restore_health`].
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HealthSnapshot {
    /// One for each member that was measured.
    pub backends: Vec<BackendHealth>,
}

/// What is known of one backend's health.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackendHealth {
    /// Its id.
    pub id: String,
    /// Where it is dialled: what was measured holds for no other address.
    pub address: String,
    /// Whether it serves, checks and live traffic combined.
    pub healthy: bool,
    /// For how many milliseconds it has been so.
    pub for_ms: u64,
    /// How much of itself it offers.
    pub capacity: f64,
    /// Whether it asks to be drained.
    pub draining: bool,
    /// How often health changed lately.
    pub flaps: u32,
}

impl Pool {
    /// Returns what is known of the backends' health. Those not measured yet are left out.
    #[must_use]
    pub fn health_snapshot(&self) -> HealthSnapshot {
        let snapshot = self.snapshot();
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

    /// Takes over what an earlier process knew, before checks begin: members that were down stay
    /// down until checks pass, those that were up serve from the start. Only what was not
    /// measured since is taken over, by id and address; nothing turns a backend that is down into
    /// one that is up (invariant A). Returns how many backends it was taken over for.
    ///
    /// Without active checks a backend that is restored as down stays so.
    pub fn restore_health(&self, known: &HealthSnapshot) -> usize {
        let mut restored = 0;
        for record in &known.backends {
            let mut control = self.control();
            let Some(member) = self.snapshot().get(&record.id).cloned() else {
                continue;
            };
            let state = member.state();
            let measured = state.active() != HealthStatus::Unknown || member.is_ejected();
            if measured || address(&member) != record.address {
                continue;
            }
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
            let change = self.publish_change(&mut control, &member, from, cause);
            drop(control);
            self.announce_change(&member, change);
            restored += 1;
        }
        restored
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
