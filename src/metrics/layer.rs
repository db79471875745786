//! [`MetricsLayer`]: where the numbers go, and the name of the listener.

use tower_layer::Layer;

use super::Metrics;
use crate::{
    context::{ConnInfo, ConnectionEvent, ConnectionEvents},
    stats::Stats,
};

/// Counts and times each request; see the [module](super).
///
/// Clones record in the same [`Stats`]. The layer is also a [`ConnectionEvents`], which records
/// connections and TLS handshakes: `evenkeel::serve(listener, service).events(layer.clone())`.
#[derive(Clone, Debug)]
#[must_use]
pub struct MetricsLayer {
    /// `None` for a layer that records nothing.
    stats: Option<Stats>,
    listener: Option<usize>,
}

impl MetricsLayer {
    /// Records in `stats`. The backends whose requests are recorded are those of its pool.
    pub fn new(stats: Stats) -> Self {
        Self {
            stats: Some(stats),
            listener: None,
        }
    }

    /// Makes a layer that passes requests through.
    #[cfg_attr(
        not(feature = "proxy"),
        expect(dead_code, reason = "for `LoadBalancer`")
    )]
    pub(crate) fn disabled() -> Self {
        Self {
            stats: None,
            listener: None,
        }
    }

    /// Records all requests under this name of a listener, for servers that do not say which listener
    /// a request came by. Names are kept as long as the [`Stats`]: give it few.
    ///
    /// Default: the address that `evenkeel::serve` listens on, from [`ConnInfo`]; `unknown` without
    /// one.
    pub fn listener(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.listener = self.stats.as_ref().map(|stats| stats.listener_named(name));
        self
    }

    /// Returns where the layer records; `None` in a [`LoadBalancer`](crate::LoadBalancer) without
    /// metrics.
    #[must_use]
    pub fn stats(&self) -> Option<&Stats> {
        self.stats.as_ref()
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics::new(inner, self.stats.clone(), self.listener)
    }
}

impl ConnectionEvents for MetricsLayer {
    fn connection_ended(&self, event: &ConnectionEvent) {
        if let Some(stats) = &self.stats {
            stats.connection_ended(event);
        }
    }

    fn connection_opened(&self, conn: &ConnInfo) {
        if let Some(stats) = &self.stats {
            stats.connection_opened(conn);
        }
    }

    fn handshake_ended(&self, conn: &ConnInfo) {
        if let Some(stats) = &self.stats {
            stats.handshake_ended(conn);
        }
    }

    fn connection_closed(&self, conn: &ConnInfo) {
        if let Some(stats) = &self.stats {
            stats.connection_closed(conn);
        }
    }
}
