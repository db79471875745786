//! The numbers of requests, backends and listeners: recorded without a lock, read as snapshots; and the
//! certificates in force.
//!
//! A [`Stats`] is made for a pool. `MetricsLayer` records requests in it, and a server's
//! [`events`](crate::context::ConnectionEvents) record connections. `MetricsService` shows the numbers
//! to Prometheus; a program reads them itself as a [`StatsSnapshot`].
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, stats::Stats};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let stats = Stats::new(pool);
//!
//! let before = stats.snapshot();
//! // … requests come …
//! let after = stats.snapshot();
//! let seconds = after.taken.duration_since(before.taken).as_secs_f64();
//! for (earlier, later) in before.backends.iter().zip(&after.backends) {
//!     let rate = (later.requests() - earlier.requests()) as f64 / seconds;
//!     let p99 = later.duration.since(&earlier.duration).quantile(0.99);
//!     println!("{}: {rate:.0} requests a second, p99 {p99:?}", later.backend.id());
//! }
//! # assert_eq!(after.backends[0].requests(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # How it records
//!
//! Each of the first 32 threads that record owns a copy of all counters, which it alone writes: an
//! addition is a load and a store, without an atomic read-modify-write and without a cache line that
//! two threads write. Further threads share one more copy. A snapshot sums the copies. The counters of
//! a backend are an [attachment](crate::pool::Attachment): they leave with it, so that backends which
//! come and go leave nothing behind.
//!
//! A request is recorded at its end, when all is known: the last byte of the response, a failure, the
//! departure of the client, or the close of a tunnel. Only its arrival is counted before, so that
//! [`ListenerStats::accepted`] = ended + in flight holds in each snapshot.
//!
//! # Where it goes
//!
//! Between the layers and their readers. It reads the [`Exchange`](crate::context::Exchange) of a
//! request for the attempts, and the [`ConnInfo`](crate::context::ConnInfo) of its connection for the
//! listener.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | buckets of histograms | 500 µs, 1 ms, 2.5 ms, 5 ms, 10 ms, 25 ms, 50 ms, 100 ms, 250 ms, 500 ms, 1 s, 2.5 s, 5 s, 10 s, 30 s, 60 s, and one without a bound |
//! | listeners with a name of their own | 15 |
//! | threads with counters of their own | 32 |
//! | a certificate is worth a warning | 30 days before its end, and at most 3/10 of its lifetime |
//! | a certificate is an error | 7 days before its end, and at most 1/10 of its lifetime |
//!
//! # When it fails
//!
//! It does not fail. Counters are 64 bits wide and do not overflow in the life of a process.
//!
//! # Cost
//!
//! See [`metrics`](crate::metrics#cost). Memory: about 1 KiB for each backend and each thread that
//! recorded a request of it, made at the first such request.

mod backend;
mod certificate_store;
mod certificates;
mod handle;
mod handshakes;
mod histogram;
mod listener;
mod outcome;
mod recording;
mod shard;
mod skew;
#[cfg(test)]
mod tests;

pub use backend::BackendStats;
pub use certificates::{CertificateReading, CertificateRegistry, Expiry};
pub use handle::{GaugeReading, Stats, StatsSnapshot};
pub use handshakes::HandshakeStats;
pub use histogram::HistogramSnapshot;
pub use listener::ListenerStats;

pub(crate) use recording::Recording;
