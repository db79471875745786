//! What a strategy is, and what it is told.

use std::{fmt, net::SocketAddr, time::Duration};

use http::{Extensions, HeaderMap, Method, Request, StatusCode, Uri};

use crate::{
    context::ConnInfo,
    error::ErrorKind,
    pool::{Backend, Group, Lease, Locality, Pool, Snapshot},
};

/// Decides which backend a request goes to.
///
/// A pick is synchronous and on every request's path: it reads the snapshot and the tables that
/// it hung there in [`attach`](Self::attach), takes no lock and does not scan all backends.
pub trait Strategy: fmt::Debug + Send + Sync + 'static {
    /// Returns the stable name that stands in logs and metrics.
    fn name(&self) -> &'static str;

    /// Joins the strategy to the pool that it will pick from: the place to
    /// [`derive`](Pool::derive_groups) tables. Called once, before the first pick.
    ///
    /// The default does nothing.
    fn attach(&mut self, pool: &Pool) {
        let _ = pool;
    }

    /// Takes a slot of a backend of this group, or `None` when it finds none that
    /// [has room](Pick::has_room). `number` is the group's place in the snapshot, the key of its
    /// tables.
    ///
    /// A choice is taken with [`Pick::take`], which fails where the backend is at its cap or was
    /// tried already; what to do then is the strategy's to say, [`Pick::take_any`] at the least.
    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease>;

    /// Takes a slot of a backend of the snapshot. On `None` the request waits in the queue while
    /// there are usable backends that it has not tried, so a strategy that declines a backend
    /// with room makes it wait in vain.
    ///
    /// The default draws a group by its share of the traffic, then asks one group after the
    /// other, the preferred first.
    fn pick(&self, snapshot: &Snapshot, pick: &Pick<'_>) -> Option<Lease> {
        let first = snapshot.draw_group(|| fastrand::u32(..));
        let groups = snapshot.groups();
        if let Some(lease) = self.pick_from(snapshot, groups.get(first)?, first, pick) {
            return Some(lease);
        }
        let mut others = groups
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != first);
        others.find_map(|(number, group)| self.pick_from(snapshot, group, number, pick))
    }

    /// Returns true if a sticky session whose backend is out may go where its connection says,
    /// rather than where this strategy would: so that what a browser sends at once moves to one
    /// backend, not to several. To be true where any backend is as good as another.
    ///
    /// The default is false.
    fn yields_to_sessions(&self) -> bool {
        false
    }

    /// Returns true if [`ended`](Self::ended) is to be called: nothing is measured for nobody.
    ///
    /// The default is false.
    fn wants_ends(&self) -> bool {
        false
    }

    /// Tells how an attempt at a backend that was picked went, and how long it took until the
    /// response head, or its failure. On the request's path: to be quick, and to take no lock.
    ///
    /// The default does nothing.
    fn ended(&self, backend: &Backend, elapsed: Duration, how: Ended) {
        let _ = (backend, elapsed, how);
    }
}

/// How an attempt went, up to the response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// A response head came, of this status.
    Answered(StatusCode),
    /// Dropped before there was an answer: it would have taken longer.
    Cancelled,
    /// There will be no answer.
    Failed(ErrorKind),
}

impl Strategy for Box<dyn Strategy> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn attach(&mut self, pool: &Pool) {
        (**self).attach(pool);
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        (**self).pick_from(snapshot, group, number, pick)
    }

    fn pick(&self, snapshot: &Snapshot, pick: &Pick<'_>) -> Option<Lease> {
        (**self).pick(snapshot, pick)
    }

    fn yields_to_sessions(&self) -> bool {
        (**self).yields_to_sessions()
    }

    fn wants_ends(&self) -> bool {
        (**self).wants_ends()
    }

    fn ended(&self, backend: &Backend, elapsed: Duration, how: Ended) {
        (**self).ended(backend, elapsed, how);
    }
}

/// What a strategy is told of the request: its head, and which backends are out for it.
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

/// Places to keep away from, and how many leading segments may be shared with them at most.
#[derive(Clone, Copy, Debug)]
struct Away<'a> {
    places: &'a [Locality],
    shared: usize,
}

impl<'a> Pick<'a> {
    /// Makes a pick for a request that was not tried anywhere; for tests and benches of
    /// strategies.
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

    /// Excludes the backends that share more leading segments than that with one of the places.
    pub(super) fn away_from(mut self, places: &'a [Locality], shared: usize) -> Self {
        self.away = Some(Away { places, shared });
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

    /// Returns the client's address, where it is known.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        ConnInfo::client_of(self.extensions)
    }

    /// Returns true if the exchange tried this backend already, or failed twice near it while
    /// there may be others.
    #[must_use]
    pub fn excludes(&self, backend: &Backend) -> bool {
        !self.tried.is_empty()
            && (self.tried.contains(&backend.incarnation())
                || self.away.is_some_and(|away| away.is_near(backend)))
    }

    /// Returns true if the backend could be taken now: not tried, and below its cap.
    #[must_use]
    pub fn has_room(&self, backend: &Backend) -> bool {
        !self.excludes(backend)
            && backend
                .configured_max_in_flight()
                .is_none_or(|cap| backend.in_flight() < cap)
    }

    /// Takes a slot of this backend; `None` where it was tried already or is at its cap.
    #[must_use]
    pub fn take(&self, backend: &Backend) -> Option<Lease> {
        if self.excludes(backend) {
            return None;
        }
        Lease::acquire(backend)
    }

    /// Takes a slot of any of these: the first with room from a random place on. Looks at no
    /// more than 64 (all, once the request waits in the queue).
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
        let Some(place) = backend.configured_locality() else {
            return false;
        };
        let mut places = self.places.iter();
        places.any(|failed| failed.shared_segments(place) > self.shared)
    }
}

/// Scales a random number to an index below `len` (Lemire's multiplication, without a division).
pub(super) fn below(random: u32, len: usize) -> usize {
    ((u64::from(random) * len as u64) >> 32) as usize
}

/// Draws again that often when the choice has no room, so that what a full or a tried backend
/// leaves is spread by weight; then takes any.
pub(super) const DRAWS: usize = 8;
/// In a crowd of which half is full, 64 looks miss once in 2^64; it bounds what a pick costs.
const LOOKS: usize = 64;

fn _is_object_safe(_: &dyn Strategy) {}
