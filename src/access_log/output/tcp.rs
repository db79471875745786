//! Lines over a TCP connection that is made again as often as it breaks.
//!
//! A line counts as written when the kernel has taken its last byte. A connection that breaks then
//! loses what the kernel holds; no acknowledgement exists in this protocol, so that a log that must
//! not lose lines needs a file. What broke off within a frame is sent again, whole, on the next
//! connection.
//!
//! ```text
//! write ─▶ connect (if there is none, and the wait is over)
//!       ─▶ fill frames (up to 64 KiB of lines)
//!       ─▶ write, advance, … ─▶ busy: return, and go on 10 ms later
//!                            └▶ error: disconnect, wait, begin with the line that was not done
//! ```

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use memchr::memchr;
use tokio::time::Instant;

use super::{Done, Target, check_address, retry::Retry, stream::is_busy, syslog::Framing};

pub(super) struct Tcp {
    address: String,
    framing: Framing,
    connection: Option<Connection>,
    retry: Retry,
    frames: Frames,
}

struct Connection {
    stream: TcpStream,
    /// When the peer last took bytes.
    progressed: Instant,
}

impl Tcp {
    pub(super) fn new(address: String, framing: Framing) -> io::Result<Self> {
        check_address(&address)?;
        Ok(Self {
            address,
            framing,
            connection: None,
            retry: Retry::default(),
            frames: Frames::default(),
        })
    }

    /// Ends the connection. The frame that was being written is written again, whole.
    fn disconnect(&mut self) {
        self.connection = None;
        // `done` counts whole lines: what was framed and not written is framed again from there.
        self.frames.clear();
        self.retry.failed(Instant::now(), fastrand::f64());
    }

    /// Makes sure that there is a connection; false if it is too early for one.
    fn connect(&mut self) -> io::Result<bool> {
        // Before each batch: the first write to a connection that the peer closed succeeds, and its
        // lines are gone.
        if self.connection.as_mut().is_some_and(Connection::is_closed) {
            self.disconnect();
        }
        if self.connection.is_some() {
            return Ok(true);
        }
        if !self.retry.may_connect(Instant::now()) {
            return Ok(false);
        }
        match Connection::open(&self.address) {
            Ok(connection) => {
                self.retry.connected(Instant::now());
                self.connection = Some(connection);
                Ok(true)
            }
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }

    /// Writes frames until all lines are done with, or the peer takes no more.
    fn write_frames(&mut self, lines: &[u8], done: &mut usize) -> io::Result<()> {
        loop {
            if self.frames.is_empty() {
                let rest = lines.get(*done..).unwrap_or_default();
                self.frames.fill(&self.framing, rest);
            }
            let Some(connection) = self.connection.as_mut().filter(|_| !self.frames.is_empty())
            else {
                return Ok(());
            };
            match connection.stream.write(self.frames.rest()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    connection.progressed = Instant::now();
                    *done += self.frames.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_busy(&error) => {
                    return match connection.progressed.elapsed() < STALLED {
                        true => Ok(()),
                        false => Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the peer read nothing for 10 s",
                        )),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Target for Tcp {
    fn write(&mut self, lines: &[u8]) -> Done {
        match self.connect() {
            Ok(true) => {}
            Ok(false) => return Done::part(0),
            Err(error) => return Done::failed(0, error),
        }
        let mut done = 0;
        match self.write_frames(lines, &mut done) {
            Ok(()) => Done::part(done),
            Err(error) => {
                self.disconnect();
                Done::failed(done, error)
            }
        }
    }

    fn name(&self) -> String {
        format!("tcp {}", self.address)
    }
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(WRITE_LIMIT))?;
                    // Batches come every 10 ms; Nagle's algorithm would hold the end of one back.
                    stream.set_nodelay(true)?;
                    let progressed = Instant::now();
                    return Ok(Self { stream, progressed });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Returns true if the peer has closed the connection. The kernel would take a batch of lines
    /// before a write says so, and lose them.
    fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 256];
        let read = self
            .stream
            // A blocking read would wait for a peer that never speaks.
            .set_nonblocking(true)
            .and_then(|()| self.stream.read(&mut bytes));
        if self.stream.set_nonblocking(false).is_err() {
            return true;
        }
        match read {
            // A collector has nothing to say; what it says is passed over.
            Ok(len) => len == 0,
            Err(error) => !is_busy(&error),
        }
    }
}

/// Lines in their frames, as far as they are not written.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Bytes that are written.
    at: usize,
    /// For each frame that is not written, its end, and the length of its line.
    ends: VecDeque<(usize, usize)>,
}

impl Frames {
    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_FRAMES);
        self.ends.clear();
        self.at = 0;
    }

    /// Frames lines from the first on.
    fn fill(&mut self, framing: &Framing, lines: &[u8]) {
        self.clear();
        let now = framing.now();
        let mut rest = lines;
        while let Some(end) = memchr(b'\n', rest).filter(|_| self.bytes.len() < MAX_FRAMES) {
            // The newline is a part of the line, for a stream without a frame of its own.
            let (line, after) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
            framing.add_to_stream(&now, line, &mut self.bytes);
            self.ends.push_back((self.bytes.len(), line.len()));
            rest = after;
        }
    }

    /// Moves on by `written` bytes; returns the length of the lines that are written thereby.
    ///
    /// In bytes of lines and not of frames: that is what the caller passed.
    fn advance(&mut self, written: usize) -> usize {
        self.at += written;
        let mut lines = 0;
        while let Some((_, line)) = self.ends.front().filter(|(end, _)| *end <= self.at) {
            lines += line;
            self.ends.pop_front();
        }
        lines
    }
}

/// The bytes of frames that are made at once: one write for a few hundred lines.
const MAX_FRAMES: usize = 64 * 1024;
/// The longest wait for a connection to one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The longest wait within one write; the thread then looks whether the sink was closed.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
/// A peer that takes nothing for this long hangs, or is gone without a word: another connection may
/// reach one that works.
const STALLED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_when_the_last_byte_of_its_frame_is_written() {
        let mut frames = Frames::default();
        frames.fill(&Framing::Line, b"one\nthree\ncut");
        assert_eq!(frames.rest(), b"one\nthree\n");
        for (written, lines) in [(3, 0), (1, 4), (5, 0), (1, 6)] {
            assert!(!frames.is_empty());
            assert_eq!(frames.advance(written), lines);
        }
        assert!(frames.is_empty() && frames.rest().is_empty());
    }
}
