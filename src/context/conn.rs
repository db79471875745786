//! An accepted connection on its way through the connection stack.

use std::{fmt, sync::Arc};

use super::{ConnInfo, ConnectionEvents, ShutdownSignal};

/// One accepted connection on its way through the connection stack.
pub struct Conn<Io> {
    /// The byte stream.
    pub io: Io,
    /// What is known of it.
    pub info: ConnInfo,
    shutdown: Option<ShutdownSignal>,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl<Io> Conn<Io> {
    /// Joins a stream to what is known of it.
    pub fn new(io: Io, info: ConnInfo) -> Self {
        Self {
            io,
            info,
            shutdown: None,
            events: None,
        }
    }

    /// Adds what says when the connection should end.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: ShutdownSignal) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Adds who is told what ends the connection.
    #[must_use]
    pub fn with_events(mut self, events: Arc<dyn ConnectionEvents>) -> Self {
        self.events = Some(events);
        self
    }

    /// Takes what says when the connection should end.
    pub fn take_shutdown(&mut self) -> Option<ShutdownSignal> {
        self.shutdown.take()
    }

    /// Returns who is told what ends the connection.
    #[must_use]
    pub fn events(&self) -> Option<&Arc<dyn ConnectionEvents>> {
        self.events.as_ref()
    }

    /// Puts another stream (TLS over it, say) in the place of this one.
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
