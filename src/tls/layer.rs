//! How handshakes are run, and around what.

use std::{fmt, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tower_layer::Layer;

use super::{Tls, TlsConfig, handshake::HandshakeConfig};
use crate::{context::ConnectionEvents, error::ConfigError};

/// Terminates TLS: around a connection service, or around an axum listener.
///
/// See [the room](crate::tls) for both. Clones share the handshake permits.
#[derive(Clone)]
#[must_use]
pub struct TlsLayer {
    pub(super) shared: HandshakeConfig,
}

impl TlsLayer {
    /// Serves what the configuration says.
    pub fn new(config: TlsConfig) -> Self {
        Self::from_rustls(config.build())
    }

    /// Serves what a configuration of rustls says, as it is: for client certificates, say. Its
    /// certificates, versions, ALPN and tickets are its own affair.
    pub fn from_rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self {
            shared: HandshakeConfig {
                config: config.into(),
                timeout: HANDSHAKE_TIMEOUT,
                permits: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
                events: None,
            },
        }
    }

    /// Gives a client this long to end the handshake, from when TCP accepted it; then the
    /// connection is closed.
    ///
    /// Default: 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.shared.timeout = timeout;
        self
    }

    /// Works on this many handshakes at once; others wait, within their time-out.
    ///
    /// One begins to count when its ClientHello is complete and ends to when our answer is
    /// written, so clients that say nothing, or stop in the middle, count for nothing. This
    /// bounds work, not connections: bound those where they are accepted.
    ///
    /// Default: 512.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 1,000,000.
    pub fn max_handshakes(mut self, max: usize) -> Result<Self, ConfigError> {
        if !(1..=1_000_000).contains(&max) {
            return Err(ConfigError::new(
                "max_handshakes",
                format!("{max}: 1 to 1,000,000 is accepted"),
            ));
        }
        self.shared.permits = Arc::new(Semaphore::new(max));
        Ok(self)
    }

    /// Tells this of handshakes that fail, where the connection itself brings nobody who wants to
    /// know ([`Conn::with_events`](crate::context::Conn::with_events)).
    ///
    /// Default: nobody.
    pub fn events(mut self, events: impl ConnectionEvents) -> Self {
        self.shared.events = Some(Arc::new(events));
        self
    }
}

impl<S> Layer<S> for TlsLayer {
    type Service = Tls<S>;

    fn layer(&self, inner: S) -> Tls<S> {
        Tls::new(inner, Arc::new(self.shared.clone()))
    }
}

impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer")
            .field("handshake_timeout", &self.shared.timeout)
            .field("handshakes_free", &self.shared.permits.available_permits())
            .finish_non_exhaustive()
    }
}

/// Long enough for a handshake over a satellite with a lost packet or two, short enough that
/// silent clients do not pile up.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any machine works on at once; a bound on what a burst may take.
pub(super) const MAX_HANDSHAKES: usize = 512;
