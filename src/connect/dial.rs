//! `Connector`: from a backend to a connected stream.
//!
//! ```text
//!   deadline ├───────────────── one time-out, 2 s ─────────────────┤
//!            look up the name │ dial, race │ PROXY header │ TLS
//!            └ a local fault, └─────── these are charged to the backend,
//!              if it fails             as is a name that is denied (NXDOMAIN): `Connect`
//! ```
//!
//! The look-up has a phase of its own inside the one deadline: a resolver that is slow must not
//! make backends look slow. All of it is one future without a task, except for the race and the
//! look-ups; dropping it closes what was opened.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    time::{Instant, timeout_at},
};

#[cfg(feature = "__tls")]
use super::ClientTls;
use super::{
    Connected, DialTimes, ProxyVersion, Stream, TargetOverride, proxy_header,
    race::{DialError, connect, interleave, race, set_up},
    resolve::{self, Addresses, Resolve},
};
#[cfg(feature = "__sockets")]
use crate::tcp_timeout;
use crate::{
    context::ConnInfo,
    error::{ConfigError, Error, ErrorKind},
    pool::{Backend, Protocol, ProxyProtocol, Scheme},
};

/// Connects to backends. See the [module](super) for the steps and the defaults. A clone costs an
/// atomic addition, and with the feature `tls` that of a `ClientTls`.
///
/// Clones share the resolver and the TLS sessions. The proxy and the checks should have clones of
/// one connector, so that a check takes the way of a request.
#[derive(Clone, Debug)]
#[must_use]
pub struct Connector {
    timeout: Duration,
    resolver: Arc<dyn Resolve>,
    proxy_version: Option<ProxyVersion>,
    #[cfg(feature = "__sockets")]
    user_timeout: Duration,
    #[cfg(feature = "__tls")]
    tls: ClientTls,
}

impl Connector {
    /// Makes a connector with the defaults.
    pub fn new() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            resolver: resolve::system(),
            proxy_version: None,
            #[cfg(feature = "__sockets")]
            user_timeout: tcp_timeout::DEFAULT,
            #[cfg(feature = "__tls")]
            tls: ClientTls::new(),
        }
    }

    /// Sets how long a connection may take, from the look-up of the name to the end of the TLS
    /// handshake.
    ///
    /// Default: 2 s.
    ///
    /// # Errors
    ///
    /// If it is zero or over an hour.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout.is_zero() || timeout > Duration::from_secs(3_600) {
            return Err(ConfigError::new(
                "connect_timeout",
                format!("{timeout:?}: more than 0 and at most 1 h is accepted"),
            ));
        }
        self.timeout = timeout;
        Ok(self)
    }

    /// Sets how long the kernel waits for the backend to acknowledge sent data before it ends the
    /// connection (`TCP_USER_TIMEOUT`). This finds a backend that vanishes in the middle of an upload:
    /// the other deadlines see only that the kernel has taken the data. It also ends a connection
    /// whose backend reads nothing for this long.
    ///
    /// Connections to backends have no keepalive probes: each wait for a backend has a deadline.
    ///
    /// Linux, Android and Fuchsia only, and not for Unix sockets. Costs one system call for each
    /// connection.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// If it is under a second or over an hour.
    #[cfg(feature = "__sockets")]
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.user_timeout = tcp_timeout::validate(timeout)?;
        Ok(self)
    }

    /// Sets the resolver for the names of backends.
    ///
    /// Default: the operating system's resolver.
    pub fn resolver(mut self, resolver: impl Resolve + 'static) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Begins each connection with a PROXY protocol header, which names the client to the backend. It
    /// comes before TLS. Checks, and requests without a known client, send LOCAL (version 2) or UNKNOWN
    /// (version 1).
    ///
    /// The client is the peer of the connection in front, or what a PROXY protocol header there names;
    /// `X-Forwarded-For` changes nothing. Version 2 has fields for the TLS session in front: its
    /// version, cipher suite (the IANA name; HAProxy sends OpenSSL's), server name and ALPN, and the
    /// client certificate's common name.
    ///
    /// **Cost:** a connection then belongs to one client connection. `Proxy` reuses it for that one
    /// alone, as HAProxy does, so that there is one connection to a backend for each connection in
    /// front, and a dial for its first request. HTTP/2 to backends would mix clients: ALPN offers
    /// `http/1.1` only, and a request to a backend with
    /// [`Protocol::Http2`](crate::pool::Protocol::Http2) fails.
    ///
    /// **Hazard:** a backend that does not expect the header refuses every connection, and one that
    /// accepts it from any peer lets clients choose their address.
    ///
    /// A backend that wants something else says so: [`Backend::proxy_protocol`].
    ///
    /// Default: none.
    pub fn proxy_protocol(mut self, version: ProxyVersion) -> Self {
        self.proxy_version = Some(version);
        self
    }

    /// Returns true if a connection to the backend names its client, and so must not serve another.
    pub(crate) fn names_client(&self, backend: &Backend) -> bool {
        self.proxy_version(backend).is_some()
    }

    fn proxy_version(&self, backend: &Backend) -> Option<ProxyVersion> {
        match backend.configured_proxy_protocol() {
            ProxyProtocol::Inherited => self.proxy_version,
            ProxyProtocol::Off => None,
            ProxyProtocol::V1 => Some(ProxyVersion::V1),
            ProxyProtocol::V2 => Some(ProxyVersion::V2),
        }
    }

    pub(crate) fn timeout_limit(&self) -> Duration {
        self.timeout
    }

    /// Sets the roots, the name and the configuration of TLS to `https` backends.
    ///
    /// Default: [`ClientTls::new`].
    #[cfg(feature = "__tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// Connects to the backend.
    ///
    /// # Errors
    ///
    /// See the [module](super).
    ///
    /// # Cancel safety
    ///
    /// What was opened is closed when the future is dropped.
    pub async fn connect(&self, backend: &Backend) -> Result<Connected, Error> {
        self.connect_at(backend, &TargetOverride::new()).await
    }

    /// Connects to the backend with another port, address, scheme or certificate name, as checks do.
    ///
    /// # Errors
    ///
    /// See the [module](super).
    ///
    /// # Cancel safety
    ///
    /// What was opened is closed when the future is dropped.
    pub async fn connect_at(
        &self,
        backend: &Backend,
        target: &TargetOverride,
    ) -> Result<Connected, Error> {
        self.connect_by(backend, target, Instant::now() + self.timeout)
            .await
    }

    /// Connects to the backend for this client. The PROXY protocol header, if the connector
    /// [sends one](Self::proxy_protocol) to this backend, names it.
    ///
    /// # Errors
    ///
    /// See the [module](super).
    ///
    /// # Cancel safety
    ///
    /// What was opened is closed when the future is dropped.
    pub async fn connect_for(
        &self,
        backend: &Backend,
        client: &ConnInfo,
    ) -> Result<Connected, Error> {
        let dial = Dial {
            backend,
            target: &TargetOverride::new(),
            client: Some(client),
        };
        self.dial(dial, Instant::now() + self.timeout).await
    }

    /// Connects by the deadline, or within the time-out if that ends sooner.
    pub(crate) async fn connect_by(
        &self,
        backend: &Backend,
        target: &TargetOverride,
        deadline: Instant,
    ) -> Result<Connected, Error> {
        let dial = Dial {
            backend,
            target,
            client: None,
        };
        self.dial(dial, deadline).await
    }

    async fn dial(&self, dial: Dial<'_>, deadline: Instant) -> Result<Connected, Error> {
        let began = Instant::now();
        // A check has an earlier deadline of its own; no caller gets a later one than the time-out.
        let deadline = deadline.min(began + self.timeout);
        let destination = self
            .destination(dial.backend, dial.target, deadline)
            .await?;
        let connecting = self.connect_now(dial, destination, began);
        match timeout_at(deadline, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Error::timed_out(ErrorKind::ConnectTimeout, self.timeout)),
        }
    }

    /// Resolves the address to connect to. Apart from connecting, as the time that a resolver takes is
    /// not charged to the backend.
    async fn destination<'a>(
        &self,
        backend: &'a Backend,
        target: &'a TargetOverride,
        deadline: Instant,
    ) -> Result<Destination<'a>, Error> {
        if let Some(path) = target.unix_path(backend) {
            return Ok(Destination::Unix(path));
        }
        let (host, port) = target.host_and_port(backend);
        // An address needs no resolver, and is not followed: it cannot move.
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Destination::Address((ip, port).into()));
        }
        let addresses = resolve::addresses(backend, host, &self.resolver, deadline).await?;
        Ok(Destination::Name(addresses, port))
    }

    async fn connect_now(
        &self,
        dial: Dial<'_>,
        destination: Destination<'_>,
        began: Instant,
    ) -> Result<Connected, Error> {
        let (backend, target) = (dial.backend, dial.target);
        let (mut stream, resolved) = match destination {
            Destination::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(DialError::new);
                (Stream::Unix(stream.map_err(Error::from)?), None)
            }
            Destination::Address(address) => (self.set_up(connect(address).await?)?, None),
            Destination::Name(addresses, port) => {
                let stream = race(interleave(addresses.at(port))).await?;
                let resolved = stream
                    .peer_addr()
                    .ok()
                    .and_then(|peer| addresses.resolved(peer));
                (self.set_up(stream)?, resolved)
            }
        };
        if let Some(version) = self.proxy_version(backend) {
            // Before TLS: the backend reads it as the first bytes of the connection.
            let header = proxy_header::encode(version, dial.client);
            let written = stream.write_all(&header).await;
            written.map_err(|error| Error::from(DialError::new(error)))?;
        }
        // The times of connecting and of TLS are apart: the access log has both.
        let connected_at = Instant::now();
        let is_tls = target.scheme_of(backend) == Scheme::Https;
        let connected =
            match target.scheme_of(backend) {
                Scheme::Http => Ok(Connected {
                    stream,
                    http2: backend.configured_protocol() == Protocol::Http2,
                    resolved: None,
                    took: DialTimes::default(),
                }),
                #[cfg(feature = "__tls")]
                Scheme::Https => {
                    let protocol = self.protocol(dial);
                    self.tls.handshake(stream, protocol, dial).await
                }
                #[cfg(not(feature = "__tls"))]
                Scheme::Https => Err(Error::new(ErrorKind::ConnectTls)
                    .with_source("built without the feature `tls`")),
            };
        connected.map(|connected| Connected {
            resolved,
            took: DialTimes {
                connect: connected_at.saturating_duration_since(began),
                tls: is_tls.then(|| connected_at.elapsed()),
            },
            ..connected
        })
    }

    /// Returns the protocol that ALPN asks for. Clients would share a connection of HTTP/2.
    ///
    /// HTTP/1.1 if the connection names its client.
    #[cfg(feature = "__tls")]
    fn protocol(&self, dial: Dial<'_>) -> Protocol {
        match dial.backend.configured_protocol() {
            // A connection that names its client serves it alone.
            Protocol::Auto if self.names_client(dial.backend) => Protocol::Http1,
            configured => configured,
        }
    }

    fn set_up(&self, stream: TcpStream) -> Result<Stream, DialError> {
        let stream = set_up(stream).map_err(DialError::new)?;
        #[cfg(feature = "__sockets")]
        tcp_timeout::set(&socket2::SockRef::from(&stream), self.user_timeout);
        Ok(Stream::Tcp(stream))
    }
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

/// A connection that is asked for.
#[derive(Clone, Copy)]
pub(super) struct Dial<'a> {
    pub(super) backend: &'a Backend,
    pub(super) target: &'a TargetOverride,
    /// The client that the connection is for; `None` for a check.
    client: Option<&'a ConnInfo>,
}

/// Where to connect to.
enum Destination<'a> {
    Address(SocketAddr),
    Name(Addresses, u16),
    Unix(&'a std::path::Path),
}

pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
