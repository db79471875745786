//! Lines as datagrams: to a Unix socket, or over UDP.
//!
//! One line is one datagram, so that a line arrives whole or not at all. What an error says:
//!
//! | error | it is about | the line |
//! |---|---|---|
//! | `WouldBlock`, after a second | a full buffer of the receiver | waits |
//! | `ConnectionRefused` over UDP | an earlier datagram, by ICMP | is sent again; one is counted as lost |
//! | refused, not found, no route | the way to the receiver | waits for a new socket |
//! | too long, and others | this line | is lost, and counted |
//!
//! A Unix socket that is gone is connected again by its path, as rsyslog makes a new one when it
//! restarts.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

use memchr::memchr;
use tokio::time::Instant;

use super::{Done, Target, check_address, retry::Retry, stream::is_busy, syslog::Framing};

pub(super) struct Datagrams {
    receiver: Receiver,
    framing: Framing,
    socket: Option<Socket>,
    retry: Retry,
    /// When the receiver last took a datagram.
    progressed: Instant,
    frame: Vec<u8>,
}

enum Receiver {
    Unix(PathBuf),
    Udp(String),
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Datagrams {
    pub(super) fn unix(path: PathBuf, framing: Framing) -> Self {
        Self::new(Receiver::Unix(path), framing)
    }

    pub(super) fn udp(address: String, framing: Framing) -> io::Result<Self> {
        check_address(&address)?;
        Ok(Self::new(Receiver::Udp(address), framing))
    }

    fn new(receiver: Receiver, framing: Framing) -> Self {
        Self {
            receiver,
            framing,
            socket: None,
            retry: Retry::default(),
            progressed: Instant::now(),
            frame: Vec::new(),
        }
    }

    /// Makes sure that there is a socket; false if it is too early for one.
    fn connect(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        if self.socket.is_some() {
            return Ok(true);
        }
        if !self.retry.may_connect(now) {
            return Ok(false);
        }
        match self.receiver.connect() {
            Ok(socket) => {
                self.retry.connected(now);
                // Else the time since the last receiver would count as a stall of this one.
                self.progressed = now;
                self.socket = Some(socket);
                Ok(true)
            }
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }

    fn disconnect(&mut self) {
        self.socket = None;
        self.retry.failed(Instant::now(), fastrand::f64());
    }

    /// Sends lines until all are done with, or the receiver takes no more.
    fn send(&mut self, lines: &[u8], done: &mut Done) -> io::Result<()> {
        // One time for a batch, as the lines of a batch are sent together.
        let now = self.framing.now();
        while let Some(rest) = lines.get(done.bytes..) {
            let (Some(end), Some(socket)) = (memchr(b'\n', rest), &self.socket) else {
                break;
            };
            self.frame.clear();
            let line = rest.get(..end).unwrap_or_default();
            self.framing.add_datagram(&now, line, &mut self.frame);
            match socket.send(&self.frame) {
                Ok(_) => self.progressed = Instant::now(),
                // A signal interrupted the call: nothing was sent.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_busy(&error) => {
                    return match self.progressed.elapsed() < STALLED {
                        true => Ok(()),
                        false => Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the receiver read nothing for 10 s",
                        )),
                    };
                }
                Err(error) if is_unreachable(&error) => {
                    done.lost += u64::from(self.is_refusal(&error));
                    return Err(error);
                }
                // This line is at fault: it is too long.
                Err(error) => {
                    done.lost += 1;
                    done.error = Some(error);
                }
            }
            done.bytes += end + 1;
        }
        Ok(())
    }

    /// Returns true if the error is the answer to an earlier datagram, which was counted as written.
    fn is_refusal(&self, error: &io::Error) -> bool {
        let is_udp = matches!(self.receiver, Receiver::Udp(_));
        is_udp && error.kind() == io::ErrorKind::ConnectionRefused
    }
}

impl Target for Datagrams {
    fn write(&mut self, lines: &[u8]) -> Done {
        match self.connect() {
            Ok(true) => {}
            Ok(false) => return Done::part(0),
            Err(error) => return Done::failed(0, error),
        }
        let mut done = Done::default();
        if let Err(error) = self.send(lines, &mut done) {
            self.disconnect();
            done.error = Some(error);
        }
        done
    }

    fn name(&self) -> String {
        match &self.receiver {
            Receiver::Unix(path) => format!("unix {}", path.display()),
            Receiver::Udp(address) => format!("udp {address}"),
        }
    }
}

impl Receiver {
    fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(WRITE_LIMIT))?;
                Ok(Socket::Unix(socket))
            }
            Self::Udp(address) => {
                let mut addresses = address.to_socket_addrs()?;
                let Some(address) = addresses.next() else {
                    let message = "the name has no address";
                    return Err(io::Error::new(io::ErrorKind::NotFound, message));
                };
                // A socket of the family that the name has.
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                // A connected socket reports what ICMP says of its datagrams; an unconnected one hears
                // nothing.
                socket.connect(address)?;
                socket.set_write_timeout(Some(WRITE_LIMIT))?;
                Ok(Socket::Udp(socket))
            }
        }
    }
}

impl Socket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.send(datagram),
            Self::Udp(socket) => socket.send(datagram),
        }
    }
}

/// Returns true for an error of the receiver or of the way to it, and not of one datagram.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NotConnected
            | io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
    )
}

/// The longest wait within one send; the thread then looks whether the sink was closed.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
/// A receiver that takes nothing for this long hangs, or another one has its path by now.
const STALLED: Duration = Duration::from_secs(10);
