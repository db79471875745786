//! What checks measured and the pool does not show yet: results that come together are shown
//! together, as each snapshot is made of all members.
//!
//! A snapshot is rebuilt as a whole: for 10,000 members, up to 5 ms. Checks of a large pool end one
//! after the other, and a snapshot for each would use a core. So results wait for 10 µs a member
//! after the last snapshot (0.1 s for 10,000), or until 512 are there; a pool of up to 64 shows
//! each at once.
//!
//! Order is kept: whatever else changes the pool or reads what was measured publishes first
//! (`publish_results`), so subscribers see the measurement before the readmission that follows from
//! it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Driver, SMALL_POOL};
use crate::pool::{Backend, Measurement};

/// Results on their way to the pool.
#[derive(Default)]
pub(super) struct PublishQueue {
    waiting: Vec<(Backend, Measurement)>,
    /// When the last were shown.
    ///
    /// `None` before the first: it is never put off.
    shown: Option<Instant>,
}

impl PublishQueue {
    pub(super) fn add(&mut self, backend: Backend, measured: Measurement) {
        self.waiting.push((backend, measured));
    }

    /// Returns until when they are put off; `None` where nothing waits or nothing keeps it.
    pub(super) fn deferred_until(&self, members: usize) -> Option<Instant> {
        let puts_off =
            !self.waiting.is_empty() && self.waiting.len() < MANY && members > SMALL_POOL;
        self.shown
            .filter(|_| puts_off)
            .map(|shown| shown + pause(members))
    }
}

impl Driver {
    /// Shows what there is, but for what follows others closely; returns true if there was
    /// something.
    pub(super) fn publish_due(&mut self, now: Instant) -> bool {
        let until = self.publish_queue.deferred_until(self.members.len());
        if self.publish_queue.waiting.is_empty() || until.is_some_and(|until| now < until) {
            return false;
        }
        self.publish_queue.shown = Some(now);
        self.publish_results();
        true
    }

    /// Shows what there is: before whatever reads or changes the pool otherwise.
    pub(super) fn publish_results(&mut self) {
        if !self.publish_queue.waiting.is_empty() {
            // In the order in which they came: two results of one backend must not change places.
            let results = std::mem::take(&mut self.publish_queue.waiting);
            self.state.pool.measure_all(results);
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
/// So many results are published at once: half of the events that are kept for a slow subscriber.
const MANY: usize = 512;
