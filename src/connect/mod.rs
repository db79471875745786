//! Connections to backends: name look-up, dialling, TLS.
//!
//! The proxy and the active checks share one [`Connector`] each way to a backend, so a passing check
//! proves the path that requests take: the same resolver, the same race of addresses, the same
//! certificate rules.
//!
//! ```text
//!  Backend ─▶ look up the name ─▶ dial, addresses side by side ─▶ TLS handshake, ALPN ─▶ Connected
//!             (skipped for an     (RFC 8305)                      (https only)
//!              address or a
//!              Unix socket)
//! ```
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use evenkeel::{Backend, ErrorKind, connect::Connector};
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let backend = Backend::new("a", &format!("http://{}", listener.local_addr()?))?;
//! let connector = Connector::new().timeout(Duration::from_secs(1))?;
//!
//! let connected = connector.connect(&backend).await?;
//! assert!(!connected.is_http2());
//!
//! drop(listener);
//! let error = connector.connect(&backend).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Connect);
//! # Ok(())
//! # }
//! ```
//!
//! # Why look-ups are shared and kept
//!
//! A backend that is a name is looked up for each new connection, so that it can move without a
//! reload. A resolver that fails or hangs must not take down backends which still run at their last
//! addresses, so those stay in use. Answers that rotate over many addresses leave some out by chance,
//! so one answer without an address does not retire the connections to it.
//!
//! # Where it goes
//!
//! Below `Proxy` and the checks of `health`, which take it by their setter `connector`. A program may
//! use it alone, as above.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | time-out, from the look-up to the end of the TLS handshake | 2 s |
//! | names are looked up by | the operating system |
//! | wait for the resolver, where last good addresses are known | 100 ms |
//! | last good addresses stay in use while the resolver fails | without a limit |
//! | last good addresses stay in use while the name is denied (NXDOMAIN) | 60 s |
//! | an address that answers leave out is given up | after 8 answers, at least 250 ms apart, or 60 s |
//! | a backend that acknowledges nothing is given up (Linux, Android, Fuchsia; feature `proxy` or `server`) | after 60 s |
//! | delay before the next address is tried beside the first (RFC 8305 §5) | 250 ms |
//! | roots of the certificates of backends (feature `tls`) | Mozilla's, from the crate `webpki-roots` |
//! | certificate of this client | none |
//! | TLS versions | 1.2 and 1.3 |
//! | ALPN | `h2` and `http/1.1`, unless the backend's [`Protocol`](crate::pool::Protocol) names one |
//! | PROXY protocol header to backends | none, unless the [backend](crate::Backend::proxy_protocol) has one |
//!
//! # When it fails
//!
//! [`ErrorKind::Connect`](crate::ErrorKind::Connect),
//! [`ConnectTimeout`](crate::ErrorKind::ConnectTimeout),
//! [`ConnectTls`](crate::ErrorKind::ConnectTls), or [`Local`](crate::ErrorKind::Local) if the cause
//! is in this process or its host. No byte of a request was sent in any of these cases.
//!
//! | what | kind |
//! |---|---|
//! | connection refused, host unreachable, no Unix socket at the path | `connect` |
//! | the name is denied (NXDOMAIN); for 60 s, if it had an address before | `connect` |
//! | EMFILE, ENFILE, ENOBUFS, ENOMEM | `local` |
//! | EADDRNOTAVAIL, if no local port is free | `local` |
//! | the resolver fails or is silent, and the name has had no address before | `local` |
//!
//! A local fault is logged as an ERROR under `evenkeel::local_fault` that names the resource, at most
//! once in 10 s for each kind.
//!
//! # Cost
//!
//! For each connection: a socket, a look-up if the host is a name, and one boxed TLS session for
//! `https`. Over TCP, four system calls check and configure the socket. The
//! operating system's resolver runs on tokio's blocking threads. One look-up runs at a time for a
//! backend's name, and all connections that wait share its result.

mod common_name;
mod connected;
#[cfg(feature = "__tls")]
pub(crate) mod crypto;
#[cfg(feature = "__tls")]
mod danger;
mod dial;
mod dial_times;
#[cfg(feature = "__tls")]
pub(crate) mod distinguished_name;
pub(crate) mod http1;
#[cfg(feature = "http2")]
pub(crate) mod http2;
#[cfg(feature = "__tls")]
pub(crate) mod pem;
mod proxy_header;
mod race;
mod resolve;
mod stream;
mod target_override;
#[cfg(test)]
mod tests;
#[cfg(feature = "__tls")]
mod tls;
#[cfg(feature = "__tls")]
pub(crate) mod x509;

pub use connected::Connected;
#[cfg(feature = "__tls")]
pub(crate) use crypto::provider;
#[cfg(feature = "__tls")]
pub use danger::DangerousClientTls;
pub use dial::Connector;
#[cfg(test)]
pub(crate) use dial::DEFAULT_TIMEOUT;
pub(crate) use dial_times::DialTimes;
pub use proxy_header::ProxyVersion;
pub(crate) use resolve::ResolvedAddress;
pub use resolve::{Resolve, ResolveError, ResolveFuture};
pub use stream::Stream;
#[cfg(feature = "__tls")]
pub use stream::TlsStream;
pub use target_override::TargetOverride;
#[cfg(feature = "__tls")]
pub use tls::ClientTls;
