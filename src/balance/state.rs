//! What all services of one layer share, and how a backend is found for a request.
//!
//! The search for a backend has one order, and each step may end it:
//!
//! 1. A request that was not tried yet waits behind those in line.
//! 2. A half-open circuit takes a request that can be repeated, as its trial.
//! 3. The backend that the sticky cookie asks for takes its request.
//! 4. After two failures, steps 5 and 6 look far from the backends that failed first, then anywhere.
//! 5. A session that must move goes where its connection says.
//! 6. The strategy picks.
//!
//! The search holds one guard of the snapshot from its beginning to its end, so that all steps see the
//! same membership, health and tables. It takes no lock but the record's own, which only this request
//! uses. If it finds nothing, [`Blocked`] says whether a wait can help.

use std::sync::Arc;

use http::Request;

use super::{
    affinity::{honour_affinity, move_session, take_trial},
    layer::BalanceLayer,
    pick::Pick,
    queue::Queue,
    running::RunningAttempt,
    strategy::Strategy,
    waiting::{Waiting, no_backend},
};
use crate::{
    context::{Exchange, PickRecord, StickyVerdict},
    error::Error,
    pool::{Excluded, Lease, Locality, Pool, Snapshot},
};

/// What all services of one layer share.
#[derive(Debug)]
pub(crate) struct BalanceState {
    pub(super) pool: Pool,
    pub(super) strategy: Arc<dyn Strategy>,
    pub(super) queue: Arc<Queue>,
}

impl BalanceState {
    /// Returns how many requests wait for a backend.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Finds a backend with a free slot and takes the slot. What it returns is not in the record yet:
    /// [`Route::begin`] enters it. Synchronous, and without an allocation unless localities must be
    /// avoided.
    pub(super) fn route<B>(
        &self,
        request: &Request<B>,
        exchange: &Exchange,
        search: Search,
    ) -> Result<Route, Blocked> {
        let bounds = exchange.pick_constraints();
        let snapshot = self.pool.snapshot();
        // A new request goes behind those in line; a retry waited there before.
        if search == Search::Quick && self.queue.has_line() && bounds.tried.is_empty() {
            return Err(Blocked::by(&snapshot, &[], exchange));
        }
        // A trial may well fail, so that a retry, and a request that could not be repeated, must not
        // be one. The list is empty in a pool without half-open circuits, and the check costs one
        // comparison.
        let trial = match snapshot.trials() {
            [] => None,
            _ if !bounds.tried.is_empty() || !request.method().is_idempotent() => None,
            trials => take_trial(trials, bounds.affinity.as_ref()),
        };
        let (kept, verdict) = match bounds.affinity {
            None => (trial, None),
            // `take_trial` took the backend that the cookie asks for, and no other.
            Some(_) if trial.is_some() => (trial, Some(StickyVerdict::Valid)),
            Some(wanted) => honour_affinity(wanted, &snapshot),
        };
        let lease = kept.or_else(|| {
            let mut pick = Pick::new(request).excluding(&bounds.tried);
            if search == Search::Thorough {
                pick = pick.thorough();
            }
            let moves = verdict == Some(StickyVerdict::Down) && self.strategy.yields_to_sessions();
            // One failure already excludes that backend; see `pick_away` for the second.
            let away = match bounds.tried.len() {
                0 | 1 => None,
                _ => self.pick_away(&snapshot, &pick, exchange, moves),
            };
            away.or_else(|| self.choose(&snapshot, &pick, moves))
        });
        match lease {
            Some(lease) => Ok(Route {
                lease,
                verdict,
                strategy: match snapshot.in_panic_mode() {
                    false => self.strategy.name(),
                    true => PANIC,
                },
                candidates: snapshot.usable(),
                excluded: excluded(&snapshot, &bounds.tried),
            }),
            None => Err(Blocked::by(&snapshot, &bounds.tried, exchange)),
        }
    }

    fn choose(&self, snapshot: &Snapshot, pick: &Pick<'_>, moves: bool) -> Option<Lease> {
        let home = match moves {
            true => move_session(snapshot, pick),
            false => None,
        };
        home.or_else(|| self.strategy.pick(snapshot, pick))
    }

    /// Picks far from the backends that failed: one failure says that a backend is gone, two say that
    /// their rack, zone or region may be, and this may be the last attempt.
    ///
    /// Returns `None` if no backend that failed has a locality, or none far from them has room: the
    /// request is then picked for as usual, so that localities never make an attempt fail. Looks at
    /// every backend, which is rare, and costs an allocation for the list.
    #[cold]
    fn pick_away(
        &self,
        snapshot: &Snapshot,
        pick: &Pick<'_>,
        exchange: &Exchange,
        moves: bool,
    ) -> Option<Lease> {
        let failed: Vec<Locality> = exchange.attempts(|all| {
            let localities = all.iter().map(|a| a.backend.configured_locality());
            localities.flatten().cloned().collect()
        });
        if failed.is_empty() {
            return None;
        }
        // In another region, then in another zone, then in another rack.
        (0..LOCALITY_SEGMENTS).find_map(|max_shared| {
            let pick = pick.clone().away_from(&failed, max_shared).thorough();
            self.choose(snapshot, &pick, moves)
        })
    }

    /// Lets a request wait, or returns the error that it fails with: `NoBackend` if no wait can help,
    /// `Overloaded` if the queue is full. A retry waits beside the line and not in it: it was in line,
    /// or ahead of it, before, and the backend that becomes free next may be one that it has tried.
    pub(super) fn admit(
        self: &Arc<Self>,
        why: Blocked,
        exchange: &Exchange,
    ) -> Result<Waiting, Error> {
        let at_most = match why {
            Blocked::Full => self.queue.timeout(),
            Blocked::Held => BalanceLayer::HELD_TIMEOUT,
            Blocked::Nothing => return Err(no_backend(exchange)),
        };
        let is_retry = !exchange.attempts(<[_]>::is_empty);
        let Some(entry) = self.queue.enter(!is_retry) else {
            return Err(self.queue.overflow());
        };
        Ok(Waiting {
            state: self.clone(),
            entry,
            is_retry,
            at_most,
        })
    }
}

/// A slot of the backend that was picked, and the decision for the record.
pub(super) struct Route {
    lease: Lease,
    verdict: Option<StickyVerdict>,
    strategy: &'static str,
    candidates: usize,
    excluded: Excluded,
}

impl Route {
    /// Enters the attempt in the record, which from now on excludes the backend for later attempts of
    /// the same request. The strategy gets results only if it wants them; a strategy that does not
    /// costs no reference count.
    pub(super) fn begin(self, state: &Arc<BalanceState>, exchange: Exchange) -> RunningAttempt {
        let backend = self.lease.backend().clone();
        let number = exchange.record_pick(PickRecord {
            strategy: self.strategy,
            candidates: self.candidates,
            excluded: self.excluded,
            verdict: self.verdict,
            backend,
        });
        let observer = state.strategy.wants_ends().then(|| state.clone());
        RunningAttempt::new(self.lease, exchange, number, observer)
    }
}

/// How far a pick goes to find a backend with room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// A bounded number of looks.
    Quick,
    /// Every backend: for the rare request that waits.
    Thorough,
}

/// Why a request has no backend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Every candidate is at its cap.
    Full,
    /// None is usable, and some wait for their first check.
    Held,
    /// Every usable backend was tried, or none is usable.
    Nothing,
}

impl Blocked {
    /// Reads the reason from the snapshot and enters what was left out into the record, from where the
    /// error and the log line take it. The numbers saturate at 65,535.
    fn by(snapshot: &Snapshot, tried: &[u64], exchange: &Exchange) -> Self {
        let mut excluded = excluded(snapshot, tried);
        // Ends at the first untried backend, so after as many looks as there were attempts.
        let mut usable = snapshot.groups().iter().flat_map(|g| g.backends());
        let is_full = usable.any(|b| !tried.contains(&b.incarnation()));
        if is_full {
            let full = snapshot.usable().saturating_sub(tried.len());
            excluded.full = u16::try_from(full).unwrap_or(u16::MAX);
        }
        exchange.set_excluded(excluded);
        if is_full {
            Self::Full
        } else if snapshot.usable() == 0 && snapshot.held() > 0 {
            Self::Held
        } else {
            Self::Nothing
        }
    }
}

/// Returns what a pick leaves out: what the snapshot does, and the backends tried.
#[inline]
fn excluded(snapshot: &Snapshot, tried: &[u64]) -> Excluded {
    let mut excluded = snapshot.excluded();
    excluded.tried = u16::try_from(tried.len()).unwrap_or(u16::MAX);
    excluded
}

/// The name in place of the strategy's in the decision, while the pool is in panic mode.
const PANIC: &str = "panic";
/// Region, zone and rack.
const LOCALITY_SEGMENTS: usize = 3;
