//! [`Output`]: where the lines of a [`Lines`](super::Lines) go.
//!
//! A target is written to by one thread, one batch after another, and reports with each write how far
//! it came. The contract of [`Target::write`] is what all outputs share:
//!
//! - The caller passes whole lines at first, and then the rest from the byte on that the target
//!   reported, before any other line.
//! - A socket reports whole lines only, and sends a line that broke off again. A stream that fails
//!   reports the whole batch as done, and the lines that it did not take as lost.
//! - A socket blocks for a second or two, so that the thread sees in time that the sink was closed. A
//!   pipe or a writer may block for ever: the drop of the sink then waits for 2 s and goes on.
//! - A target reports each error; the caller limits how often they are logged.

mod datagram;
mod file;
mod retry;
mod rotation;
mod stream;
mod syslog;
mod tcp;

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
};

use self::{
    datagram::Datagrams,
    file::LogFile,
    stream::Stream,
    syslog::{Framing, Transport},
    tcp::Tcp,
};
pub use self::{
    rotation::Rotation,
    syslog::{Facility, Syslog},
};

/// Where the lines of a [`Lines`](super::Lines) go.
///
/// | output | a line is lost |
/// |---|---|
/// | [`stdout`](Self::stdout), [`writer`](Self::writer) | if a write fails: the rest of its batch |
/// | [`file`](Self::file), [`rotated_file`](Self::rotated_file) | if a write fails, as on a full disk: the rest of its batch. A rotation loses none. A named pipe never fails: while its reader is slow or gone, lines wait |
/// | [`unix`](Self::unix), [`syslog`](Self::syslog) over a Unix socket | if it is longer than a datagram may be. While the receiver is slow or gone, lines wait |
/// | [`udp`](Self::udp), [`syslog`](Self::syslog) over UDP | if it is longer than a datagram may be (65,507 bytes with its header), or the network or the receiver discards it, which UDP often does not report |
/// | [`tcp`](Self::tcp), [`syslog`](Self::syslog) over TCP | if the connection breaks after the kernel took the line and before the peer read it, which nothing reports. While the peer is slow or gone, lines wait |
///
/// Lines that wait do so in the queue of the sink, and one that finds the queue full is lost.
/// [`Lines::dropped`](super::Lines::dropped) counts every line that is lost, except those that
/// nothing reports. A line is never cut: a part of a line would be no JSON.
///
/// An output that stalls or fails is a matter of the log's own thread; requests do not wait for it.
/// The first failure in 10 s is logged as an error of the target `evenkeel::access_log`.
pub struct Output(Kind);

enum Kind {
    Stdout,
    Writer(Box<dyn Write + Send>),
    File(PathBuf, Option<Rotation>),
    Unix(PathBuf),
    Udp(String),
    Tcp(String),
    Syslog(Syslog),
}

impl Output {
    /// Writes to the standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self(Kind::Stdout)
    }

    /// Writes to any writer. Each batch of lines is one or more writes and one `flush`. The writer
    /// may block: only the thread of the log waits for it. A writer that returns
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) gets the lines again 10 ms later.
    #[must_use]
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self(Kind::Writer(Box::new(writer)))
    }

    /// Appends to this file or named pipe; a file that is missing is created. After another program has moved the
    /// file, [`Lines::reopen`](super::Lines::reopen) begins a new one; a program that copies and
    /// truncates the file (`copytruncate`) needs no such call.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into(), None))
    }

    /// Appends to this file, and begins a new one by size or by time; see [`Rotation`].
    #[must_use]
    pub fn rotated_file(path: impl Into<PathBuf>, rotation: Rotation) -> Self {
        Self(Kind::File(path.into(), Some(rotation)))
    }

    /// Sends each line, without its newline, as a datagram to this Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into()))
    }

    /// Sends each line, without its newline, as a datagram to this address, such as
    /// `collector.example:9000`. The name is resolved at each connection.
    #[must_use]
    pub fn udp(address: impl Into<String>) -> Self {
        Self(Kind::Udp(address.into()))
    }

    /// Sends lines over a TCP connection to this address, such as `collector.example:9000`, each
    /// ended by a newline.
    ///
    /// A connection that fails, or whose peer reads nothing for 10 s, is made again: at once if it
    /// lasted for 10 s, else after a wait that doubles from 100 ms to 5 s. The line that broke off
    /// is sent again, whole.
    #[must_use]
    pub fn tcp(address: impl Into<String>) -> Self {
        Self(Kind::Tcp(address.into()))
    }

    /// Sends lines to a syslog server, in the format of RFC 5424.
    #[must_use]
    pub fn syslog(syslog: Syslog) -> Self {
        Self(Kind::Syslog(syslog))
    }

    /// Opens the output: a file at once, a socket when there are lines.
    pub(super) fn open(self) -> io::Result<Box<dyn Target>> {
        Ok(match self.0 {
            Kind::Stdout => Box::new(Stream::new("stdout", Box::new(io::stdout()))),
            Kind::Writer(writer) => Box::new(Stream::new("a writer", writer)),
            Kind::File(path, rotation) => Box::new(LogFile::open(path, rotation)?),
            Kind::Unix(path) => Box::new(Datagrams::unix(path, Framing::Line)),
            Kind::Udp(address) => Box::new(Datagrams::udp(address, Framing::Line)?),
            Kind::Tcp(address) => Box::new(Tcp::new(address, Framing::Line)?),
            Kind::Syslog(syslog) => match syslog.into_parts() {
                (Transport::Unix(path), framing) => Box::new(Datagrams::unix(path, framing)),
                (Transport::Udp(address), framing) => Box::new(Datagrams::udp(address, framing)?),
                (Transport::Tcp(address), framing) => Box::new(Tcp::new(address, framing)?),
            },
        })
    }
}

impl From<Syslog> for Output {
    fn from(syslog: Syslog) -> Self {
        Self::syslog(syslog)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Stdout => f.write_str("Stdout"),
            Kind::Writer(_) => f.write_str("Writer"),
            Kind::File(path, rotation) => {
                f.debug_tuple("File").field(path).field(rotation).finish()
            }
            Kind::Unix(path) => f.debug_tuple("Unix").field(path).finish(),
            Kind::Udp(address) => f.debug_tuple("Udp").field(address).finish(),
            Kind::Tcp(address) => f.debug_tuple("Tcp").field(address).finish(),
            Kind::Syslog(syslog) => f.debug_tuple("Syslog").field(syslog).finish(),
        }
    }
}

/// An open output, in the hands of the log's thread. It may block.
pub(super) trait Target: Send {
    /// Writes lines, each ended by a newline, as far as the output takes them now. The caller passes
    /// the rest again, before any other lines.
    fn write(&mut self, lines: &[u8]) -> Done;

    /// Opens a file again by its path.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns the output's name in messages.
    fn name(&self) -> String;
}

/// What became of lines.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The bytes at the begin of the lines that were written or lost.
    pub(super) bytes: usize,
    /// The number of lines that were lost, of those or of earlier ones that were counted as written.
    pub(super) lost: u64,
    /// The failure, to be logged.
    pub(super) error: Option<io::Error>,
}

impl Done {
    /// These bytes are written; the output takes no more now.
    fn part(bytes: usize) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// These bytes are written; then the output failed, and will be tried again.
    fn failed(bytes: usize, error: io::Error) -> Self {
        Self {
            bytes,
            lost: 0,
            error: Some(error),
        }
    }
}

/// Returns an error if `address` does not end in a port.
fn check_address(address: &str) -> io::Result<()> {
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    match port {
        // Only the form is checked: a name that does not resolve yet is no mistake.
        Some(Ok(1..)) => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{address:?} is no host and port, such as collector.example:514"),
        )),
    }
}
