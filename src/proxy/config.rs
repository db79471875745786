//! `Proxy`: its settings and their defaults.

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "http2")]
use http::HeaderValue;

use super::{
    ForwardedFields, connection_pool::ConnectionPool, headers::ClientFields, http1::Timeouts,
};
use crate::{
    connect::Connector,
    context::{ConnCache, TrustedPeers},
    error::ConfigError,
    pool::{AttachmentCache, AttachmentKey},
    slots::SlotKey,
};

/// A service that sends each request to its [`Selected`](crate::context::Selected) backend; see the
/// [module](super).
///
/// Clones share idle connections. A setter on a clone separates it: its connections may lead elsewhere
/// or be verified in another way. Use one proxy for each worker thread to keep connections on the runtime
/// that polls them.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{context::TrustedPeers, proxy::{HostField, Proxy}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Behind another load balancer, in front of backends that know their own names only.
/// let proxy = Proxy::new()
///     .trusted_peers(TrustedPeers::new(["10.0.0.0/8"])?)
///     .host(HostField::Backend)
///     .response_timeout(Duration::from_secs(30))?;
/// # let _: Proxy = proxy;
///
/// let wrong = Proxy::new().response_timeout(Duration::ZERO);
/// assert_eq!(wrong.unwrap_err().field(), "response_timeout");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Proxy {
    pub(super) settings: Arc<Settings>,
    pub(super) recent: AttachmentCache<ConnectionPool>,
}

/// Shared by all clones of a proxy; read by each request, written by setters only.
#[derive(Clone)]
pub(super) struct Settings {
    /// The key of the header bytes that the requests of a connection have in common.
    pub(super) client_fields: Arc<SlotKey<ConnCache<ClientFields>>>,
    /// What the pool of a backend is stored under, at the backend.
    pub(super) key: Arc<AttachmentKey<ConnectionPool>>,
    pub(super) connector: Connector,
    pub(super) timeouts: Timeouts,
    pub(super) tunnel_timeout: Duration,
    pub(super) max_idle: usize,
    pub(super) max_age: Option<Duration>,
    pub(super) trusted: TrustedPeers,
    pub(super) forwarded: ForwardedFields,
    pub(super) client_cert: ClientCertFields,
    pub(super) host: HostField,
    pub(super) allow_trace: bool,
    /// One for each version that a request may have come in: 1.0, 1.1, 2.
    pub(super) via: Option<[Via; 3]>,
}

/// The `Via` field.
#[derive(Clone)]
pub(super) struct Via {
    #[cfg(feature = "http2")]
    pub(super) value: HeaderValue,
    /// The whole line, for HTTP/1.1.
    pub(super) line: Box<[u8]>,
}

/// The host that the backend is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostField {
    /// The host of the backend's URL. `X-Forwarded-Host` still has the client's.
    Backend,
    /// The host that the client asked for.
    #[default]
    Client,
}

/// Which fields give the backend the client's certificate (RFC 9440).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertFields {
    /// None.
    #[default]
    None,
    /// `Client-Cert`: the client's own certificate. A typical one takes about 1 KiB of each request.
    Leaf,
    /// `Client-Cert`, and `Client-Cert-Chain` with the certificates that the client sent behind its own.
    Chain,
}

impl Proxy {
    /// Makes a proxy with the defaults.
    pub fn new() -> Self {
        Self {
            settings: Arc::new(Settings {
                client_fields: Arc::new(SlotKey::new()),
                key: Arc::new(AttachmentKey::new()),
                connector: Connector::new(),
                timeouts: Timeouts {
                    response: DEFAULT_RESPONSE_TIMEOUT,
                    idle: DEFAULT_IDLE_TIMEOUT,
                },
                tunnel_timeout: DEFAULT_TUNNEL_TIMEOUT,
                max_idle: DEFAULT_MAX_IDLE,
                max_age: None,
                trusted: TrustedPeers::default(),
                forwarded: ForwardedFields::default(),
                client_cert: ClientCertFields::default(),
                host: HostField::default(),
                allow_trace: false,
                via: via("evenkeel").ok(),
            }),
            recent: AttachmentCache::default(),
        }
    }

    /// Sets the connector: time-out, resolver and TLS.
    ///
    /// Default: [`Connector::new`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.settings_mut().connector = connector;
        self
    }

    /// Sets how long a backend may take from the end of the request to the end of the response head.
    ///
    /// Default: 15 s. Deadlines are checked ten times a second, so they fire up to 0.2 s late.
    ///
    /// # Errors
    ///
    /// If it is under 10 ms or over a day.
    pub fn response_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings_mut().timeouts.response = in_range("response_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how long a side may send nothing in the middle of a message, and how long an idle connection
    /// is kept.
    ///
    /// Default: 60 s. Choose a value below the backends' own keep-alive time-out: if a backend closes a
    /// connection at the moment of its reuse, requests that are not idempotent fail.
    ///
    /// # Errors
    ///
    /// If it is under 10 ms or over a day.
    pub fn idle_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings_mut().timeouts.idle = in_range("idle_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how long a tunnel, such as a WebSocket, may be silent in both directions.
    ///
    /// Default: 1 h.
    ///
    /// # Errors
    ///
    /// If it is under 10 ms or over a day.
    pub fn tunnel_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings_mut().tunnel_timeout = in_range("tunnel_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how many idle connections are kept for each backend.
    ///
    /// Default: 1,024. Each costs the backend a socket, and this process about 1 KiB, or more with TLS.
    pub fn max_idle(mut self, max: usize) -> Self {
        self.settings_mut().max_idle = max;
        self
    }

    /// Sets the largest age of a connection to a backend. An older one is closed when its exchange ends,
    /// or at once if it is idle. Over HTTP/2 no further streams begin on it, and open streams run to
    /// their end. Tunnels stay.
    ///
    /// Set it if a backend is the address of another load balancer that spreads connections: without an
    /// age, its new members get no connections. A backend that is a *name* needs none, as connections to
    /// an address that the name has left are retired.
    ///
    /// The age is noticed late by up to an eighth, at least 0.1 s. A short age costs handshakes: with
    /// 60 s and 100 connections in use, two a second.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// If it is under a second or over a day.
    pub fn max_connection_age(mut self, age: Duration) -> Result<Self, ConfigError> {
        if age < Duration::from_secs(1) || age > Duration::from_secs(86_400) {
            return Err(ConfigError::new(
                "max_connection_age",
                format!("{age:?}: 1 s to 24 h is accepted"),
            ));
        }
        self.settings_mut().max_age = Some(age);
        Ok(self)
    }

    /// Sets the peers whose `X-Forwarded-*`, `X-Real-IP` and `Forwarded` fields are passed on and added
    /// to. Those of other peers are removed or replaced, and so are their spellings with underscores. Trust
    /// only the load balancers in front: a client on a trusted network can forge its address.
    ///
    /// [`ForwardedLayer`](crate::forwarded::ForwardedLayer) finds the address of the client itself. A
    /// [`LoadBalancer`](crate::LoadBalancer) has that layer for the same peers.
    ///
    /// Default: none.
    pub fn trusted_peers(mut self, trusted: TrustedPeers) -> Self {
        self.settings_mut().trusted = trusted;
        self
    }

    /// For `LoadBalancer`, which gives the same peers to its other layers.
    pub(crate) fn trusts(&self) -> &TrustedPeers {
        &self.settings.trusted
    }

    /// Sets the fields that describe the client to the backend.
    ///
    /// Default: [`ForwardedFields::XForwarded`].
    pub fn forwarded(mut self, fields: ForwardedFields) -> Self {
        self.settings_mut().forwarded = fields;
        self
    }

    /// Sets the fields that give the backend the certificate of the client, as the handshake has verified
    /// it ([`TlsInfo::client`](crate::context::TlsInfo::client)); RFC 9440. A request of a client without
    /// a certificate has none of them: what the client sends under these names never passes, with any
    /// setting and from any peer.
    ///
    /// Default: [`ClientCertFields::None`].
    pub fn client_cert_fields(mut self, fields: ClientCertFields) -> Self {
        self.settings_mut().client_cert = fields;
        self
    }

    /// Sets the host that the backend is asked for.
    ///
    /// Default: [`HostField::Client`].
    pub fn host(mut self, host: HostField) -> Self {
        self.settings_mut().host = host;
        self
    }

    /// Sets whether TRACE is forwarded. A backend answers it with the request as it came, including the
    /// fields that proxies on the way have added. At `Max-Forwards: 0` the proxy answers itself, without
    /// cookies and credentials.
    ///
    /// Default: false. TRACE then fails with [`MethodRefused`](crate::ErrorKind::MethodRefused), which
    /// [`RespondLayer`](crate::respond::RespondLayer) answers with 405 and `Allow`. CONNECT is always
    /// refused.
    pub fn allow_trace(mut self, allow: bool) -> Self {
        self.settings_mut().allow_trace = allow;
        self
    }

    /// Sets the name in the `Via` field, which RFC 9110 §7.6.3 requires of a gateway.
    ///
    /// Default: `evenkeel`.
    ///
    /// # Errors
    ///
    /// If it is not a token.
    pub fn via(mut self, name: &str) -> Result<Self, ConfigError> {
        self.settings_mut().via = Some(via(name)?);
        Ok(self)
    }

    /// Each call separates this proxy from its clones, and from the connections that it has:
    /// configure first, clone afterwards.
    fn settings_mut(&mut self) -> &mut Settings {
        // A clone shares the settings until one of the two is changed.
        let settings = Arc::make_mut(&mut self.settings);
        // Connections and header bytes of the former settings must not be used: they may lead elsewhere,
        // or may have been verified in another way.
        settings.key = Arc::new(AttachmentKey::new());
        settings.client_fields = Arc::new(SlotKey::new());
        settings
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("connector", &self.settings.connector)
            .field("timeouts", &self.settings.timeouts)
            .field("forwarded", &self.settings.forwarded)
            .field("client_cert", &self.settings.client_cert)
            .field("host", &self.settings.host)
            .finish_non_exhaustive()
    }
}

/// Three texts for the versions in which a request can come in, made once: RFC 9110 §7.6.3 wants
/// the received version.
fn via(name: &str) -> Result<[Via; 3], ConfigError> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(ConfigError::new(
            "via",
            format!("{name:?}: a token of letters, digits and -._~ is accepted"),
        ));
    }
    let made = |version: &str| {
        let text = format!("{version} {name}");
        let line = format!("via: {text}\r\n").into_bytes().into();
        Ok(Via {
            #[cfg(feature = "http2")]
            value: HeaderValue::try_from(text)
                .map_err(|error| ConfigError::new("via", error.to_string()))?,
            line,
        })
    };
    Ok([made("1.0")?, made("1.1")?, made("2")?])
}

fn in_range(field: &str, timeout: Duration) -> Result<Duration, ConfigError> {
    if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(86_400) {
        return Err(ConfigError::new(
            field,
            format!("{timeout:?}: 10 ms to 24 h is accepted"),
        ));
    }
    Ok(timeout)
}

/// Enough for slow reports, and shorter than most clients wait.
const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// The default of nginx and of many backends.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The value that HAProxy's documentation suggests for WebSockets.
const DEFAULT_TUNNEL_TIMEOUT: Duration = Duration::from_secs(3_600);
/// More than a busy backend has in flight from one balancer.
const DEFAULT_MAX_IDLE: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::DEFAULT_TIMEOUT,
        wire::fields::{MAX_FIELDS, MAX_HEAD},
    };

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let settings = &*Proxy::new().settings;
        assert_eq!(settings.max_age, None);
        assert_eq!(settings.host, HostField::Client);
        assert_eq!(settings.client_cert, ClientCertFields::None);
        assert_eq!(settings.forwarded, ForwardedFields::XForwarded);
        assert!(settings.trusted.is_empty() && !settings.allow_trace);
        let seconds = |time: Duration| format!("{} s", time.as_secs());
        let hours = settings.tunnel_timeout.as_secs() / 3_600;
        let (thousands, rest) = (settings.max_idle / 1_000, settings.max_idle % 1_000);
        let text = str::to_owned;
        let compared = [
            ("connect", seconds(DEFAULT_TIMEOUT)),
            ("response head, once", seconds(settings.timeouts.response)),
            ("a side sends nothing", seconds(settings.timeouts.idle)),
            ("an idle connection", seconds(settings.timeouts.idle)),
            ("a tunnel is silent", format!("{hours} h")),
            ("idle connections", format!("{thousands},{rest:03}")),
            ("largest age of a connection", text("none")),
            ("response head", format!("{MAX_FIELDS} fields")),
            ("response head", format!("{} KiB", MAX_HEAD / 1_024)),
            ("`Host`", text("the client's")),
            ("fields about the client", text("`X-Forwarded-For`")),
            ("trusted peers", text("none")),
            ("fields of the client's certificate", text("none")),
            ("`Via`", text("`evenkeel`")),
            ("TRACE, CONNECT", text("refused: 405")),
            ("`Max-Forwards`", text("counted for OPTIONS and TRACE")),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
