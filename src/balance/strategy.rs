//! The trait of a strategy: how a backend is picked.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::pick::Pick;
use crate::{
    error::ErrorKind,
    pool::{Backend, Group, Lease, Pool, Snapshot},
};

/// Decides which backend a request goes to.
///
/// A pick is synchronous and on the path of every request: it reads the snapshot and the tables that
/// [`attach`](Self::attach) added to it, takes no lock, and does not scan all backends.
///
/// # Example
///
/// A strategy that takes the first backend with room, in the order of the configuration:
///
/// ```
/// use evenkeel::{Backend, Pool, balance::{Pick, Strategy}, pool::{Group, Lease, Snapshot}};
///
/// #[derive(Debug)]
/// struct FirstWithRoom;
///
/// impl Strategy for FirstWithRoom {
///     fn name(&self) -> &'static str {
///         "first-with-room"
///     }
///
///     fn pick_from(&self, _: &Snapshot, group: &Group, _: usize, pick: &Pick<'_>) -> Option<Lease> {
///         group.backends().iter().find_map(|backend| pick.take(backend))
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new([
///     Backend::new("a", "http://127.0.0.1:9001")?.max_in_flight(1)?,
///     Backend::new("b", "http://127.0.0.1:9002")?,
/// ])?;
/// let request = http::Request::new(());
/// let pick = || FirstWithRoom.pick(&pool.snapshot(), &Pick::new(&request)).unwrap();
/// let first = pick();
/// assert_eq!(first.backend().id(), "a");
/// assert_eq!(pick().backend().id(), "b", "a is at its cap while the first lease lasts");
/// # Ok(())
/// # }
/// ```
///
/// # How a pick ends
///
/// A pick that returns a [`Lease`] has taken a slot of that backend, and the request counts as in
/// flight there until the lease is dropped. A strategy takes slots with [`Pick::take`] only, which
/// refuses what the request must avoid; [`Lease::acquire`] would not.
///
/// # Shared state
///
/// One strategy serves all threads, and `&self` is shared without a lock. What changes with each
/// request belongs in an atomic with `Relaxed` order (a turn, a random seed); what changes with the
/// pool belongs in a table that [`attach`](Self::attach) derives, which is rebuilt when the pool
/// changes; what belongs to a backend and outlives a snapshot belongs in an
/// [`Attachment`](crate::pool::Attachment).
pub trait Strategy: fmt::Debug + Send + Sync + 'static {
    /// Returns the stable name that stands in logs and metrics.
    ///
    /// In the log it is the value of the field `strategy`; in panic mode `panic` stands in its place.
    fn name(&self) -> &'static str;

    /// Attaches the strategy to the pool that it will pick from. Called once, before the first pick;
    /// a strategy [derives](Pool::derive_groups) its tables here.
    ///
    /// The default does nothing.
    fn attach(&mut self, pool: &Pool) {
        let _ = pool;
    }

    /// Takes a slot of a backend of this group; returns `None` if it finds none that
    /// [has room](Pick::has_room). `number` is the index of the group in the snapshot, and the key of
    /// its tables.
    ///
    /// A strategy takes its choice with [`Pick::take`], which returns `None` if the backend is at its
    /// cap or was tried already. The strategy then chooses another, and falls back to
    /// [`Pick::take_any`].
    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease>;

    /// Takes a slot of a backend of the snapshot. After `None` the request waits in the queue while
    /// there are usable backends that it has not tried, so a strategy that passes over a backend with
    /// room makes it wait in vain.
    ///
    /// The default draws a group by its share of the traffic and asks it first, then the others in
    /// their order of preference.
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

    /// Returns true if a sticky session whose backend is out may move by a hash of its connection,
    /// without a pick by this strategy. The requests that a browser sends at once then move to one
    /// backend, and not to several. Return true if any backend is as good as another.
    ///
    /// The default is false.
    fn yields_to_sessions(&self) -> bool {
        false
    }

    /// Returns true if [`ended`](Self::ended) should be called. Latency is measured only then.
    ///
    /// The default is false.
    fn wants_ends(&self) -> bool {
        false
    }

    /// Receives the result of an attempt at a picked backend, and how long it took until the response
    /// head or the failure. Called on the path of the request, so it must be quick and take no lock.
    ///
    /// The default does nothing.
    fn ended(&self, backend: &Backend, elapsed: Duration, how: Ended) {
        let _ = (backend, elapsed, how);
    }
}

/// How an attempt went, up to the response head.
///
/// The body is not part of it: a response that breaks off after its head was `Answered`. Health counts
/// such bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// A response head with this status arrived.
    Answered(StatusCode),
    /// The attempt was dropped before there was a response, which would have taken longer.
    Cancelled,
    /// The attempt failed before a response head.
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

fn _is_object_safe(_: &dyn Strategy) {}
