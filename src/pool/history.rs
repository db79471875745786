//! What a member remembers for those that look at it: its last check and its latest changes.
//!
//! Only the control path writes here, and only a status page or another onlooker reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::{Backend, EventKind, Reason};

/// The last active check of a backend, whether or not it changed anything.
///
/// A check that failed for a reason of this machine, such as a lack of file descriptors, says nothing
/// about the backend and is not recorded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LastCheck {
    /// When the check ended.
    pub at: Instant,
    /// Whether it passed. The rise and fall thresholds decide what follows from it.
    pub passed: bool,
    /// The code of the result, and a detail for people.
    pub reason: Reason,
    /// How long the check took.
    pub took: Duration,
    /// The HTTP status, if there was an HTTP response.
    pub status: Option<StatusCode>,
}

/// A change of a backend in the past.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PastEvent {
    /// When it happened.
    pub at: Instant,
    /// What changed.
    pub kind: EventKind,
}

/// One lock for both, held for a copy. Nothing is read on the path of a request.
#[derive(Default)]
pub(super) struct History {
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    last_check: Option<LastCheck>,
    /// The oldest first.
    events: VecDeque<PastEvent>,
    /// How often an operator ordered a weight.
    weight_orders: u32,
}

impl History {
    /// Remembers a change, in place of the oldest if there are too many.
    pub(super) fn remember(&self, kind: &EventKind) {
        // Capacity may change with each check, and a circuit with each trial: they would crowd out
        // the changes that an operator looks for.
        if matches!(kind, EventKind::Capacity { .. } | EventKind::Circuit { .. }) {
            return;
        }
        // The clock is read here: an event itself has no time, as its receivers get it at once.
        let event = PastEvent {
            at: Instant::now(),
            kind: kind.clone(),
        };
        let mut remembered = self.remembered();
        if remembered.events.len() == EVENTS_REMEMBERED {
            remembered.events.pop_front();
        }
        remembered.events.push_back(event);
    }

    /// Counts an order of a weight: unlike a mode, a weight is no evidence of one, as the configuration
    /// sets it as well.
    pub(super) fn count_weight_order(&self) {
        let mut remembered = self.remembered();
        remembered.weight_orders = remembered.weight_orders.wrapping_add(1);
    }

    /// Forgets the last check: the address is another one.
    pub(super) fn forget_check(&self) {
        self.remembered().last_check = None;
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the member remembers of its past.
impl Backend {
    /// Returns the last active check; `None` if there was none since the backend joined or since its
    /// address changed. Takes a lock, and copies the text of the reason.
    #[must_use]
    pub fn last_check(&self) -> Option<LastCheck> {
        self.state().history.remembered().last_check.clone()
    }

    /// Returns the latest changes of the backend, up to 16, the oldest first. Changes of capacity and
    /// of a circuit under trial are not among them. Takes a lock, and copies the texts of the reasons.
    #[must_use]
    pub fn past_events(&self) -> Vec<PastEvent> {
        let remembered = self.state().history.remembered();
        remembered.events.iter().cloned().collect()
    }

    /// Returns how often an operator ordered a weight, by
    /// [`Pool::update_weight`](super::Pool::update_weight).
    pub(crate) fn weight_orders(&self) -> u32 {
        self.state().history.remembered().weight_orders
    }

    /// Takes over the result of an active check.
    pub(crate) fn record_check(&self, check: LastCheck) {
        self.state().history.remembered().last_check = Some(check);
    }
}

/// Shows a night of trouble of one backend, at about 150 bytes each.
const EVENTS_REMEMBERED: usize = 16;
