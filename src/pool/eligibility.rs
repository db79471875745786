//! Which members may get traffic, computed from their state without a write to it.
//!
//! The control path computes an [`Eligibility`] for each snapshot, writes its flags to the members
//! and builds the groups from its drafts.
//!
//! What decides about one member, in this order:
//!
//! | condition | new requests | sessions | counted as |
//! |---|---|---|---|
//! | draining | no | until the deadline, unless unhealthy | draining |
//! | maintenance, evacuated, weight 0 | no | weight 0 only | maintenance |
//! | unknown while checks run | held | no | unchecked |
//! | asks to be drained | no | yes | draining |
//! | unhealthy, or its circuit not closed | no | no | unhealthy |
//! | else | yes | yes | |
//!
//! The column of sessions is [`Backend::keeps_sessions`], which reads the live state and not the
//! snapshot. Panic mode overrides the last three refusals, never the first two: an operator's order
//! stands. `panic_routing_is_opt_in_and_excludes_backends_that_an_operator_took_out` holds that.
//!
//! The computation writes nothing, so that `publish` can run it again after readmissions.

use super::{
    Backend, Circuit, Excluded, HealthStatus, Mode, PanicRouting, control::Control,
    locality::SEGMENTS, shares::WeightTotals, snapshot::Members, state::FULL,
};

/// Which members may get traffic, and the groups that they form.
#[derive(Default)]
pub(super) struct Eligibility {
    /// Of each member, in the members' order.
    pub(super) flags: Vec<MemberFlags>,
    /// At [`draft_index`] of a tier and a distance.
    drafts: Vec<Option<GroupDraft>>,
    /// Half-open backends that nothing but their circuit keeps out.
    pub(super) trials: Vec<Backend>,
    /// Ejected backends that nothing but their circuit keeps out, half-open ones included.
    ejected: Vec<Backend>,
    /// How many members are usable without panic routing.
    pub(super) usable_by_health: usize,
    /// How many members wait for their first check.
    pub(super) held: usize,
    /// Too few members are usable, and [`PanicRouting::UseAll`] is in force.
    pub(super) in_panic_mode: bool,
    /// How many members are not usable, and why.
    pub(super) excluded: Excluded,
    /// Of the members that are enabled and not held.
    measured_weight: WeightTotals,
}

/// What a snapshot decides about one member.
#[derive(Clone, Copy)]
pub(super) struct MemberFlags {
    /// New requests may be sent to it.
    pub(super) usable: bool,
    /// Its locality is evacuated.
    pub(super) evacuated: bool,
}

/// The usable backends of one tier at one distance, and the weights of all its members.
pub(super) struct GroupDraft {
    pub(super) tier: u8,
    pub(super) distance: u8,
    pub(super) backends: Vec<Backend>,
    /// Of the backends among all members.
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
        let mut eligibility = Self::default();
        for (position, (backend, &distance)) in members.with_distances() {
            eligibility.add(control, position, backend, distance);
        }
        eligibility.in_panic_mode = eligibility.is_panic(control.routing.panic);
        if eligibility.in_panic_mode {
            eligibility.include_unhealthy(members);
        }
        eligibility
    }

    /// Returns the ejected backends to readmit: all of them where no other member is usable.
    pub(super) fn to_readmit(&self) -> &[Backend] {
        match self.usable_by_health {
            0 => &self.ejected,
            _ => &[],
        }
    }

    /// Takes the drafts, the preferred first: by tier, then by distance.
    pub(super) fn take_drafts(&mut self) -> Vec<GroupDraft> {
        std::mem::take(&mut self.drafts)
            .into_iter()
            .flatten()
            .collect()
    }

    fn add(&mut self, control: &Control, position: u32, backend: &Backend, distance: u8) {
        let locality = backend.configured_locality();
        let evacuated = locality.is_some_and(|locality| control.is_evacuated(locality));
        let enabled = is_enabled(backend, evacuated);
        let is_in_service = control.is_in_service(backend.health());
        let usable = enabled && is_in_service && !backend.asks_to_drain();
        self.flags.push(MemberFlags { usable, evacuated });

        let weight = u64::from(backend.configured_weight());
        let configured_weight = weight * u64::from(FULL);
        // Slow start is left out: a tier whose backends just came back would otherwise overflow to the
        // next, and return in twenty steps.
        let usable_weight = u64::from(usable) * weight * u64::from(backend.state().capacity());
        let draft = self.draft(backend.configured_tier(), distance);
        draft.weight_totals.configured += configured_weight;
        draft.weight_totals.usable += usable_weight;
        if usable {
            draft.push(position, backend);
            self.usable_by_health += 1;
        }

        let held = enabled && backend.health() == HealthStatus::Unknown && !is_in_service;
        self.held += usize::from(held);
        if !usable {
            self.count_excluded(backend, enabled, held);
        }
        // Backends that wait for their first check say nothing yet: a pool at process start must not
        // begin with panic mode.
        if enabled && !held {
            self.measured_weight.configured += configured_weight;
            self.measured_weight.usable += usable_weight;
        }

        // Without the circuit: it asks whether the backend could serve if it were readmitted. One
        // whose checks fail is no candidate (`a_backend_that_could_not_serve_is_not_readmitted`).
        let is_fit = !backend.asks_to_drain() && control.is_in_service(backend.active_health());
        if enabled && is_fit && backend.is_ejected() {
            if backend.circuit() == Circuit::HalfOpen {
                self.trials.push(backend.clone());
            }
            self.ejected.push(backend.clone());
        }
    }

    fn count_excluded(&mut self, backend: &Backend, enabled: bool, held: bool) {
        let Excluded {
            maintenance,
            draining,
            unhealthy,
            unchecked,
            ..
        } = &mut self.excluded;
        let count = match backend.mode() {
            Mode::Draining { .. } => draining,
            Mode::Maintenance | Mode::Ready if !enabled => maintenance,
            _ if held => unchecked,
            _ if backend.asks_to_drain() => draining,
            _ => unhealthy,
        };
        *count = count.saturating_add(1);
    }

    fn draft(&mut self, tier: u8, distance: u8) -> &mut GroupDraft {
        let index = draft_index(tier, distance);
        if self.drafts.len() <= index {
            self.drafts.resize_with(index + 1, || None);
        }
        self.drafts[index].get_or_insert_with(|| GroupDraft {
            tier,
            distance,
            backends: Vec::new(),
            positions: Vec::new(),
            weight_totals: WeightTotals::default(),
        })
    }

    fn is_panic(&self, policy: PanicRouting) -> bool {
        let PanicRouting::UseAll { below } = policy else {
            return false;
        };
        let WeightTotals { usable, configured } = self.measured_weight;
        (usable as f64) < configured as f64 * below
    }

    /// Makes every enabled member usable, whatever its health.
    fn include_unhealthy(&mut self, members: &Members) {
        for draft in self.drafts.iter_mut().flatten() {
            // Rebuilt from nothing, so that members keep their order; the totals of weights stay.
            draft.backends.clear();
            draft.positions.clear();
        }
        // Health excludes no member any more: only what an operator ordered is counted below.
        self.excluded = Excluded::default();
        for (position, (backend, &distance)) in members.with_distances() {
            let flags = &mut self.flags[position as usize];
            if is_enabled(backend, flags.evacuated) {
                flags.usable = true;
                let draft = self.draft(backend.configured_tier(), distance);
                draft.push(position, backend);
            } else {
                self.count_excluded(backend, false, false);
            }
        }
    }
}

impl Control {
    /// Returns true if a backend of this health serves. While checks run, a backend that was not
    /// checked yet is held.
    fn is_in_service(&self, health: HealthStatus) -> bool {
        match health {
            HealthStatus::Healthy => true,
            HealthStatus::Unhealthy => false,
            HealthStatus::Unknown => self.roles.probers == 0,
        }
    }
}

/// Returns true if neither an operator nor a weight of 0 keeps traffic away.
fn is_enabled(backend: &Backend, evacuated: bool) -> bool {
    backend.state().is_ready() && !evacuated && backend.configured_weight() > 0
}

/// Tiers and distances are small numbers, so that a sorted order costs an index and no sort.
fn draft_index(tier: u8, distance: u8) -> usize {
    let distances = usize::from(SEGMENTS) + 1;
    usize::from(tier) * distances + usize::from(distance)
}
