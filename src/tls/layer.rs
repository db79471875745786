//! [`TlsLayer`]: the settings of handshakes, and what the layer wraps.

use std::{fmt, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tower_layer::Layer;

use super::{
    Certificates, TicketKeys, Tls, TlsConfig, configs::Configs, handshake_config::HandshakeConfig,
};
use crate::{context::ConnectionEvents, error::ConfigError};

/// Terminates TLS: around a connection service, or around an axum listener.
///
/// The [module](crate::tls) has an example of both. Clones share the handshake permits.
#[derive(Clone)]
#[must_use]
pub struct TlsLayer {
    pub(super) shared: HandshakeConfig,
}

impl TlsLayer {
    /// Makes a layer that serves `config`.
    pub fn new(config: TlsConfig) -> Self {
        Self::with_configs(Configs::new(&config), Some(config.certificates))
    }

    /// Makes a layer that serves a configuration of rustls unchanged, for example one with a verifier of
    /// your own. Its certificates, versions, ALPN and tickets are then set there; those of
    /// [`TlsConfig`] do not apply.
    pub fn from_rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self::with_configs(Configs::from_rustls(config.into()), None)
    }

    fn with_configs(configs: Configs, certificates: Option<Certificates>) -> Self {
        Self {
            shared: HandshakeConfig {
                configs: Arc::new(configs),
                certificates,
                timeout: HANDSHAKE_TIMEOUT,
                permits: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
                events: None,
            },
        }
    }

    /// Sets how long a client may take to complete the handshake, from TCP accept on. The layer then
    /// closes the connection.
    ///
    /// Default: 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.shared.timeout = timeout;
        self
    }

    /// Sets how many handshakes run at once; others wait within their time-out.
    ///
    /// A handshake counts from its complete ClientHello until the server has written its answer, so
    /// clients that send nothing or stop within their ClientHello do not count. This limits work and
    /// not connections: limit those where they are accepted.
    ///
    /// Default: 512.
    ///
    /// # Errors
    ///
    /// If `max` is not 1 to 1,000,000.
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

    /// Sets the receiver of events about handshakes that fail, for connections that have no receiver of
    /// their own ([`Conn::with_events`](crate::context::Conn::with_events)).
    ///
    /// Default: none.
    pub fn events(mut self, events: impl ConnectionEvents) -> Self {
        self.shared.events = Some(Arc::new(events));
        self
    }

    /// Returns the ticket keys that this process made, to hand them to its successor; `None` without
    /// tickets, with a [`ticket_secret`](TlsConfig::ticket_secret), and for a configuration of rustls.
    #[must_use]
    pub fn ticket_keys(&self) -> Option<TicketKeys> {
        self.shared.configs.ticket_keys.clone()
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

/// Long enough for a handshake over a satellite link that loses a packet or two; short enough that
/// silent clients do not accumulate.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the cores of any machine work on at once; limits the memory that a burst takes.
pub(super) const MAX_HANDSHAKES: usize = 512;
