//! What a user configures of a backend: its URL, weight, tier, locality, cap and protocol.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;

use super::{Locality, Scheme, state::State, url::BackendUrl};
use crate::{error::ConfigError, slots::Slots};

/// One server that requests are sent to: its configuration, and the state that belongs to its id.
///
/// A `Backend` is configured with consuming setters before it joins a [`Pool`](super::Pool). The
/// pool gives out handles of the same type, whose getters also read the live state: health, mode,
/// requests in flight. A getter of a configured value is named `configured_` and the setter's name.
///
/// To change a member, give a newly configured backend with the same id to
/// [`Pool::upsert`](super::Pool::upsert): the state stays with the id. Setters on a handle change
/// that handle only, never the member.
///
/// A clone costs one atomic addition.
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, pool::{Locality, Protocol}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let backend = Backend::new("eu-1", "https://app.internal:8443/shop")?
///     .weight(2)?
///     .max_in_flight(500)?
///     .locality(Locality::new("eu/1a")?)
///     .protocol(Protocol::Http2);
/// assert_eq!((backend.host(), backend.port()), ("app.internal", 8443));
/// assert_eq!(backend.base_path(), "/shop");
/// assert_eq!(backend.configured_weight(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Backend {
    // One pointer, because a request clones the handle several times.
    pub(super) inner: Arc<Inner>,
}

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) config: Arc<Config>,
    pub(super) state: Arc<State>,
    /// Beside the configuration, because each pick reads it and nothing else of that.
    pub(super) max_in_flight: Option<u32>,
}

/// Everything that a user configures but the cap.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) id: Arc<str>,
    pub(super) url: BackendUrl,
    pub(super) unix_socket: Option<PathBuf>,
    pub(super) protocol: Protocol,
    pub(super) proxy_protocol: ProxyProtocol,
    pub(super) weight: u32,
    /// The configured weight, where an operator ordered another one.
    pub(super) replaced_weight: Option<u32>,
    pub(super) tier: u8,
    pub(super) locality: Option<Locality>,
    pub(super) slots: Slots,
}

impl Backend {
    /// Makes a backend with a stable id and a URL: `http` or `https`, then a name, an IPv4 address
    /// or a bracketed IPv6 address, an optional port and an optional base path.
    ///
    /// The id names the backend in calls, logs, metrics and sticky cookies. The pool keys the
    /// backend's state by it, so an id must not move to another server. A name in the URL is
    /// resolved when a connection is made, not here.
    ///
    /// # Errors
    ///
    /// Returns an error that names `id` if the id is empty, longer than 128 bytes or has other
    /// characters than visible ASCII, and one that names `url` if the URL has another scheme, no
    /// host, port 0, user information, a query or a fragment.
    pub fn new(id: impl Into<String>, url: &str) -> Result<Self, ConfigError> {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::new(
                "id",
                format!("{id:?}: 1 to {MAX_ID} visible ASCII characters are accepted"),
            ));
        }
        let config = Config {
            id: id.into(),
            url: BackendUrl::parse(url)?,
            unix_socket: None,
            protocol: Protocol::Auto,
            proxy_protocol: ProxyProtocol::Inherited,
            weight: 1,
            replaced_weight: None,
            tier: 0,
            locality: None,
            slots: Slots::new(),
        };
        Ok(Self::join(Arc::new(config), Arc::new(State::new()), None))
    }

    /// Sets the share of new requests relative to the other backends of the same group: weight 2
    /// gets twice as many as weight 1. A backend of weight 0 gets no new requests; its sticky
    /// sessions stay.
    ///
    /// Default: 1.
    ///
    /// # Errors
    ///
    /// Returns an error if the weight is over 1,000.
    pub fn weight(mut self, weight: u32) -> Result<Self, ConfigError> {
        if weight > MAX_WEIGHT {
            return Err(ConfigError::new(
                "weight",
                format!("{weight}: 0 to {MAX_WEIGHT} is accepted"),
            ));
        }
        let config = self.config_mut();
        config.weight = weight;
        config.replaced_weight = None;
        Ok(self)
    }

    /// Sets a weight in place of the configured one, which it remembers.
    pub(super) fn ordered_weight(self, weight: u32) -> Result<Self, ConfigError> {
        let configured = self.weight_before_order();
        let mut ordered = self.weight(weight)?;
        ordered.config_mut().replaced_weight = Some(configured);
        Ok(ordered)
    }

    /// Returns the configured weight, whatever an operator ordered.
    pub(crate) fn weight_before_order(&self) -> u32 {
        let config = &self.inner.config;
        config.replaced_weight.unwrap_or(config.weight)
    }

    /// Sets the tier. Tier 0 is preferred. A higher tier gets the traffic that the usable backends
    /// of the lower tiers are too few for, and the requests that find all of those at their caps;
    /// see [`Routing`](super::Routing).
    ///
    /// Default: 0.
    #[must_use]
    pub fn tier(mut self, tier: u8) -> Self {
        self.config_mut().tier = tier;
        self
    }

    /// Sets the locality: the region, zone and rack of the backend. It takes effect where
    /// [`Routing::locality`](super::Routing::locality) is set too, and in
    /// [`Pool::evacuate`](super::Pool::evacuate).
    ///
    /// Default: unknown, which counts as the greatest distance and is never evacuated.
    #[must_use]
    pub fn locality(mut self, locality: Locality) -> Self {
        self.config_mut().locality = Some(locality);
        self
    }

    /// Caps the requests in flight at this backend, counted for the whole pool. A request that
    /// finds every backend at its cap waits in the queue of the balance layer.
    ///
    /// Default: no cap.
    ///
    /// # Errors
    ///
    /// Returns an error if the cap is 0. To send no new requests, use [`weight`](Self::weight) 0 or
    /// [`Pool::start_maintenance`](super::Pool::start_maintenance).
    pub fn max_in_flight(mut self, max: u32) -> Result<Self, ConfigError> {
        if max == 0 {
            return Err(ConfigError::new(
                "max_in_flight",
                "0: 1 or more is accepted; weight = 0 stops new traffic",
            ));
        }
        // Not through `config_mut`: what layers cache does not depend on the cap, so they keep it.
        Arc::make_mut(&mut self.inner).max_in_flight = Some(max);
        Ok(self)
    }

    /// Sets the HTTP version of connections to the backend.
    ///
    /// Default: [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.config_mut().protocol = protocol;
        self
    }

    /// Sets the PROXY protocol header that connections to the backend begin with, checks included. It
    /// overrides [`Connector::proxy_protocol`](crate::connect::Connector::proxy_protocol), which says what
    /// the header costs: a pool may have backends that want it and others that refuse it.
    ///
    /// Default: [`ProxyProtocol::Inherited`].
    #[must_use]
    pub fn proxy_protocol(mut self, header: ProxyProtocol) -> Self {
        self.config_mut().proxy_protocol = header;
        self
    }

    /// Connects to a Unix domain socket at this path, not to the URL's host and port. The URL still
    /// gives the scheme, the base path and the authority that the backend sees.
    ///
    /// Default: none.
    #[must_use]
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_mut().unix_socket = Some(path.into());
        self
    }

    /// Returns the stable id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.config.id
    }

    pub(crate) fn shared_id(&self) -> Arc<str> {
        self.inner.config.id.clone()
    }

    /// Returns the URL's scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.inner.config.url.scheme
    }

    /// Returns the URL's host: a name, an IPv4 address, or an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.inner.config.url.host
    }

    /// Returns the URL's port; 80 (`http`) or 443 (`https`) if the URL names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.config.url.port
    }

    /// Returns the URL's base path without a trailing slash; empty for `/`.
    #[must_use]
    pub fn base_path(&self) -> &str {
        &self.inner.config.url.base_path
    }

    /// Returns the URL's authority as the value of a Host field (RFC 9110 §7.2).
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.inner.config.url.authority
    }

    /// Returns the path of the [Unix socket](Self::unix_socket).
    #[must_use]
    pub fn configured_unix_socket(&self) -> Option<&Path> {
        self.inner.config.unix_socket.as_deref()
    }

    /// Returns the configured [protocol](Self::protocol), not the version that ALPN selected.
    #[must_use]
    pub fn configured_protocol(&self) -> Protocol {
        self.inner.config.protocol
    }

    /// Returns the configured [PROXY protocol header](Self::proxy_protocol).
    #[must_use]
    pub fn configured_proxy_protocol(&self) -> ProxyProtocol {
        self.inner.config.proxy_protocol
    }

    /// Returns the configured [weight](Self::weight). [`Group::weights`](super::Group::weights)
    /// has the weights in force, which slow start and a degraded backend lower.
    #[must_use]
    pub fn configured_weight(&self) -> u32 {
        self.inner.config.weight
    }

    /// Returns the configured [tier](Self::tier).
    #[must_use]
    pub fn configured_tier(&self) -> u8 {
        self.inner.config.tier
    }

    /// Returns the configured [locality](Self::locality).
    #[must_use]
    pub fn configured_locality(&self) -> Option<&Locality> {
        self.inner.config.locality.as_ref()
    }

    /// Returns the [cap](Self::max_in_flight) of requests in flight.
    #[must_use]
    pub fn configured_max_in_flight(&self) -> Option<u32> {
        self.inner.max_in_flight
    }

    /// The one place where a handle is made: a configuration, and the state that belongs to its id.
    pub(super) fn join(config: Arc<Config>, state: Arc<State>, max_in_flight: Option<u32>) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                state,
                max_in_flight,
            }),
        }
    }

    /// Returns the values that layers cache with the backend's configuration. A backend with
    /// another address, weight or protocol has other slots.
    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.config.slots
    }

    fn config_mut(&mut self) -> &mut Config {
        let config = Arc::make_mut(&mut Arc::make_mut(&mut self.inner).config);
        // What layers cached may depend on what is about to change.
        config.slots = Slots::new();
        config
    }
}

impl Config {
    /// Decides whether health that was measured at one is worth anything for the other. The URL's base
    /// path and authority do not count: the same process answers.
    pub(super) fn has_same_endpoint(&self, other: &Self) -> bool {
        self.url.has_same_endpoint(&other.url) && self.unix_socket == other.unix_socket
    }

    /// Decides whether a connection that was made for one serves the other: its first bytes count as well.
    pub(super) fn shares_connections(&self, other: &Self) -> bool {
        self.has_same_endpoint(other) && self.proxy_protocol == other.proxy_protocol
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("id", &self.inner.config.id)
            .field("host", &self.inner.config.url.host)
            .field("port", &self.inner.config.url.port)
            .field("weight", &self.inner.config.weight)
            .field("tier", &self.inner.config.tier)
            .field("health", &self.health())
            .field("mode", &self.mode())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// The HTTP version of connections to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 over cleartext; over TLS the version that ALPN selects, of HTTP/2 and HTTP/1.1 in
    /// this order.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; over cleartext with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// The PROXY protocol header that a connection to a backend begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// What the connector sends to all backends:
    /// [`Connector::proxy_protocol`](crate::connect::Connector::proxy_protocol).
    #[default]
    Inherited,
    /// No header.
    Off,
    /// A header of version 1.
    V1,
    /// A header of version 2.
    V2,
}

/// Ids stand in logs and metrics: long enough for a DNS label with a port, short enough to read.
const MAX_ID: usize = 128;
/// The bounded round-robin order (4,096 slots) can still honour a weight of one, and a weight in
/// thousandths fits in 32 bits.
const MAX_WEIGHT: u32 = 1_000;
