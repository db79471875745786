//! A TCP connection to one of several addresses, and why there is none.
//!
//! "Happy Eyeballs" (RFC 8305): a host whose IPv6 does not work would otherwise wait for a TCP
//! time-out at each connection. Families alternate, the resolver's first one first. The next
//! address begins 250 ms after the one before, or at once when that fails.
//!
//! ```text
//!    [::1] ───────────────✗ refused
//!    1.1.1.1              └────────────────✓ wins; the others are aborted
//!    [::2]                        └ 250 ms ──── aborted
//! ```
//!
//! The attempts are tasks in a `JoinSet`, which aborts them when the race ends or is dropped: no
//! socket outlives it.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    error::{Error, ErrorKind},
    local_fault::LocalFault,
};

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
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
    // The unspecified address of the same family: the kernel chooses a source as it does for TCP.
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
///
/// Decides what the failure is charged to: a local fault counts against no backend.
#[derive(Debug)]
pub(super) enum DialError {
    /// The cause is in this process or its host.
    Local(LocalFault, io::Error),
    Backend(io::Error),
}

impl DialError {
    pub(super) fn new(error: io::Error) -> Self {
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

/// Costs three system calls.
///
/// # Errors
///
/// `ConnectionRefused` for a connection of a socket to itself. Without this check a backend that is
/// down on an ephemeral port looks up at times, and a check would talk to itself.
pub(super) fn set_up(stream: TcpStream) -> io::Result<TcpStream> {
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
pub(super) fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
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
///
/// # Errors
///
/// The failure of the last address, or a local fault. The caller bounds the time; the race itself
/// waits as long as the kernel does.
pub(super) async fn race(mut addresses: VecDeque<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut running = JoinSet::new();
    let no_address = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = DialError::Backend(no_address);
    loop {
        if let Some(address) = addresses.pop_front() {
            running.spawn(connect(address));
        }
        // No timer for the last address: there is no next one.
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
                // A task that panicked; `connect` does not.
                Some(Err(error)) => last = DialError::Backend(io::Error::other(error)),
                None if addresses.is_empty() => return Err(last),
                None => {}
            },
            () = delay => {}
        }
    }
}

/// RFC 8305 §5 recommends 250 ms.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

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
