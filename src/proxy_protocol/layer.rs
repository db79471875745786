//! [`ProxyProtocolLayer`]: which peers send a header, and its limits.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::ProxyProtocol;
use crate::{
    context::{ConnectionEvents, Peer, TrustedPeers},
    error::ConfigError,
};

/// Reads the PROXY protocol header of connections: around a connection service, or around an axum
/// listener.
///
/// The [module](crate::proxy_protocol) has an example of both.
#[derive(Clone)]
#[must_use]
pub struct ProxyProtocolLayer {
    pub(super) config: HeaderConfig,
}

/// What the connections of a layer share.
#[derive(Clone)]
pub(super) struct HeaderConfig {
    /// `None` for a layer that is switched off.
    trusted: Option<TrustedPeers>,
    trust_unix: bool,
    pub(super) is_required: bool,
    pub(super) timeout: Duration,
    pub(super) max_length: usize,
    pub(super) events: Option<Arc<dyn ConnectionEvents>>,
}

impl ProxyProtocolLayer {
    /// Makes a layer that reads a header from peers in these networks: the balancers in front.
    ///
    /// Any other peer could forge an address. Its bytes pass unread, so that a header of such a peer is
    /// a malformed request, or a malformed ClientHello.
    pub fn new(trusted: TrustedPeers) -> Self {
        Self {
            config: HeaderConfig {
                trusted: Some(trusted),
                trust_unix: false,
                is_required: true,
                timeout: TIMEOUT,
                max_length: MAX_LENGTH,
                events: None,
            },
        }
    }

    /// Makes a layer that reads no header and passes all bytes: a stack has the same type with and
    /// without the PROXY protocol.
    pub fn off() -> Self {
        let mut layer = Self::new(TrustedPeers::default());
        layer.config.trusted = None;
        layer
    }

    /// Sets whether peers over Unix sockets are trusted as well. File permissions then decide which
    /// programs may name a client.
    ///
    /// Default: false.
    pub fn trust_unix(mut self, trust: bool) -> Self {
        self.config.trust_unix = trust;
        self
    }

    /// Sets whether a trusted peer has to send a header. If not, a connection that begins with anything
    /// else is served as the peer's own.
    ///
    /// **Hazard of `false`:** where a trusted balancer passes connections on without adding a header,
    /// its client may begin with a header of its own, and so choose its address. Use it only while the
    /// balancers in front are switched over.
    ///
    /// Default: true.
    pub fn required(mut self, required: bool) -> Self {
        self.config.is_required = required;
        self
    }

    /// Sets how long a trusted peer may take to send the header, from TCP accept on. The layer then
    /// closes the connection. Health checks that connect and send nothing are closed by it too.
    ///
    /// Default: 5 s.
    ///
    /// # Errors
    ///
    /// If it is zero or over an hour.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout.is_zero() || timeout > Duration::from_secs(3_600) {
            return Err(ConfigError::new(
                "timeout",
                format!("{timeout:?}: more than 0 and at most 1 h is accepted"),
            ));
        }
        self.config.timeout = timeout;
        Ok(self)
    }

    /// Sets the largest length of a version 2 header in bytes, all its fields included. A longer one is
    /// refused as soon as its length is known. A connection takes this much memory until its header is
    /// whole. Version 1 headers have at most 107 bytes.
    ///
    /// Default: 512.
    ///
    /// # Errors
    ///
    /// If it is not 232 (the addresses of Unix sockets) to 4,096.
    pub fn max_length(mut self, bytes: usize) -> Result<Self, ConfigError> {
        if !(232..=4_096).contains(&bytes) {
            return Err(ConfigError::new(
                "max_length",
                format!("{bytes}: 232 to 4096 is accepted"),
            ));
        }
        self.config.max_length = bytes;
        Ok(self)
    }

    /// Sets the receiver of events about headers that are refused, for connections that have no receiver
    /// of their own ([`Conn::with_events`](crate::context::Conn::with_events)).
    ///
    /// Default: none.
    pub fn events(mut self, events: impl ConnectionEvents) -> Self {
        self.config.events = Some(Arc::new(events));
        self
    }
}

impl<S> Layer<S> for ProxyProtocolLayer {
    type Service = ProxyProtocol<S>;

    fn layer(&self, inner: S) -> ProxyProtocol<S> {
        ProxyProtocol::new(inner, Arc::new(self.config.clone()))
    }
}

impl fmt::Debug for ProxyProtocolLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolLayer")
            .field("trusted", &self.config.trusted)
            .field("trust_unix", &self.config.trust_unix)
            .field("required", &self.config.is_required)
            .field("timeout", &self.config.timeout)
            .field("max_length", &self.config.max_length)
            .finish_non_exhaustive()
    }
}

impl HeaderConfig {
    pub(super) fn is_on(&self) -> bool {
        self.trusted.is_some()
    }

    /// Returns whether a header of this peer counts.
    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        let Some(trusted) = &self.trusted else {
            return false;
        };
        match peer {
            Peer::Tcp(address) => trusted.contains(address.ip()),
            Peer::Unix => self.trust_unix,
            Peer::Unknown => false,
        }
    }
}

/// A balancer sends the header with its first segment. This leaves time for two retransmissions, and
/// more before the handshake's own time-out of 10 s.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Twice the addresses of Unix sockets. Headers with all fields of HAProxy or AWS have less than 300
/// bytes, but for a long name in a client's certificate.
pub(super) const MAX_LENGTH: usize = 512;
