//! An accepted connection on its way through the connection stack.
//!
//! The connection stack wraps streams as the request stack wraps services: each layer takes a
//! `Conn<Io>` and calls the next with a `Conn` of another stream. What is beside the stream stays the
//! same, so that a layer in the middle need not know what the server passes down to its end.

use std::{fmt, sync::Arc};

use super::{ConnInfo, ConnectionEvents, ShutdownSignal};

/// One accepted connection on its way through the connection stack: the byte stream, the facts of
/// the connection, and what the server adds for the layers below.
///
/// The connection services take it: `tls::Tls`, for example, is a service of
/// `Conn<Io>` around a service of `Conn<TlsStream<Io>>`.
///
/// ```
/// use evenkeel::context::{Conn, ConnInfo, Peer};
/// use tokio::io::BufReader;
///
/// let (_client, server) = tokio::io::duplex(64);
/// let conn = Conn::new(server, ConnInfo::new(Peer::Unknown, Peer::Unknown));
/// let number = conn.info.number();
/// // A layer that wraps the stream keeps the facts of the connection.
/// let wrapped: Conn<BufReader<_>> = conn.map(BufReader::new);
/// assert_eq!(wrapped.info.number(), number);
/// ```
pub struct Conn<Io> {
    /// The byte stream.
    pub io: Io,
    /// The facts of the connection, which become an extension of each request.
    pub info: ConnInfo,
    shutdown: Option<ShutdownSignal>,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl<Io> Conn<Io> {
    /// Makes a connection of a stream and its facts, without a shutdown signal or a sink for events.
    pub fn new(io: Io, info: ConnInfo) -> Self {
        Self {
            io,
            info,
            shutdown: None,
            events: None,
        }
    }

    /// Adds the signal that tells the connection to end, and that counts the connection while it
    /// lives.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: ShutdownSignal) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Adds the sink that receives an event if the connection ends before, between or instead of
    /// requests.
    #[must_use]
    pub fn with_events(mut self, events: Arc<dyn ConnectionEvents>) -> Self {
        self.events = Some(events);
        self
    }

    /// Takes the shutdown signal out; the caller keeps it until the connection has ended.
    ///
    /// `None` if there is none, or if it was taken before: one layer owns it.
    pub fn take_shutdown(&mut self) -> Option<ShutdownSignal> {
        self.shutdown.take()
    }

    /// Returns the sink for events.
    #[must_use]
    pub fn events(&self) -> Option<&Arc<dyn ConnectionEvents>> {
        self.events.as_ref()
    }

    /// Replaces the stream, for example by a TLS session over it, and keeps the rest.
    pub fn map<T>(self, change: impl FnOnce(Io) -> T) -> Conn<T> {
        Conn {
            io: change(self.io),
            info: self.info,
            shutdown: self.shutdown,
            events: self.events,
        }
    }
}

impl<Io> fmt::Debug for Conn<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("info", &self.info)
            .field("shutdown", &self.shutdown)
            .finish_non_exhaustive()
    }
}
