//! From a backend to a connected stream.

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
    Stream, TargetOverride,
    resolve::{self, Addresses, Resolve, ResolvedAddress},
};
#[cfg(feature = "__sockets")]
use crate::tcp_timeout;
use crate::{
    error::{ConfigError, Error, ErrorKind},
    local_fault::LocalFault,
    pool::{Backend, Protocol, Scheme},
};

/// Connects to backends; cheap to clone.
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

    /// Sets how long a connection may take, TLS included.
    ///
    /// Default: 2 s.
    ///
    /// # Errors
    ///
    /// When it is zero or over an hour.
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

    /// Sets after how long a backend that acknowledges nothing of what it is sent is given up,
    /// as one that vanished in the middle of an upload: `TCP_USER_TIMEOUT`, as no deadline here
    /// sees more than that the kernel took what was written. It ends a backend, too, that reads
    /// nothing for so long.
    ///
    /// There are no keepalive probes: whatever waits for a backend has a deadline of its own.
    ///
    /// Linux, Android and Fuchsia only, and no Unix sockets. Costs a system call a connection.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// Under a second or over an hour.
    #[cfg(feature = "__sockets")]
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.user_timeout = tcp_timeout::validate(timeout)?;
        Ok(self)
    }

    /// Sets what looks up the names of backends.
    ///
    /// Default: the operating system's resolver.
    pub fn resolver(mut self, resolver: impl Resolve + 'static) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    pub(crate) fn timeout_limit(&self) -> Duration {
        self.timeout
    }

    /// Sets how TLS to `https` backends is spoken.
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

    /// Connects to where a check asks in the backend's place: another port, address, scheme or
    /// name of the certificate.
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

    /// Connects by the deadline, or by the time-out where that is sooner.
    pub(crate) async fn connect_by(
        &self,
        backend: &Backend,
        target: &TargetOverride,
        deadline: Instant,
    ) -> Result<Connected, Error> {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let destination = self.destination(backend, target, deadline).await?;
        match timeout_at(deadline, self.connect_now(backend, target, destination)).await {
            Ok(result) => result,
            Err(_) => Err(ErrorKind::ConnectTimeout.into()),
        }
    }

    /// Finds out where to connect to. Time that the resolver takes is not the backend's.
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
        let connected =
            match target.scheme_of(backend) {
                Scheme::Http => Ok(Connected {
                    stream,
                    http2: backend.configured_protocol() == Protocol::Http2,
                    resolved: None,
                }),
                #[cfg(feature = "__tls")]
                Scheme::Https => self.tls.handshake(stream, backend, target).await,
                #[cfg(not(feature = "__tls"))]
                Scheme::Https => Err(Error::new(ErrorKind::ConnectTls)
                    .with_source("built without the feature `tls`")),
            };
        connected.map(|connected| Connected {
            resolved,
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
    /// Where it leads, if that was found by name.
    pub(super) resolved: Option<ResolvedAddress>,
}

impl Connected {
    /// Returns true if HTTP/2 is to be spoken: by ALPN, or with prior knowledge.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Returns where it leads, if that was found by name.
    pub(crate) fn resolved(&self) -> Option<&ResolvedAddress> {
        self.resolved.as_ref()
    }

    /// Returns the stream.
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

/// EADDRNOTAVAIL says that no local port is free, or that this machine has no address to reach the
/// other one from, such as where IPv6 is switched off. A UDP socket tells: its ports are others, and
/// it sends nothing.
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
    /// For a cause on this side.
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
        // TCP met itself: the ephemeral port was the one asked for, and nobody listens there.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // A small request or frame must not wait for the last one's acknowledgement.
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

/// Tries each address; a further one begins when the last failed, or after a delay beside it. Where
/// one could not be tried for a cause on this side, that is told: it may have answered.
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

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// RFC 8305 §5 recommends 250 ms.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

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
