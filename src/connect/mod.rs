//! To a backend: dial, race addresses, and speak TLS to it.
//!
//! What both the proxy and active checks use, so that a check proves the path that requests
//! take.
//!
//! # Example
//!
//! ```no_run
//! use evenkeel::{Backend, connect::Connector};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Backend::new("a", "http://localhost:9001")?;
//! let connected = Connector::new().connect(&backend).await?;
//! assert!(!connected.is_http2());
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Below proxy and health.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | time-out, from the look-up to the end of the TLS handshake | 2 s |
//! | names are looked up by | the operating system |
//! | wait for the resolver, where last good addresses are known | 100 ms |
//! | last good addresses stay in use while the resolver fails | for ever |
//! | last good addresses stay in use while the name is denied (NXDOMAIN) | 60 s |
//! | an address is given up that answers leave out | after 8 answers, 250 ms apart at least, or 60 s |
//! | a backend that acknowledges nothing (Linux, Android, Fuchsia; feature `proxy`) | 60 s |
//! | delay before the next address is tried beside the first (RFC 8305 §5) | 250 ms |
//! | roots that a backend's certificate must lead to (feature `tls`) | Mozilla's, as `webpki-roots` has them |
//! | TLS versions | 1.2 and 1.3 |
//! | ALPN | `h2` and `http/1.1`; what [`Protocol`](crate::pool::Protocol) leaves of them |
//!
//! # When it fails
//!
//! [`ErrorKind::Connect`](crate::ErrorKind::Connect),
//! [`ConnectTimeout`](crate::ErrorKind::ConnectTimeout),
//! [`ConnectTls`](crate::ErrorKind::ConnectTls), or [`Local`](crate::ErrorKind::Local) where the
//! cause lies on this side; nothing was sent then.
//!
//! | what | kind |
//! |---|---|
//! | refused, unreachable, no such path of a Unix socket | `connect` |
//! | the name is denied (NXDOMAIN), and was for 60 s if it ever had an address | `connect` |
//! | EMFILE, ENFILE, ENOBUFS, ENOMEM | `local` |
//! | EADDRNOTAVAIL, where no local port is free | `local` |
//! | the resolver fails or is silent, and the name never had an address | `local` |
//!
//! A local fault is logged as an ERROR under `evenkeel::local_fault` that names what ran out, at
//! most one in 10 s for each kind.
//!
//! # Cost
//!
//! A connection: a socket and its options, a look-up where the host is a name (on tokio's blocking
//! threads; one at a time for a backend's name, whose result all connections that wait share), and
//! one boxed TLS session under https.

mod dial;
pub(crate) mod http1;
#[cfg(feature = "http2")]
pub(crate) mod http2;
#[cfg(feature = "__tls")]
pub(crate) mod pem;
mod resolve;
mod stream;
mod target_override;
#[cfg(feature = "__tls")]
mod tls;

pub use dial::{Connected, Connector};
pub(crate) use resolve::ResolvedAddress;
pub use resolve::{Resolve, ResolveError, ResolveFuture};
pub use stream::Stream;
#[cfg(feature = "__tls")]
pub use stream::TlsStream;
pub use target_override::TargetOverride;
#[cfg(feature = "__tls")]
pub use tls::ClientTls;
#[cfg(feature = "__tls")]
pub(crate) use tls::provider;
