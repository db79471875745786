//! `DialTimes`: how long a connection took to make.
//!
//! The proxy writes them into the record of the exchange; the access log and the traces show them.
//!
//! A connection that existed before costs a request neither: the record then has no times.

use std::time::Duration;

/// How long a connection took to make.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DialTimes {
    /// The look-up of the name, and the connection.
    pub(crate) connect: Duration,
    /// The TLS handshake.
    pub(crate) tls: Option<Duration>,
}
