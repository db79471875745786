//! The shared state: who the backends are, how they are, and who may be picked.
//!
//! A [`Pool`] is a cheap handle over one immutable [`Snapshot`] behind one atomic swap. A single
//! control path rebuilds the snapshot whenever membership, health or mode changes; the request
//! path only loads it. Tables that rooms above need for a pick (a strategy's order, sticky
//! tokens) hang on the same snapshot, see [`Pool::derive`] and [`Pool::derive_groups`], so that
//! whoever holds a snapshot holds a consistent whole.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?.weight(2)?,
//! ])?;
//! pool.drain("a", std::time::Duration::from_secs(300))?;
//! assert_eq!(pool.snapshot().usable(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Under every room: balance picks from it, health writes to it, sticky hangs its tokens on it.
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
//! | locality of the balancer | none: all alike |
//!
//! # When it fails
//!
//! Calls about an id that is not a member return a [`ConfigError`](crate::ConfigError) naming
//! it; nothing changes then. Measured health ([`HealthStatus`]) and what an operator ordered
//! ([`Mode`]) are kept apart: neither overwrites the other. A change of membership never turns
//! an unhealthy backend healthy (invariant A), nor does what an earlier process knew, taken over with
//! [`Pool::restore_health`]; and a backend that was removed and comes back
//! under the same id starts anew.
//!
//! What nobody would notice the end of is not believed for ever: when the last who checks leaves,
//! what was measured is unknown again, and serves; when the last who judges live traffic does,
//! ejections end. When everybody else leaves, however that is, the ejected ones that would serve
//! are readmitted (invariant F).
//!
//! # Cost
//!
//! A pick: one `ArcSwap::load`. A change: O(backends) on the caller's thread, under a lock that
//! no request takes.
//!
//! # How it is tested
//!
//! Beside its tables, by a simulation in `src/simulation`: the real pool, checks, pick and
//! retries live through schedules that are drawn from a seed (deaths, hangs, flaps, slow phases,
//! members that come, go and move, drains, clients that hang up, checks that stop and start) on
//! a paused clock. An observer with books of its own says which of the design's invariants
//! breaks, and that every lease came back and every request ended once:
//!
//! ```text
//! EVENKEEL_SCHEDULES=10000 cargo test --features full --lib simulation::tests::every
//! ```
//!
//! A schedule that fails prints its seed; `EVENKEEL_SEED=<seed>` in place of the number of
//! schedules lives through that one again and prints what happens.

mod attachment_cache;
mod attachments;
mod backend;
mod control;
mod counters;
mod derived;
mod ejection;
mod eligibility;
mod error;
mod event;
mod group;
pub(crate) mod hasher;
mod health_snapshot;
mod journal;
mod leader;
mod lease;
mod locality;
mod measurement;
mod member;
mod membership;
mod operator;
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
pub use backend::{Backend, Protocol};
pub use control::Pool;
pub use derived::{Derived, DerivedGroups};
pub use ejection::Ejection;
pub use error::UnknownBackend;
pub use event::{Event, EventKind, Events, Reason, Source, Transition};
pub use group::Group;
pub use health_snapshot::{BackendHealth, HealthSnapshot};
pub(crate) use leader::{Candidate, Rank};
pub use lease::Lease;
pub use locality::Locality;
pub use measurement::Measurement;
pub(crate) use member::Address;
pub use operator::{Drained, Draining};
pub use roles::ProberGuard;
pub(crate) use roles::{Role, RoleGuard};
pub use routing::{PanicRouting, Routing};
pub(crate) use snapshot::Membership;
pub use snapshot::{Snapshot, SnapshotGuard};
pub use status::{Circuit, HealthStatus, Mode};
pub use url::Scheme;
