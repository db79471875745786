//! What checks measured and the pool does not show yet: results that come together are shown
//! together, as each snapshot is made of all members.

use std::time::Duration;

use tokio::time::Instant;

use super::{Driver, FEW};
use crate::pool::{Backend, Measurement};

/// Results on their way to the pool.
#[derive(Default)]
pub(super) struct Results {
    waiting: Vec<(Backend, Measurement)>,
    /// When the last were shown.
    shown: Option<Instant>,
}

impl Results {
    pub(super) fn add(&mut self, backend: Backend, measured: Measurement) {
        self.waiting.push((backend, measured));
    }

    /// Returns when they are to be shown: at once, but for those that follow others closely.
    pub(super) fn due(&self, members: usize) -> Option<Instant> {
        let now = self.waiting.first().map(|_| self.shown);
        now.map(|shown| match shown {
            Some(shown) if members > FEW && self.waiting.len() < MANY => shown + pause(members),
            Some(shown) => shown,
            None => Instant::now(),
        })
    }
}

impl Driver {
    /// Shows what is due; returns true if there was something.
    pub(super) fn publish_due(&mut self, now: Instant) -> bool {
        let due = self.results.due(self.members.len());
        let is_due = due.is_some_and(|due| due <= now);
        if is_due {
            self.results.shown = Some(now);
            self.publish_results();
        }
        is_due
    }

    /// Shows what there is: before whatever reads or changes the pool otherwise.
    pub(super) fn publish_results(&mut self) {
        if !self.results.waiting.is_empty() {
            let results = std::mem::take(&mut self.results.waiting);
            self.core.pool.measure_all(results);
        }
    }
}

/// A snapshot costs up to half a microsecond for each member: so that results, at whatever
/// moments they come, cost a twentieth of a core at the most.
fn pause(members: usize) -> Duration {
    PAUSE * u32::try_from(members).unwrap_or(u32::MAX)
}

/// For each member.
const PAUSE: Duration = Duration::from_micros(10);
/// So many are shown at once: half of what is kept for a subscriber who is slow.
const MANY: usize = 512;
