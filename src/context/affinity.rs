//! Session affinity: the backend that a sticky cookie names, and what the balancer did with it.
//!
//! Three parties: sticky writes the [`Affinity`], balance reads it with the constraints of a pick and
//! settles the verdict, sticky reads the verdict to decide about the cookie. None of them knows the
//! others.

use crate::pool::Backend;

/// The backend that a request should go to if that backend can take it.
///
/// It is a wish: the balancer decides. A handle of a backend that was removed since, or that belongs
/// to another pool, is passed over.
#[derive(Clone, Debug)]
pub struct Affinity {
    /// The backend.
    pub backend: Backend,
}

/// What restricts a pick; see `Exchange::pick_constraints`.
#[derive(Debug, Default)]
pub(crate) struct PickConstraints {
    /// The state of the backend that the affinity names; `None` without an affinity.
    pub(crate) affinity: Option<AffinityState>,
    /// The incarnations of the backends tried. Empty, and so not allocated, before the first attempt.
    pub(crate) tried: Vec<u64>,
}

/// The backend that an affinity asks for, as a pick sees it.
#[derive(Debug)]
pub(crate) enum AffinityState {
    /// An attempt at it runs.
    Running,
    /// An attempt at it has ended: a pick leaves it out.
    Tried,
    /// No attempt at it was made.
    Untried(Backend),
}

/// What the balancer did with the affinity of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickyVerdict {
    /// The cookie's backend cannot take requests; the balancer picked another.
    Down,
    /// The cookie's backend is draining; it got the request, as sessions stay until the drain ends.
    Draining,
    /// The request has a cookie, but no token in it names a backend of this pool.
    Invalid,
    /// The request has no cookie.
    None,
    /// The cookie's backend is at its in-flight cap; the balancer picked another.
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
