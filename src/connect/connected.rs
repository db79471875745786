//! [`Connected`]: what a [`Connector`](super::Connector) returns.

use super::{DialTimes, ResolvedAddress, Stream};

/// A connection to a backend that is ready for a request.
///
/// Dropping it closes the connection.
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
    ///
    /// Nothing but a PROXY header and the TLS handshake was written to it. For HTTP/2 the caller
    /// writes the preface.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}
