//! One backend: what it is (immutable), joined to how it is (shared state).

use std::{fmt, path::PathBuf, sync::Arc};

use http::{HeaderValue, Uri, uri::PathAndQuery};

use super::{
    Circuit, HealthStatus, Locality, Mode,
    state::{FULL, State},
};
use crate::error::ConfigError;

/// A handle to one backend: identity and settings, and the state that belongs to its id.
///
/// Cheap to clone. Settings are given before the backend joins a [`Pool`](super::Pool); a
/// changed copy replaces it with [`Pool::upsert`](super::Pool::upsert), and the state (health,
/// mode, in-flight count) stays with the id.
#[derive(Clone)]
pub struct Backend {
    // One counter to count up and down at each clone: a request makes several.
    pub(super) inner: Arc<Inner>,
}

/// What a backend is, joined to how it is.
#[derive(Clone)]
pub(super) struct Inner {
    config: Arc<Config>,
    pub(super) state: Arc<State>,
    /// Of the requests in flight; here, as each pick asks and need not go on to the rest.
    max_in_flight: Option<u32>,
}

#[derive(Clone)]
pub(super) struct Config {
    id: Arc<str>,
    scheme: Scheme,
    host: Box<str>,
    port: u16,
    base_path: Box<str>,
    authority: HeaderValue,
    unix: Option<PathBuf>,
    protocol: Protocol,
    weight: u32,
    tier: u8,
    locality: Option<Locality>,
    /// What each line of the log says of it.
    #[cfg(feature = "access-log")]
    log_fragment: std::sync::OnceLock<Box<[u8]>>,
}

impl Backend {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    /// Makes a backend with this stable id at this URL: `http` or `https`, a name, an IPv4 or a
    /// bracketed IPv6 address, an optional port and base path.
    ///
    /// # Errors
    ///
    /// When the id is empty, over 128 bytes or not visible ASCII, or the URL has another scheme,
    /// no host, user information, a query or a fragment.
    pub fn new(id: impl Into<String>, url: &str) -> Result<Self, ConfigError> {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::new(
                "id",
                format!("{id:?}: 1 to {MAX_ID} visible ASCII characters are accepted"),
            ));
        }
        let config = Config::parse(id, url)?;
        Ok(Self::join(Arc::new(config), Arc::new(State::new()), None))
    }

    /// Sets the share of new traffic relative to the others. 0 sends no new traffic; sticky
    /// sessions go on.
    ///
    /// Default: 1.
    ///
    /// # Errors
    ///
    /// Over 1,000.
    pub fn weight(mut self, weight: u32) -> Result<Self, ConfigError> {
        if weight > MAX_WEIGHT {
            return Err(ConfigError::new(
                "weight",
                format!("{weight}: 0 to {MAX_WEIGHT} is accepted"),
            ));
        }
        self.config_mut().weight = weight;
        Ok(self)
    }

    /// Sets the tier: a higher one gets the share of traffic that the usable backends of the
    /// lower ones are too few for, and what these have no room for; see
    /// [`Routing`](super::Routing).
    ///
    /// Default: 0.
    #[must_use]
    pub fn tier(mut self, tier: u8) -> Self {
        self.config_mut().tier = tier;
        self
    }

    /// Sets where the backend stands.
    ///
    /// Default: unknown.
    #[must_use]
    pub fn locality(mut self, locality: Locality) -> Self {
        self.config_mut().locality = Some(locality);
        self
    }

    /// Caps the requests in flight; others wait for room or go elsewhere.
    ///
    /// Default: no cap.
    ///
    /// # Errors
    ///
    /// When it is 0; to send no traffic, use [`weight`](Self::weight) 0 or maintenance.
    pub fn max_in_flight(mut self, max: u32) -> Result<Self, ConfigError> {
        if max == 0 {
            return Err(ConfigError::new(
                "max_in_flight",
                "0: 1 or more is accepted; weight = 0 stops new traffic",
            ));
        }
        Arc::make_mut(&mut self.inner).max_in_flight = Some(max);
        Ok(self)
    }

    /// Sets the HTTP version spoken with the backend.
    ///
    /// Default: [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.config_mut().protocol = protocol;
        self
    }

    /// Dials this Unix socket instead of the URL's host; the URL still names the authority.
    ///
    /// Default: none.
    #[must_use]
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_mut().unix = Some(path.into());
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
        self.inner.config.scheme
    }

    /// Returns the URL's host: a name or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.inner.config.host
    }

    /// Returns the port; 80 or 443 where the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.config.port
    }

    /// Shows where the backend is dialled: its Unix socket, or its host and port, an IPv6 address in
    /// brackets (RFC 5952 §6).
    pub(crate) fn shown_address(&self) -> impl fmt::Display {
        ShownAddress(self)
    }

    /// Returns the URL's base path without a trailing slash; empty for `/`.
    #[must_use]
    pub fn base_path(&self) -> &str {
        &self.inner.config.base_path
    }

    /// Returns the URL's authority as a Host field value.
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.inner.config.authority
    }

    /// Returns the Unix socket dialled instead of the host.
    #[must_use]
    pub fn configured_unix_socket(&self) -> Option<&std::path::Path> {
        self.inner.config.unix.as_deref()
    }

    /// Returns the HTTP version spoken with the backend.
    #[must_use]
    pub fn configured_protocol(&self) -> Protocol {
        self.inner.config.protocol
    }

    /// Returns the configured weight.
    #[must_use]
    pub fn configured_weight(&self) -> u32 {
        self.inner.config.weight
    }

    /// Returns the configured tier.
    #[must_use]
    pub fn configured_tier(&self) -> u8 {
        self.inner.config.tier
    }

    /// Returns where the backend stands.
    #[must_use]
    pub fn configured_locality(&self) -> Option<&Locality> {
        self.inner.config.locality.as_ref()
    }

    /// Returns the cap of requests in flight.
    #[must_use]
    pub fn configured_max_in_flight(&self) -> Option<u32> {
        self.inner.max_in_flight
    }

    /// Returns the requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.state().in_flight()
    }

    /// Returns how many requests were ever sent here.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state().requests()
    }

    /// Returns the measured health, active and passive combined.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        self.state().health()
    }

    /// Returns what active checks measured, ejections apart.
    #[must_use]
    pub fn active_health(&self) -> HealthStatus {
        self.state().active()
    }

    /// Returns true while passive outlier detection keeps the backend out: its circuit is not
    /// closed.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.circuit() != Circuit::Closed
    }

    /// Returns whether live traffic may pass, as outlier detection sees it.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.state().circuit()
    }

    /// Returns how much of itself the backend offers, as checks measured: 1.0 in full, less
    /// where it is degraded.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        f64::from(self.state().capacity()) / f64::from(FULL)
    }

    /// Returns true while the backend itself asks, through its checks, to be drained.
    #[must_use]
    pub fn asks_to_drain(&self) -> bool {
        self.state().asks_to_drain()
    }

    /// Returns true while the place where it stands is evacuated; see
    /// [`Pool::evacuate`](super::Pool::evacuate).
    #[must_use]
    pub fn is_evacuated(&self) -> bool {
        self.state().is_evacuated()
    }

    /// Returns how often measured health changed lately, as the last measurement told.
    #[must_use]
    pub fn flaps(&self) -> u32 {
        self.state().flaps().0
    }

    /// Returns true while changes of health come so often that they are damped.
    #[must_use]
    pub fn is_flapping(&self) -> bool {
        self.state().flaps().1
    }

    /// Returns how long measured health has been what it is.
    #[must_use]
    pub fn in_state_for(&self) -> std::time::Duration {
        self.state().since().elapsed()
    }

    /// Returns what an operator ordered.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state().mode()
    }

    /// Returns true if the pick may choose the backend for new traffic.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.state().is_usable()
    }

    /// Returns true if a sticky session may still be sent here: usable, or not unhealthy and
    /// draining before its deadline, asking to be drained, or of weight 0; never while its place
    /// is evacuated.
    #[must_use]
    pub fn keeps_sessions(&self) -> bool {
        self.state().is_usable() || self.state().keeps_sessions(self.inner.config.weight == 0)
    }

    /// Returns true if both handles stand for the same member: the same id, not removed and
    /// added again in between.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner.state, &other.inner.state)
    }

    /// Returns a number that is unique to this member within the process; an id that was removed
    /// and added again has a new one.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.state().incarnation()
    }

    /// Returns how often the address of this member changed: to another and back is twice, and
    /// what was measured in between is void.
    pub(crate) fn address_changes(&self) -> u32 {
        self.state().address_changes()
    }

    /// Returns true while a trial of it is under way.
    pub(crate) fn has_trial(&self) -> bool {
        self.state().has_trial()
    }

    /// Returns what a room keeps with this backend under `key`, making it when it is missing.
    pub fn attachment<T: super::Attachment>(
        &self,
        key: &super::AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.state().attachment(key, make)
    }

    /// Returns how many places for attachments there are.
    #[cfg(test)]
    pub(crate) fn count_attachments(&self) -> usize {
        self.state().count_attachments()
    }

    /// Tells every room that a response of this backend broke off, by its fault, after it had
    /// begun.
    pub(crate) fn report_broken_response(&self, kind: crate::error::ErrorKind) {
        self.state().notify_broken(kind);
    }

    pub(super) fn with_state(&self, state: Arc<State>) -> Self {
        Self::join(self.inner.config.clone(), state, self.inner.max_in_flight)
    }

    fn join(config: Arc<Config>, state: Arc<State>, max_in_flight: Option<u32>) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                state,
                max_in_flight,
            }),
        }
    }

    /// The share of new traffic now, in thousandths of a weight of 1: what is configured, times
    /// what the backend offers, times how far it is warmed up. Never 0 for a weight over 0.
    pub(super) fn weight_in_force(&self) -> u32 {
        let (capacity, slow_start_share) =
            (self.state().capacity(), self.state().slow_start_share());
        let weight =
            u64::from(self.inner.config.weight) * u64::from(capacity) * u64::from(slow_start_share);
        let least = u32::from(self.inner.config.weight > 0);
        u32::try_from(weight / u64::from(FULL))
            .unwrap_or(u32::MAX)
            .max(least)
    }

    /// Whether both are dialled alike; weight, tier and caps do not matter.
    pub(super) fn same_address(&self, other: &Self) -> bool {
        self.inner.config.same_address(&other.inner.config)
    }

    /// Returns the names of the settings in which both differ.
    pub(super) fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let (own, others) = (&*self.inner.config, &*other.inner.config);
        let url = own.same_address(others)
            && own.base_path == others.base_path
            && own.authority == others.authority;
        let same = [
            ("url", url),
            ("protocol", own.protocol == others.protocol),
            ("weight", own.weight == others.weight),
            ("tier", own.tier == others.tier),
            ("locality", own.locality == others.locality),
            (
                "max_in_flight",
                self.inner.max_in_flight == other.inner.max_in_flight,
            ),
        ];
        let differing = same.iter().filter(|(_, same)| !same);
        differing.map(|(name, _)| *name).collect()
    }

    /// Returns where it is dialled, to be compared later.
    pub(crate) fn address(&self) -> Address {
        Address(self.inner.config.clone())
    }

    /// Returns the log's words for the backend, which are made once.
    #[cfg(feature = "access-log")]
    pub(crate) fn log_fragment(&self, make: impl FnOnce(&Self) -> Box<[u8]>) -> &[u8] {
        self.inner.config.log_fragment.get_or_init(|| make(self))
    }

    fn config_mut(&mut self) -> &mut Config {
        let config = Arc::make_mut(&mut Arc::make_mut(&mut self.inner).config);
        // They may name what is about to change.
        #[cfg(feature = "access-log")]
        config.log_fragment.take();
        config
    }
}

impl Config {
    fn same_address(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.host == other.host
            && self.port == other.port
            && self.unix == other.unix
    }
}

/// Where a backend was dialled. Holds nothing of the backend's state alive.
pub(crate) struct Address(Arc<Config>);

impl Address {
    /// Returns true if the backend is still dialled alike.
    pub(crate) fn is_of(&self, backend: &Backend) -> bool {
        Arc::ptr_eq(&self.0, &backend.inner.config) || self.0.same_address(&backend.inner.config)
    }
}

struct ShownAddress<'a>(&'a Backend);

impl fmt::Display for ShownAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.host(), self.0.port());
        match self.0.configured_unix_socket() {
            Some(path) => path.display().fmt(f),
            // No name holds a colon.
            None if host.contains(':') => write!(f, "[{host}]:{port}"),
            None => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.0.id).finish()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("id", &self.inner.config.id)
            .field("host", &self.inner.config.host)
            .field("port", &self.inner.config.port)
            .field("weight", &self.inner.config.weight)
            .field("tier", &self.inner.config.tier)
            .field("health", &self.health())
            .field("mode", &self.mode())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Config {
    fn parse(id: String, url: &str) -> Result<Self, ConfigError> {
        let bad = |why: &str| ConfigError::new("url", format!("{url:?}: {why}"));
        let uri: Uri = url
            .parse()
            .map_err(|error| bad(&format!("not a URL ({error})")))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(bad("http:// or https:// is accepted")),
        };
        let authority = uri.authority().ok_or_else(|| bad("a host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("user information is not accepted"));
        }
        if uri.query().is_some() || url.contains('#') {
            return Err(bad("a query or fragment is not accepted"));
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(bad("a host is missing"));
        }
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => scheme.default_port(),
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(bad("port 1 to 65535 is accepted")),
            },
        };
        let base_path = uri
            .path_and_query()
            .map_or("", PathAndQuery::path)
            .trim_end_matches('/');
        Ok(Self {
            id: id.into(),
            scheme,
            host: host.into(),
            port,
            base_path: base_path.into(),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|error| bad(&error.to_string()))?,
            unix: None,
            protocol: Protocol::Auto,
            weight: 1,
            tier: 0,
            locality: None,
            #[cfg(feature = "access-log")]
            log_fragment: std::sync::OnceLock::new(),
        })
    }
}

/// The scheme of a backend's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// Returns the port that the scheme implies (RFC 9110 §4.2).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Returns the scheme's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The HTTP version spoken with a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 in cleartext; over TLS what ALPN selects, HTTP/2 preferred.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; in cleartext with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// Ids stand in logs and metrics: long enough for a DNS label with a port, short enough to read.
const MAX_ID: usize = 128;
/// Keeps the bounded round-robin order (4,096 slots) fine enough to honour a weight of one, and a
/// weight in thousandths in 32 bits.
const MAX_WEIGHT: u32 = 1_000;
