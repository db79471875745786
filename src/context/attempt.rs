//! The tries of one request.

use std::time::Duration;

use tokio::time::Instant;

use crate::{error::ErrorKind, pool::Backend};

/// One try at one backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The backend.
    pub backend: Backend,
    /// When it was begun.
    pub began: Instant,
    /// How long it took, to the last byte; `None` while it runs.
    pub duration: Option<Duration>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Dropped through no fault of the backend: the client's hang-up, a time-out layer above, or
    /// a hedge that was not needed, as the attempt before it answered first. Charged to nobody.
    Cancelled,
    /// Answered, with a status that is tried again elsewhere: the client gets another answer.
    Discarded,
    /// The backend (or the client's body) failed so.
    Failed(ErrorKind),
    /// A hedge that was begun later won against it. Charged to the backend as a failure of the
    /// kind hung.
    Hedged,
    /// A whole response.
    Ok,
}

impl Outcome {
    /// Returns the stable name that stands in logs and metrics.
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

/// Attempts in order: nearly always one, so the first needs no allocation.
#[derive(Default)]
pub(super) enum Attempts {
    Many(Vec<Attempt>),
    #[default]
    None,
    One([Attempt; 1]),
}

impl Attempts {
    pub(super) fn begin(&mut self, backend: Backend) -> usize {
        self.push(Attempt {
            backend,
            // Deadlines and latencies count from here: not from what layers above computed.
            began: Instant::now(),
            duration: None,
            outcome: None,
        })
    }

    fn push(&mut self, attempt: Attempt) -> usize {
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

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Attempt> {
        match self {
            Self::Many(all) => all.get_mut(number),
            Self::None => None,
            Self::One(one) => one.get_mut(number),
        }
    }
}
