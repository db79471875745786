//! `Connector`: from a backend to a connected stream.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

#[cfg(feature = "__tls")]
use super::ClientTls;
use super::{
    DialTimes, Stream, TargetOverride,
    resolve::{self, Addresses, Resolve, ResolvedAddress},
};
#[cfg(feature = "__sockets")]
use crate::tcp_timeout;
use crate::{
    error::{ConfigError, Error, ErrorKind},
    local_fault::LocalFault,
    pool::{Backend, Protocol, Scheme},
};

/// Connects to backends. See the [module](super) for the steps and the defaults. A clone costs two
/// atomic additions.
#[derive(Clone, Debug)]
#[must_use]
pub struct Connector {
    timeout: Duration,
    resolver: Arc<dyn Resolve>,
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

    /// Connects by the deadline, or within the time-out if that ends sooner.
    pub(crate) async fn connect_by(
        &self,
        backend: &Backend,
        target: &TargetOverride,
        deadline: Instant,
    ) -> Result<Connected, Error> {
        let began = Instant::now();
        let deadline = deadline.min(began + self.timeout);
        let destination = self.destination(backend, target, deadline).await?;
        let connecting = self.connect_now(backend, target, destination, began);
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
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Destination::Address((ip, port).into()));
        }
        let addresses = resolve::addresses(backend, host, &self.resolver, deadline).await?;
        Ok(Destination::Name(addresses, port))
    }

    async fn connect_now(
        &self,
        backend: &Backend,
        target: &TargetOverride,
        destination: Destination<'_>,
        began: Instant,
    ) -> Result<Connected, Error> {
        let (stream, resolved) = match destination {
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
                Scheme::Https => self.tls.handshake(stream, backend, target).await,
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

/// A connection to a backend that is ready for a request.
#[derive(Debug)]
pub struct Connected {
    pub(super) stream: Stream,
    pub(super) http2: bool,
    /// The address, if it was found by name.
    pub(super) resolved: Option<ResolvedAddress>,
    pub(crate) took: DialTimes,
}

impl Connected {
    /// Returns true if the connection speaks HTTP/2: ALPN selected it, or the backend's protocol is
    /// HTTP/2 (prior knowledge).
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Returns the address, if it was found by name.
    pub(crate) fn resolved(&self) -> Option<&ResolvedAddress> {
        self.resolved.as_ref()
    }

    /// Returns the byte stream.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}

/// Where to connect to.
enum Destination<'a> {
    Address(SocketAddr),
    Name(Addresses, u16),
    Unix(&'a std::path::Path),
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| match is_out_of_ports(&error, address) {
        true => DialError::Local(LocalFault::Ports, error),
        false => DialError::new(error),
    })
}

/// Returns true if `error` means that no local port is free. EADDRNOTAVAIL also means that this host
/// has no address to reach the other from, such as with IPv6 switched off. A UDP socket shows which:
/// it has ports of its own, and connecting it sends nothing.
fn is_out_of_ports(error: &io::Error, to: SocketAddr) -> bool {
    if error.kind() != io::ErrorKind::AddrNotAvailable {
        return false;
    }
    let any: IpAddr = match to.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let reached = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to));
    match reached {
        Ok(()) => true,
        Err(error) => LocalFault::of(&error).is_some(),
    }
}

/// Why there is no connection.
#[derive(Debug)]
enum DialError {
    /// The cause is in this process or its host.
    Local(LocalFault, io::Error),
    Backend(io::Error),
}

impl DialError {
    fn new(error: io::Error) -> Self {
        match LocalFault::of(&error) {
            Some(fault) => Self::Local(fault, error),
            None => Self::Backend(error),
        }
    }
}

impl From<DialError> for Error {
    fn from(failed: DialError) -> Self {
        match failed {
            DialError::Local(fault, error) => fault.error(&error),
            DialError::Backend(error) => Self::new(ErrorKind::Connect).with_source(error),
        }
    }
}

fn set_up(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? == stream.peer_addr()? {
        // The ephemeral port was the one dialled (a TCP simultaneous open with itself): no process
        // listens there.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // A small request or frame must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Alternates address families, the resolver's first family first (RFC 8305 §4).
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut rest: VecDeque<_> = addresses.collect();
    let mut ordered = VecDeque::with_capacity(rest.len());
    let mut want_ipv6 = rest.front().is_some_and(SocketAddr::is_ipv6);
    while let Some(first) = rest.front().copied() {
        let next = rest.iter().position(|a| a.is_ipv6() == want_ipv6);
        ordered.push_back(next.and_then(|i| rest.remove(i)).unwrap_or_else(|| {
            rest.pop_front();
            first
        }));
        want_ipv6 = !want_ipv6;
    }
    ordered
}

/// Dials the addresses until one connects. The next begins when one fails, or beside it after
/// [`ATTEMPT_DELAY`]. A local fault takes precedence over the failures of other addresses in the
/// result: the address that could not be tried may be the one that works.
async fn race(mut addresses: VecDeque<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut running = JoinSet::new();
    let no_address = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = DialError::Backend(no_address);
    loop {
        if let Some(address) = addresses.pop_front() {
            running.spawn(connect(address));
        }
        let delay = async {
            if addresses.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(ATTEMPT_DELAY).await;
        };
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(failed))) if !matches!(last, DialError::Local(..)) => last = failed,
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => last = DialError::Backend(io::Error::other(error)),
                None if addresses.is_empty() => return Err(last),
                None => {}
            },
            () = delay => {}
        }
    }
}

pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// RFC 8305 §5 recommends 250 ms.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate() {
        let given = addresses(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1"]);
        let wanted = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        let got: Vec<_> = interleave(given.into_iter()).into();
        assert_eq!(got, wanted);
    }

    #[tokio::test]
    async fn a_refused_address_does_not_delay_the_next() {
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = refused.local_addr().unwrap();
        drop(refused);
        let began = Instant::now();
        let stream = race([dead, good.local_addr().unwrap()].into())
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        assert!(
            began.elapsed() < ATTEMPT_DELAY,
            "a refusal must end the wait"
        );
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_none() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        let error = set_up(stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn no_address_is_an_error() {
        assert!(race(VecDeque::new()).await.is_err());
    }
}
