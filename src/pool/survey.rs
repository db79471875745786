//! One look at all members: who is usable, and what is known of the rest.

use super::{
    Backend, Circuit, Health, PanicRouting, control::Control, locality::SEGMENTS, shares::Standing,
    snapshot::Members, state::FULL,
};

/// What one look at all members found.
pub(super) struct Survey {
    /// By tier, then by distance.
    pub(super) places: Vec<Option<Found>>,
    pub(super) trials: Vec<Backend>,
    /// Ejected, and usable but for that.
    pub(super) ejected: Vec<Backend>,
    pub(super) sound: usize,
    pub(super) held: usize,
    /// Of the weight that no operator took out and that is measured: what is usable.
    measured: Standing,
}

/// The backends of one tier at one distance.
pub(super) struct Found {
    pub(super) tier: u8,
    pub(super) distance: u8,
    pub(super) backends: Vec<Backend>,
    pub(super) positions: Vec<u32>,
    pub(super) standing: Standing,
}

impl Found {
    fn push(&mut self, position: u32, backend: &Backend) {
        self.backends.push(backend.clone());
        self.positions.push(position);
    }
}

impl Survey {
    pub(super) fn of(control: &Control, members: &Members) -> Self {
        let mut survey = Self {
            places: Vec::new(),
            trials: Vec::new(),
            ejected: Vec::new(),
            sound: 0,
            held: 0,
            measured: Standing::default(),
        };
        for (position, (backend, &distance)) in members.placed() {
            let state = &backend.joined.state;
            let place = backend.configured_locality();
            state.set_evacuated(place.is_some_and(|place| control.is_evacuated(place)));
            let wanted = is_wanted(backend);
            let serves = match backend.health() {
                Health::Healthy => true,
                Health::Unhealthy => false,
                Health::Unknown => control.keepers.probers == 0,
            };
            let usable = wanted && serves && !state.asks_to_drain();
            state.set_usable(usable);
            let weight = u64::from(backend.configured_weight());
            let configured = weight * u64::from(FULL);
            let offered = u64::from(usable) * weight * u64::from(state.capacity());
            let found = survey.place(backend.configured_tier(), distance);
            found.standing.configured += configured;
            found.standing.usable += offered;
            if usable {
                found.push(position, backend);
                survey.sound += 1;
            }
            let held = wanted && backend.health() == Health::Unknown && !serves;
            survey.held += usize::from(held);
            if wanted && !held {
                survey.measured.configured += configured;
                survey.measured.usable += offered;
            }
            if wanted && would_serve(backend, control) {
                match backend.circuit() {
                    Circuit::Closed => continue,
                    Circuit::HalfOpen => survey.trials.push(backend.clone()),
                    Circuit::Open => {}
                }
                survey.ejected.push(backend.clone());
            }
        }
        survey
    }

    fn place(&mut self, tier: u8, distance: u8) -> &mut Found {
        let distances = usize::from(SEGMENTS) + 1;
        let at = usize::from(tier) * distances + usize::from(distance);
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || None);
        }
        self.places[at].get_or_insert_with(|| Found {
            tier,
            distance,
            backends: Vec::new(),
            positions: Vec::new(),
            standing: Standing::default(),
        })
    }

    pub(super) fn panics(&self, policy: PanicRouting) -> bool {
        let PanicRouting::UseAll { below } = policy else {
            return false;
        };
        let Standing { usable, configured } = self.measured;
        (usable as f64) < configured as f64 * below
    }

    /// Takes every backend that no operator took out.
    pub(super) fn take_all(&mut self, members: &Members) {
        for found in self.places.iter_mut().flatten() {
            found.backends.clear();
            found.positions.clear();
        }
        for (position, (backend, &distance)) in members.placed() {
            if is_wanted(backend) {
                backend.joined.state.set_usable(true);
                let found = self.place(backend.configured_tier(), distance);
                found.push(position, backend);
            }
        }
    }
}

/// Whether nothing but health can keep traffic away.
fn is_wanted(backend: &Backend) -> bool {
    let state = &backend.joined.state;
    state.is_ready() && !state.is_evacuated() && backend.configured_weight() > 0
}

/// Whether checks, and the backend itself, have nothing against traffic: a trial is not in vain.
fn would_serve(backend: &Backend, control: &Control) -> bool {
    !backend.asks_to_drain()
        && match backend.active_health() {
            Health::Healthy => true,
            Health::Unhealthy => false,
            Health::Unknown => control.keepers.probers == 0,
        }
}
