//! The pool: the backends, their state, and the snapshots that picks are made from.
//!
//! A [`Pool`] holds the [`Backend`]s that requests are spread over. It knows of each what a user
//! configured (weight, tier, locality, cap), what active checks and outlier detection measured
//! ([`HealthStatus`], [`Circuit`]) and what an operator ordered ([`Mode`]), and combines them into an
//! immutable [`Snapshot`]. The layers of this crate meet in the pool: health writes measurements to
//! it, balance picks from its snapshots, and sticky derives its tokens from them.
//!
//! ```text
//!  configuration   replace, upsert, remove, update_routing ─┐
//!  measurements    measure, eject, begin_trial, readmit ────┼─▶ control lock ─▶ Snapshot ─▶ picks
//!  orders          drain, start_maintenance, evacuate ──────┘                └▶ Event ─▶ subscribers
//! ```
//!
//! # Why a snapshot
//!
//! A pick needs membership, health, weights and the tables of a strategy, and they must agree: a
//! table that was built for three backends must not index a list of two. One snapshot holds all of
//! them, behind one atomic pointer. A change builds the next snapshot on the thread of the caller;
//! requests load the pointer, wait for no lock, and scan no list. The price is O(backends) work for
//! each change, which is why results that come together are written together
//! ([`Pool::measure_all`]).
//!
//! Live values that change with each request, such as the number of requests in flight, are not in
//! the snapshot but in a state that all handles of a backend share. The id is the key of that state,
//! so that a reload with another weight or address keeps it.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use evenkeel::{Backend, Pool, pool::Mode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?.weight(2)?,
//! ])?;
//! assert_eq!(pool.snapshot().usable(), 2);
//!
//! pool.drain("a", Duration::from_secs(300))?;
//! let snapshot = pool.snapshot();
//! assert_eq!(snapshot.usable(), 1);
//! assert!(matches!(snapshot.get("a").unwrap().mode(), Mode::Draining { .. }));
//!
//! pool.mark_ready("a")?;
//! pool.remove("b")?;
//! assert_eq!(pool.snapshot().groups()[0].backends()[0].id(), "a");
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Below every layer. [`BalanceLayer`](crate::balance::BalanceLayer),
//! [`HealthLayer`](crate::health::HealthLayer) and `StickyLayer` each take a handle of the same pool;
//! a program keeps another one for its own changes.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | weight | 1 |
//! | tier | 0 |
//! | in-flight cap | none |
//! | events kept for a slow subscriber | 1024 |
//! | overprovisioning | 1.4 |
//! | when too few are usable | fail fast |
//! | slow start | 30 s from 10 % |
//! | locality of the balancer | none: all localities are equal |
//!
//! # When it fails
//!
//! A call that names an id which is no member returns [`UnknownBackend`]; a setter that gets a value
//! out of range returns a [`ConfigError`](crate::ConfigError) with the name of the field and the
//! accepted range. Neither changes anything.
//!
//! These invariants hold through every change:
//!
//! - A change of configuration never turns an unhealthy backend healthy (invariant A), and neither
//!   does [`Pool::restore_health`]. A backend that is removed and added again under its id starts
//!   with no state.
//! - Measured health and an operator's order are kept apart: neither overwrites the other.
//! - Outlier detection never takes the last usable backend (invariant F). If every other backend
//!   leaves, fails its checks or is ordered out, the pool readmits the ejected ones.
//! - Health that no check keeps up to date is not kept: when the last prober leaves the pool, health
//!   becomes unknown, and unknown backends serve; when the last outlier detection leaves, ejections
//!   end. A program that is about to end calls [`Pool::close`] first, so that its end changes nothing.
//!
//! # Cost
//!
//! A pick loads one atomic pointer. A change costs up to half a microsecond for each backend, on the
//! thread of the caller, under a lock that no request takes. A [`Lease`] costs one atomic addition, or
//! two with a cap, and as many at its end. A clone of a `Backend` or of a `Pool` costs one.
//!
//! # How it is tested
//!
//! Beside the tests of each file, a simulation in `src/simulation` runs the real pool, checks, pick
//! and retries through schedules that are drawn from a seed, on a paused clock: backends die, hang,
//! flap and slow down; members join, leave, move and drain; clients hang up; checks stop and start.
//! An observer that keeps its own books checks the invariants after each step, and that every lease is
//! returned and every request ends once:
//!
//! ```text
//! EVENKEEL_SCHEDULES=10000 cargo test --features full --lib simulation::tests::every
//! ```
//!
//! A schedule that fails prints its seed. `EVENKEEL_SEED=<seed>` in place of the number of schedules
//! runs that one again and prints its steps.

mod attachment_cache;
mod attachments;
mod backend;
mod check_counts;
mod connection_counts;
mod control;
mod counters;
mod derived;
mod ejection;
mod eligibility;
mod error;
mod event;
mod excluded;
mod group;
pub(crate) mod hasher;
mod health_snapshot;
mod history;
mod journal;
mod leader;
mod lease;
mod locality;
mod measurement;
mod member;
mod membership;
mod operator;
mod order_snapshot;
mod roles;
mod routing;
mod shares;
mod slow_start;
mod snapshot;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod tick;
mod transition;
mod url;

pub(crate) use attachment_cache::AttachmentCache;
pub use attachments::{Attachment, AttachmentKey};
pub use backend::{Backend, Protocol, ProxyProtocol};
pub use check_counts::CheckCounts;
pub use connection_counts::ConnectionCounts;
pub(crate) use connection_counts::OpenConnection;
pub use control::Pool;
pub use derived::{Derived, DerivedGroups};
pub use ejection::Ejection;
pub use error::UnknownBackend;
pub use event::{Event, EventKind, Events, Reason, Source, Transition};
pub use excluded::Excluded;
pub use group::Group;
pub use health_snapshot::{BackendHealth, HealthSnapshot};
pub use history::{LastCheck, PastEvent};
pub(crate) use leader::{Candidate, Rank};
pub use lease::Lease;
pub use locality::Locality;
pub use measurement::Measurement;
pub(crate) use member::Address;
pub use operator::{Drained, Draining};
pub use order_snapshot::{BackendOrder, OrderSnapshot, OrderedMode, OrderedWeight};
pub use roles::ProberGuard;
pub(crate) use roles::{Role, RoleGuard};
pub use routing::{PanicRouting, Routing};
pub(crate) use snapshot::Membership;
pub use snapshot::{Snapshot, SnapshotGuard};
pub use status::{Circuit, HealthStatus, Mode};
pub use url::Scheme;
