//! What a strategy is, and what it is told.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::pick::Pick;
use crate::{
    error::ErrorKind,
    pool::{Backend, Group, Lease, Pool, Snapshot},
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

fn _is_object_safe(_: &dyn Strategy) {}
