//! Session affinity: the backend that a request should go to, and what became of it.

use crate::pool::Backend;

/// The backend that a request should go to, if it can.
#[derive(Clone, Debug)]
pub struct Affinity {
    /// That backend.
    pub backend: Backend,
}

/// What binds a pick; see [`Exchange::pick_constraints`].
#[derive(Debug, Default)]
pub(crate) struct PickConstraints {
    /// What became of the backend asked for; `None` without an affinity.
    pub(crate) affinity: Option<AffinityState>,
    /// The incarnations of the backends tried; no allocation where there was no attempt.
    pub(crate) tried: Vec<u64>,
}

/// The backend that an affinity asks for, as a pick sees it.
#[derive(Debug)]
pub(crate) enum AffinityState {
    /// An attempt at it is under way.
    Running,
    /// An attempt at it is over: it will not be tried again.
    Tried,
    /// It was not tried.
    Untried(Backend),
}

/// What became of stickiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickyVerdict {
    /// The cookie's backend cannot take the request; another was picked.
    Down,
    /// The cookie's backend drains and kept its session.
    Draining,
    /// A cookie is there, but none of its tokens is of this pool.
    Invalid,
    /// No cookie.
    None,
    /// The cookie's backend is at its cap; another was picked.
    OverCapacity,
    /// The cookie's backend got the request.
    Valid,
}

impl StickyVerdict {
    /// Returns the stable name that stands in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Invalid => "invalid",
            Self::None => "none",
            Self::OverCapacity => "over_capacity",
            Self::Valid => "valid",
        }
    }
}
