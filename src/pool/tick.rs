//! The changes that time brings: steps of slow starts, and deadlines of drains.
//!
//! The pool has no task of its own: it works outside a runtime, and a program may have many. The
//! health layer's task ticks it, and sleeps until the returned moment. A late tick loses nothing, as
//! steps and deadlines are computed from the time and not counted.

use tokio::time::Instant;

use super::{Pool, journal};

impl Pool {
    /// Makes the steps of slow starts that are due, and closes the idle connections of drains whose
    /// deadline has passed. Returns when the next call is due, and `None` if nothing is due before
    /// the pool changes.
    ///
    /// The task of the health layer calls this. A program without that layer calls it in a loop of
    /// its own, after each event of [`subscribe`](Self::subscribe) and at the returned time. Slow
    /// starts begin only after a first call; without one, a backend that recovers gets its whole
    /// share at once.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let mut locked = self.control();
        let control = &mut *locked;
        // From now on a recovery may begin a slow start: something will end it.
        control.has_ticker = true;
        // The usual case: a tick of a quiet pool publishes nothing.
        if control.slow_starts.is_empty() && control.drains.is_empty() {
            return None;
        }
        let changed = control.advance_slow_starts(now);
        let mut ended = Vec::new();
        let mut next = control.next_slow_start_step;
        control.drains.retain(|(backend, until)| {
            if *until <= now {
                journal::drain_ended(backend);
                ended.push(backend.clone());
                return false;
            }
            // The caller sleeps until the first of all steps and deadlines.
            next = Some(next.map_or(*until, |n| n.min(*until)));
            true
        });
        let readmitted = changed.then(|| self.publish(control, false));
        drop(locked);
        // Without the lock: an attachment that is retired may call the pool.
        ended.iter().for_each(|backend| backend.state().retire());
        if let Some(readmitted) = readmitted {
            self.announce_readmissions(readmitted);
        }
        next
    }
}
