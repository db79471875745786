//! The oracle's records of one membership.

use super::*;

impl Member {
    pub(super) fn new(backend: Backend, spec: Spec, next_by: Option<u64>) -> Self {
        Self {
            backend,
            spec,
            present: true,
            mode: Mode::Ready,
            seen: HealthStatus::Unknown,
            passes: 0,
            failures: 0,
            cancelled: 0,
            epoch: 0,
            readdressed: false,
            moves: Vec::new(),
            demanded: None,
            running: None,
            next_by,
            ejected: false,
            charged: 0,
            tried: false,
            outrun: 0,
            hung_up: 0,
            ejection_demanded: None,
            refused: None,
            suspect: None,
        }
    }

    pub(super) fn leave(&mut self) {
        self.present = false;
        self.start_over();
        self.next_by = None;
        self.ejection_demanded = None;
    }

    /// What is on its way says nothing any more.
    pub(super) fn start_over(&mut self) {
        self.epoch += 1;
        self.passes = 0;
        self.failures = 0;
        // It will be dropped, now or soon.
        self.cancelled += u32::from(self.running.is_some());
        self.demanded = None;
        self.running = None;
    }

    pub(super) fn readdress(&mut self, due: Option<u64>) {
        self.start_over();
        self.readdressed = true;
        self.next_by = due;
    }

    pub(super) fn forgive(&mut self) {
        self.charged = 0;
        self.outrun = 0;
        self.hung_up = 0;
        self.ejection_demanded = None;
    }

    /// Whether it may be held down for going up and down: four times in two minutes.
    pub(super) fn flaps(&self, at: u64) -> bool {
        self.moves.iter().filter(|then| at - **then < 120_000).count() >= 4
            // Once it flaps it does until it was up for as long as that.
            || self.moves.len() >= 4
    }

    /// Says which invariant a change breaks for which the books hold no reason.
    pub(super) fn unaccounted(
        &self,
        to: HealthStatus,
        rules: &Settings,
        ordering: bool,
        forgotten: bool,
    ) -> Option<Invariant> {
        let from = self.seen;
        match to {
            HealthStatus::Unhealthy if self.failures >= rules.fall => None,
            HealthStatus::Unhealthy if self.failures + self.cancelled >= rules.fall => {
                Some(Invariant::C)
            }
            HealthStatus::Unhealthy => Some(Invariant::B),
            HealthStatus::Unknown if forgotten => None,
            HealthStatus::Unknown if from == HealthStatus::Healthy && self.readdressed => None,
            HealthStatus::Unknown if from == HealthStatus::Healthy && ordering => None,
            HealthStatus::Unknown => Some(Invariant::A),
            HealthStatus::Healthy if ordering => Some(Invariant::A),
            HealthStatus::Healthy if self.passes == 0 => Some(Invariant::A),
            HealthStatus::Healthy if from == HealthStatus::Unknown => None,
            HealthStatus::Healthy if self.passes >= rules.rise => None,
            HealthStatus::Healthy => Some(Invariant::B),
        }
    }
}
