//! A pick: the head of a request, and the backends that it must not go to.
//!
//! A `Pick` borrows everything and is made for each search, on the stack. It is where the exclusions
//! of a request are applied: `take` refuses what was tried and what is at its cap. `Lease::acquire`
//! alone knows nothing of the request, so that a strategy must not use it.

use std::net::SocketAddr;

use http::{Extensions, HeaderMap, Method, Request, Uri};

use crate::{
    context::ConnInfo,
    pool::{Backend, Lease, Locality},
};

/// The request that a strategy picks for: its head, and the backends that are out for it.
#[derive(Clone, Debug)]
pub struct Pick<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    tried: &'a [u64],
    away: Option<Away<'a>>,
    thorough: bool,
}

/// Localities to avoid: a backend may share at most this many leading segments with one of them.
///
/// After failures in `a/b/c`, `max_shared` 0 leaves other regions, 1 other zones, 2 other racks. A
/// backend without a locality is near to nothing, and stays.
#[derive(Clone, Copy, Debug)]
struct Away<'a> {
    localities: &'a [Locality],
    max_shared: usize,
}

impl<'a> Pick<'a> {
    /// Makes a pick for a request without attempts, for tests and benches of strategies.
    #[must_use]
    pub fn new<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            tried: &[],
            away: None,
            thorough: false,
        }
    }

    /// Excludes the backends of these incarnations.
    pub(super) fn excluding(mut self, tried: &'a [u64]) -> Self {
        self.tried = tried;
        self
    }

    /// Excludes the backends that share more leading segments than that with one of the localities.
    pub(super) fn away_from(mut self, localities: &'a [Locality], max_shared: usize) -> Self {
        self.away = Some(Away {
            localities,
            max_shared,
        });
        self
    }

    /// Lets [`take_any`](Self::take_any) look at every backend.
    pub(super) fn thorough(mut self) -> Self {
        self.thorough = true;
        self
    }

    /// Returns the request's method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the request's target.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the request's header fields.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the request's extensions.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// Returns the client's address, if it is known.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        ConnInfo::client_of(self.extensions)
    }

    /// Returns true if the request was tried at this backend, or failed twice near it while there may
    /// be others.
    ///
    /// Backends are compared by incarnation and not by id: a backend that was removed and added again
    /// under the same id, by a reload for instance, was not tried. The list has as many entries as the
    /// request had attempts, so that a scan is cheaper than a set.
    #[must_use]
    pub fn excludes(&self, backend: &Backend) -> bool {
        !self.tried.is_empty()
            && (self.tried.contains(&backend.incarnation())
                || self.away.is_some_and(|away| away.is_near(backend)))
    }

    /// Returns true if the backend could be taken now: it was not tried, and is below its cap.
    ///
    /// The answer may be out of date at once, as other requests take slots at the same time: only
    /// [`take`](Self::take) is binding. A strategy may use it to compare backends, as `LeastRequests`
    /// does.
    #[must_use]
    pub fn has_room(&self, backend: &Backend) -> bool {
        !self.excludes(backend)
            && backend
                .configured_max_in_flight()
                .is_none_or(|cap| backend.in_flight() < cap)
    }

    /// Takes a slot of this backend; returns `None` if it was tried already or is at its cap.
    ///
    /// The slot is free again when the [`Lease`] is dropped. Wait-free: it adds one, checks the cap,
    /// and takes the one back if that was too many.
    #[must_use]
    pub fn take(&self, backend: &Backend) -> Option<Lease> {
        if self.excludes(backend) {
            return None;
        }
        Lease::acquire(backend)
    }

    /// Takes a slot of any of these backends: the first with room from a random index on. Looks at 64
    /// at most, or at all for a request that waits in the queue.
    ///
    /// The random beginning spreads what overflows over all others: from a fixed one on, the first
    /// backend with room would take it all. Weights are not considered, so it is the last resort of a
    /// strategy.
    #[must_use]
    pub fn take_any(&self, backends: &[Backend]) -> Option<Lease> {
        let looks = if self.thorough {
            backends.len()
        } else {
            backends.len().min(LOOKS)
        };
        let start = below(fastrand::u32(..), backends.len());
        let (before, after) = backends.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .take(looks)
            .find_map(|backend| self.take(backend))
    }
}

impl Away<'_> {
    fn is_near(&self, backend: &Backend) -> bool {
        let Some(locality) = backend.configured_locality() else {
            return false;
        };
        let mut failed = self.localities.iter();
        failed.any(|failed| failed.shared_segments(locality) > self.max_shared)
    }
}

/// Scales a random number to an index below `len` (Lemire's multiplication, without a division).
///
/// A small bias remains where `len` does not divide 2^32: below 10⁻⁵ for 10,000 backends. Returns 0
/// for a `len` of 0, so that the caller's look-up decides.
pub(super) fn below(random: u32, len: usize) -> usize {
    ((u64::from(random) * len as u64) >> 32) as usize
}

/// How often a strategy draws again if its choice has no room, before it takes any: so the share of a
/// full or tried backend is spread by weight.
pub(super) const DRAWS: usize = 8;
/// Bounds the cost of a pick: if half of the backends are full, 64 looks miss once in 2^64.
const LOOKS: usize = 64;
