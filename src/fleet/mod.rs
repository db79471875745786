//! Several instances as one fleet: what an operator orders at one of them holds at all.
//!
//! Instances behind DNS, an anycast address or a network balancer have the same backends and the same
//! settings. A [`Fleet`] joins them through a Redis server:
//!
//! - **Orders**: a drain with its deadline, maintenance, ready, a weight, and the evacuation of a region,
//!   zone or rack, given at one instance by the admin API, its page, a reload or a call of
//!   [`Pool`](crate::Pool), hold at all instances.
//! - **Secrets**: a secret such as that of session tickets is made once, shared and rotated, so that a
//!   session of one instance resumes at any other.
//! - **Health**: an instance that starts keeps backends out that the others found unhealthy, until its
//!   own checks pass.
//! - **Values and locks**: [`RedisStore`] is a [`Store`](crate::store::Store), for certificates, ACME
//!   accounts and challenges.
//!
//! One process of an instance replaces another without a failed request: [`handover`].
//!
//! Sticky cookies need nothing of this: instances with the same keys make and accept the same ones.
//!
//! # Example
//!
//! ```no_run
//! use evenkeel::{Backend, Pool, fleet::{Fleet, RedisStore}};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let store = RedisStore::new("redis://balancer:password@redis.internal:6379")?.prefix("shop")?;
//! let fleet = Fleet::new(store, pool.clone()).instance("lb-1")?;
//! // Before the listeners open: an instance that starts follows the orders that are in force.
//! let running = fleet.start().await;
//! pool.start_maintenance("a")?; // at every instance
//! # drop(running);
//! # Ok(())
//! # }
//! ```
//!
//! # Which order wins
//!
//! The later one, for each locality, and for each backend of its mode and of its weight apart: by the
//! clock of the instance where it was given, then by the name of that instance. An order is always later than those that its
//! instance knew, so that a clock that is behind does not undo an operator. Clocks that are off by more
//! than the time between two orders given at two instances may order them the other way round; the fleet
//! agrees on one of them all the same.
//!
//! A deadline is a point in time: an instance that starts in the middle of a drain drains for the rest of
//! it. An order for a backend that an instance does not have waits until it joins. A weight that a reload
//! of the settings changes counts as an order; a reload that brings the weight that the settings had
//! before does not undo an order for another one. An order stays in force over restarts, until the next:
//! to give a weight of the settings effect again, order it. Instances forget a `ready` and the end of an
//! evacuation after 7 days, and the orders for a backend after 30 days in which it was no member.
//!
//! # A process that is replaced
//!
//! [`FleetHandle::export`] has the orders with their times, and the secrets; the process that replaces this
//! one gives them to [`FleetHandle::import`]. So sessions resume while Redis is down, and an order that the
//! old process missed, because it alone was cut off, wins as soon as Redis answers the new one. Do not
//! [restore](handover::Start::restore_orders) the orders of the old process beside it: orders without their
//! times count as given now, and would win over later ones.
//!
//! # How old a secret can become
//!
//! Instances agree on a new secret through Redis alone. While it is down, the last one stays in use, and
//! is not replaced when that is due: one WARN follows at twice its time. The keys of session tickets are
//! derived from it for each 12 h, and go on changing; a reader of the secret can derive them all, so an
//! outage of days makes a stolen secret worth more.
//!
//! # Where it goes
//!
//! Beside the request path, between the [`pool`](crate::pool) and Redis. One task exchanges what is due;
//! a message of Redis starts it at once, and polling finds what a message missed. No request waits for
//! it. [`Fleet::start`] belongs before checks begin and before readiness is reported.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | prefix of the keys in Redis | `evenkeel` |
//! | name of an instance | eight random hexadecimal digits |
//! | time for one call of the store | 1 s |
//! | calls of the store that wait at once | 64 |
//! | wait before the store is connected to again | doubling to 2 s |
//! | time between two looks at the orders, without a message | 500 ms |
//! | wait for the store at start | 2 s |
//! | exchange of health | off |
//! | a new secret is shared before it is used | 30 s |
//! | fields of the orders that are read | 20000 |
//!
//! # When it fails
//!
//! | what | what happens |
//! |---|---|
//! | Redis is slow, stopped or unreachable | serving goes on from what is known; one WARN, one INFO when it answers again; the gauge [`evenkeel_fleet_store_up`](FleetHandle::add_gauge) is 0 meanwhile |
//! | an order is given meanwhile | it holds at its instance at once, and at the others when Redis answers |
//! | an instance starts meanwhile | it waits for 2 s, says so, and begins with what its settings say |
//! | Redis restarts empty, or evicts a key | the instances write back what they know |
//! | a value is garbage, or of a later version | it is refused with a WARN, once, and left as it is; a new order replaces it |
//! | Redis has more orders than are read | those for the backends of an instance and their localities are exchanged, the others wait; one WARN |
//! | the password is wrong | as if Redis were unreachable; the WARN has Redis' reason, and never the password |
//! | the user may not subscribe | one WARN; polling alone finds orders, within a second |
//!
//! # Cost
//!
//! One connection, and two small commands a second for each instance. An order costs each instance the
//! reading of all orders, about 60 bytes each. A request costs nothing.

#[cfg(feature = "fleet")]
pub mod handover;
#[cfg(feature = "redis")]
mod shared;

#[cfg(feature = "redis")]
pub use shared::{Fleet, FleetHandle, RedisStore};
