//! Whose a connection is, and whether it is of use to anybody else.

use bytes::Bytes;

use super::Conn;
use crate::{connect::Stream, context::ConnInfo, pool::Backend};

impl Conn {
    /// Returns true if an idle connection is of no more use.
    pub(crate) fn is_stale(&mut self) -> bool {
        self.watch.is_expired() || self.stream.is_stale()
    }

    /// Returns true if the other end closed it this very moment; costs a system call.
    pub(crate) fn is_closed_now(&self) -> bool {
        self.stream.has_news()
    }

    /// Returns true if the address at the other end is still this backend's.
    pub(crate) fn leads_to(&self, backend: &Backend) -> bool {
        self.address.is_of(backend)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Returns true if no byte of an answer came: a re-used connection that had been closed.
    pub(crate) fn is_untouched(&self) -> bool {
        self.read.is_empty() && self.interim == 0
    }

    pub(crate) fn owner(&self) -> Option<&ConnInfo> {
        self.owner.as_ref()
    }

    /// Binds the connection to one client's connection; without one, it is closed after use.
    pub(crate) fn bind(&mut self, owner: Option<ConnInfo>) {
        self.keep &= owner.is_some();
        self.owner = owner;
    }

    /// Gives up the stream and what was read ahead, for a tunnel.
    pub(crate) fn into_stream(self) -> (Stream, Bytes) {
        // A copy, as the tunnel's end is far off and what was read is part of a block.
        (self.stream, Bytes::copy_from_slice(&self.read))
    }
}
