//! Numbers of requests, backends and listeners, recorded without a lock and read as snapshots.

mod backend;
mod handle;
mod histogram;
mod listener;
mod outcome;
mod recording;
mod shard;
mod skew;

pub use backend::BackendStats;
pub use handle::{GaugeReading, Stats, StatsSnapshot};
pub use histogram::HistogramSnapshot;
pub use listener::{HandshakeStats, ListenerStats};
pub(crate) use outcome::Ended;
pub(crate) use recording::Recording;
