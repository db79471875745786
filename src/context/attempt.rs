//! `Attempt`: one try of a request at one backend, and how it ended.
//!
//! States of an attempt:
//!
//! ```text
//! begin ─▶ running (outcome `None`) ─▶ Ok ─▶ Discarded
//!                                   ├▶ Discarded  a held response gave way to a better one
//!                                   ├▶ Failed(kind)
//!                                   ├▶ Hedged     a later attempt answered first
//!                                   └▶ Cancelled  dropped without another outcome
//! ```
//!
//! The first outcome stays, with the one exception that the arrow shows. `duration` is set with the
//! outcome, by the clock at that moment.

use std::time::Duration;

use tokio::time::Instant;

use super::phases::{PhaseMarks, PhaseMicros, Phases};
use crate::{error::ErrorKind, pool::Backend};

/// One try of a request at one backend; see [`Exchange::attempts`](super::Exchange::attempts).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The backend that was tried.
    pub backend: Backend,
    /// The time at which the attempt began.
    pub began: Instant,
    /// The time from its beginning to the last byte of the response; `None` while it runs.
    pub duration: Option<Duration>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
    /// Why it failed, in words of at most 256 bytes: the causes of the error. `None` if it did not fail,
    /// and if no layer [asked](super::Exchange::want_details) for details.
    pub detail: Option<Box<str>>,
    pub(super) marks: PhaseMarks,
}

impl Attempt {
    /// Makes an attempt that runs.
    pub(crate) fn begun(backend: Backend, began: Instant) -> Self {
        Self {
            backend,
            began,
            duration: None,
            outcome: None,
            detail: None,
            marks: PhaseMarks::NONE,
        }
    }

    /// Sets the first three phases, for tests of what shows them.
    #[cfg(test)]
    pub(crate) fn set_phases(&mut self, connect: Duration, tls: Duration, head: Duration) {
        self.marks.set_dial(connect, Some(tls));
        self.marks.set_head(connect + tls + head);
    }

    /// Returns where its time went.
    #[must_use]
    pub fn phases(&self) -> Phases {
        self.phase_micros().into()
    }

    /// Does what [`phases`](Self::phases) does, without divisions.
    #[inline]
    pub(crate) fn phase_micros(&self) -> PhaseMicros {
        self.marks.of(self.duration)
    }

    /// Ends the attempt now, at the head of a response without a body.
    pub(super) fn end_at_head(&mut self) {
        // One reading of the clock for both: the head is the end.
        self.end(Outcome::Ok, None);
        self.marks.set_head(self.duration.unwrap_or_default());
    }

    /// Ends the attempt now. `head` is the time from its beginning to the response's head, where it is
    /// known.
    ///
    /// The head may be later than the end for a moment, when another thread records it: then the end
    /// counts.
    pub(super) fn end(&mut self, outcome: Outcome, head: Option<Duration>) {
        let duration = Instant::now().saturating_duration_since(self.began);
        self.outcome = Some(outcome);
        self.duration = Some(duration);
        if let Some(head) = head {
            self.marks.set_head(head.min(duration));
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The attempt was dropped through no fault of the backend: the client hung up, a time-out layer
    /// above gave the request up, or it was a hedge and the earlier attempt answered first. Neither
    /// health nor a retry budget counts it.
    Cancelled,
    /// The backend answered with a status that is retried at another backend. The client gets that
    /// one's response.
    Discarded,
    /// The attempt failed with an error of this kind.
    Failed(ErrorKind),
    /// A hedge that began later answered first. Outlier detection counts it as a hung request.
    Hedged,
    /// The backend sent a whole response.
    Ok,
}

impl Outcome {
    /// Returns the name in logs and metrics. It does not change between versions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Discarded => "discarded",
            Self::Failed(kind) => kind.as_str(),
            Self::Hedged => "hedged",
            Self::Ok => "ok",
        }
    }
}

/// The attempts of one request in the order in which they began. Nearly all requests have one, so
/// the first needs no allocation.
#[derive(Default)]
pub(super) enum Attempts {
    Many(Vec<Attempt>),
    #[default]
    None,
    One([Attempt; 1]),
}

impl Attempts {
    pub(super) fn begin(&mut self, backend: Backend) -> usize {
        // Read here, not passed in: deadlines and latencies must not count the time that layers above
        // spent.
        self.push(Attempt::begun(backend, Instant::now()))
    }

    fn push(&mut self, attempt: Attempt) -> usize {
        // The second attempt moves the first into a list; both keep their numbers.
        match std::mem::take(self) {
            Self::None => {
                *self = Self::One([attempt]);
                0
            }
            Self::One([first]) => {
                *self = Self::Many(vec![first, attempt]);
                1
            }
            Self::Many(mut all) => {
                all.push(attempt);
                let number = all.len() - 1;
                *self = Self::Many(all);
                number
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[Attempt] {
        match self {
            Self::Many(all) => all,
            Self::None => &[],
            Self::One(one) => one,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Attempt] {
        match self {
            Self::Many(all) => all,
            Self::None => &mut [],
            Self::One(one) => one,
        }
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Attempt> {
        self.as_mut_slice().get_mut(number)
    }
}
