//! The listening sockets of a process: from its predecessor, from systemd, or its own.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use listenfd::ListenFd;
use socket2::{SockRef, Type};

use super::message::SocketGroup;
use crate::tcp_listener;

/// Listening sockets, in groups that share an address.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    /// The address in the settings; its port may be 0.
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Sockets {
    /// Makes sockets of received descriptors. There are fewer of them than announced if the sender
    /// died.
    pub(super) fn of_descriptors(
        announced: &[SocketGroup],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut groups = Vec::new();
        for group in announced {
            let received = descriptors.by_ref().take(group.count);
            let sockets = received.map(listener).collect::<io::Result<Vec<_>>>()?;
            if !sockets.is_empty() {
                groups.push(Group {
                    address: group.address,
                    sockets,
                });
            }
        }
        Ok(Self { groups })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Adds the groups of `others` whose address is not here.
    pub(super) fn add(&mut self, others: Self) {
        for group in others.groups {
            if self.find(group.address).is_none() {
                self.groups.push(group);
            }
        }
    }

    /// Returns `count` sockets or more for an address: those that are here, and others that are
    /// bound. Moves copies of them to `used`.
    pub(super) fn take(
        &mut self,
        address: SocketAddr,
        count: NonZeroUsize,
        used: &mut Self,
    ) -> io::Result<Vec<TcpListener>> {
        let found = self.find(address);
        let mut sockets = found.map_or_else(Vec::new, |at| self.groups.remove(at).sockets);
        let is_inherited = !sockets.is_empty();
        if !is_inherited {
            sockets.push(tcp_listener::bind(address, count.get() > 1)?);
        }
        let bound = sockets[0].local_addr()?;
        let mut is_shared = SockRef::from(&sockets[0]).reuse_port()?;
        while sockets.len() < count.get() {
            let another = match is_shared {
                true => tcp_listener::bind(bound, true),
                // One of systemd without `ReusePort=`, or of a process with one thread: several
                // threads accept from one queue.
                false => sockets[0].try_clone(),
            };
            match another {
                Ok(socket) => sockets.push(socket),
                // A socket of systemd belongs to root, and only the same user may bind another one to
                // its port. The right to bind a low port, or the address itself, may be absent, too.
                Err(error) if is_shared && is_inherited => {
                    tracing::info!(
                        target: "evenkeel::fleet",
                        %address, %error,
                        "the inherited socket is the only one: the threads share its queue"
                    );
                    is_shared = false;
                }
                Err(error) => return Err(error),
            }
        }
        let copies = sockets.iter().map(TcpListener::try_clone);
        used.groups.push(Group {
            address,
            sockets: copies.collect::<io::Result<_>>()?,
        });
        Ok(sockets)
    }

    pub(super) fn announce(&self) -> Vec<SocketGroup> {
        let groups = self.groups.iter().map(|group| SocketGroup {
            address: group.address,
            count: group.sockets.len(),
        });
        groups.collect()
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let all = self.groups.iter().flat_map(|group| &group.sockets);
        all.map(AsFd::as_fd).collect()
    }

    /// Returns the addresses, for a log line.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.groups.iter().map(|group| group.address).collect()
    }

    /// Finds the group that was configured for the address, or else one that is bound to it.
    fn find(&self, address: SocketAddr) -> Option<usize> {
        let configured = |group: &Group| group.address == address;
        let bound = |group: &Group| {
            let socket = group.sockets.first();
            socket.is_some_and(|socket| socket.local_addr().is_ok_and(|local| local == address))
        };
        let found = self.groups.iter().position(configured);
        found.or_else(|| self.groups.iter().position(bound))
    }
}

/// The sockets that systemd passed to this process, or another program that passes them in the same
/// way (sd_listen_fds(3)). Those that are not used are closed.
#[derive(Debug, Default)]
#[must_use]
pub struct PassedSockets(pub(super) Sockets);

impl PassedSockets {
    /// Takes the sockets that `LISTEN_FDS` announces. Without this variable, and if `LISTEN_PID` names
    /// another process, there are none.
    ///
    /// Call it before other threads start: both variables are removed from the environment, which
    /// other threads must not read at that moment.
    ///
    /// # Errors
    ///
    /// If a descriptor is no listening TCP socket.
    pub fn take() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut all = Sockets::default();
        for nth in 0..passed.len() {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("LISTEN_FDS, socket {nth}: {error}"))
            };
            let taken = passed.take_tcp_listener(nth).map_err(named)?;
            let Some(socket) = taken else { continue };
            let socket = listener(socket.into()).map_err(named)?;
            let address = socket.local_addr().map_err(named)?;
            match all.groups.iter_mut().find(|g| g.address == address) {
                Some(group) => group.sockets.push(socket),
                None => all.groups.push(Group {
                    address,
                    sockets: vec![socket],
                }),
            }
        }
        Ok(Self(all))
    }
}

/// Makes a listener of a descriptor, which must be one.
fn listener(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let socket = SockRef::from(&descriptor);
    let address = socket.local_addr()?;
    if socket.r#type()? != Type::STREAM || address.as_socket().is_none() || !is_listener(&socket)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the descriptor is no listening TCP socket",
        ));
    }
    socket.set_nonblocking(true)?;
    Ok(descriptor.into())
}

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "fuchsia"
))]
fn is_listener(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "fuchsia"
)))]
fn is_listener(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpStream, os::unix::fs::fchown};

    use socket2::{Domain, Socket};

    use super::*;

    const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    /// Makes a listener with `SO_REUSEPORT` that belongs to another user, as one of systemd does.
    fn of_another_user() -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        fchown(&socket, Some(65_534), None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(16)?;
        Ok(socket.into())
    }

    #[test]
    fn threads_share_the_queue_of_a_socket_that_belongs_to_another_user() {
        let socket = match of_another_user() {
            // Only root may give a socket away.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let _ = writeln!(io::stderr(), "NOT RUN: a socket of another user: {error}");
                return;
            }
            socket => socket.unwrap(),
        };
        let address = socket.local_addr().unwrap();
        let bound = tcp_listener::bind(address, true);
        assert_eq!(bound.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mut inherited = Sockets {
            groups: vec![Group {
                address,
                sockets: vec![socket],
            }],
        };
        let mut used = Sockets::default();
        let sockets = inherited.take(address, THREE, &mut used).unwrap();
        assert_eq!((sockets.len(), used.groups[0].sockets.len()), (3, 3));
        for socket in &sockets {
            let client = TcpStream::connect(address).unwrap();
            socket.set_nonblocking(false).unwrap();
            let (_, peer) = socket.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap(), "each has the queue");
        }
        // What is not inherited, and whose port another has, is an error as before.
        let error = Sockets::default().take(address, THREE, &mut used);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
