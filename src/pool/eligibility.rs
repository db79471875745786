//! One look at all members: who is usable, and what is known of the rest.

use super::{
    Backend, Circuit, HealthStatus, PanicRouting, control::Control, locality::SEGMENTS,
    shares::WeightTotals, snapshot::Members, state::FULL,
};

/// What one look at all members draft.
pub(super) struct Eligibility {
    /// By tier, then by distance.
    pub(super) drafts: Vec<Option<GroupDraft>>,
    pub(super) trials: Vec<Backend>,
    /// Ejected, and usable but for that.
    pub(super) ejected: Vec<Backend>,
    pub(super) usable_by_health: usize,
    pub(super) held: usize,
    /// Of the weight that no operator took out and that is measured: what is usable.
    measured_weight: WeightTotals,
}

/// The backends of one tier at one distance.
pub(super) struct GroupDraft {
    pub(super) tier: u8,
    pub(super) distance: u8,
    pub(super) backends: Vec<Backend>,
    pub(super) positions: Vec<u32>,
    pub(super) weight_totals: WeightTotals,
}

impl GroupDraft {
    fn push(&mut self, position: u32, backend: &Backend) {
        self.backends.push(backend.clone());
        self.positions.push(position);
    }
}

impl Eligibility {
    pub(super) fn of(control: &Control, members: &Members) -> Self {
        let mut eligibility = Self {
            drafts: Vec::new(),
            trials: Vec::new(),
            ejected: Vec::new(),
            usable_by_health: 0,
            held: 0,
            measured_weight: WeightTotals::default(),
        };
        for (position, (backend, &distance)) in members.with_distances() {
            let state = backend.state();
            let locality = backend.configured_locality();
            state.set_evacuated(locality.is_some_and(|locality| control.is_evacuated(locality)));
            let enabled = is_enabled(backend);
            let is_in_service = match backend.health() {
                HealthStatus::Healthy => true,
                HealthStatus::Unhealthy => false,
                HealthStatus::Unknown => control.roles.probers == 0,
            };
            let usable = enabled && is_in_service && !state.asks_to_drain();
            state.set_usable(usable);
            let weight = u64::from(backend.configured_weight());
            let configured_weight = weight * u64::from(FULL);
            let usable_weight = u64::from(usable) * weight * u64::from(state.capacity());
            let draft = eligibility.draft(backend.configured_tier(), distance);
            draft.weight_totals.configured += configured_weight;
            draft.weight_totals.usable += usable_weight;
            if usable {
                draft.push(position, backend);
                eligibility.usable_by_health += 1;
            }
            let held = enabled && backend.health() == HealthStatus::Unknown && !is_in_service;
            eligibility.held += usize::from(held);
            if enabled && !held {
                eligibility.measured_weight.configured += configured_weight;
                eligibility.measured_weight.usable += usable_weight;
            }
            if enabled && is_fit_for_trial(backend, control) {
                match backend.circuit() {
                    Circuit::Closed => continue,
                    Circuit::HalfOpen => eligibility.trials.push(backend.clone()),
                    Circuit::Open => {}
                }
                eligibility.ejected.push(backend.clone());
            }
        }
        eligibility
    }

    fn draft(&mut self, tier: u8, distance: u8) -> &mut GroupDraft {
        let distances = usize::from(SEGMENTS) + 1;
        let at = usize::from(tier) * distances + usize::from(distance);
        if self.drafts.len() <= at {
            self.drafts.resize_with(at + 1, || None);
        }
        self.drafts[at].get_or_insert_with(|| GroupDraft {
            tier,
            distance,
            backends: Vec::new(),
            positions: Vec::new(),
            weight_totals: WeightTotals::default(),
        })
    }

    pub(super) fn is_panic(&self, policy: PanicRouting) -> bool {
        let PanicRouting::UseAll { below } = policy else {
            return false;
        };
        let WeightTotals { usable, configured } = self.measured_weight;
        (usable as f64) < configured as f64 * below
    }

    /// Takes every backend that no operator took out.
    pub(super) fn include_unhealthy(&mut self, members: &Members) {
        for draft in self.drafts.iter_mut().flatten() {
            draft.backends.clear();
            draft.positions.clear();
        }
        for (position, (backend, &distance)) in members.with_distances() {
            if is_enabled(backend) {
                backend.state().set_usable(true);
                let draft = self.draft(backend.configured_tier(), distance);
                draft.push(position, backend);
            }
        }
    }
}

/// Whether nothing but health can keep traffic away.
fn is_enabled(backend: &Backend) -> bool {
    let state = backend.state();
    state.is_ready() && !state.is_evacuated() && backend.configured_weight() > 0
}

/// Whether checks, and the backend itself, have nothing against traffic: a trial is not in vain.
fn is_fit_for_trial(backend: &Backend, control: &Control) -> bool {
    !backend.asks_to_drain()
        && match backend.active_health() {
            HealthStatus::Healthy => true,
            HealthStatus::Unhealthy => false,
            HealthStatus::Unknown => control.roles.probers == 0,
        }
}
