//! The client's address from a balancer in front, by the PROXY protocol.
//!
//! A balancer that passes TCP connections on (HAProxy in TCP mode, nginx `stream`, the network load
//! balancers of AWS, Azure and Google) hides the client: each connection comes from the balancer. With
//! the [PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), it begins each
//! connection with a header that names the client. [`ProxyProtocolLayer`] reads versions 1 (a line of
//! text) and 2 (binary), and the address reaches the access log, `X-Forwarded-For`, the hash by client
//! and all others that read [`ConnInfo::client`](crate::context::ConnInfo::client).
//!
//! # Example
//!
//! Around a connection service:
//!
//! ```
//! use evenkeel::{
//!     BoxError,
//!     context::{Conn, ConnInfo, Peer, TrustedPeers},
//!     proxy_protocol::{ProxyProtocolLayer, ProxyProtocolStream},
//! };
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let layer = ProxyProtocolLayer::new(TrustedPeers::new(["10.0.0.0/8"])?);
//! let service = layer.layer(service_fn(
//!     |mut conn: Conn<ProxyProtocolStream<DuplexStream>>| async move {
//!         let mut bytes = String::new();
//!         conn.io.read_to_string(&mut bytes).await?;
//!         let client = conn.info.client().ok_or("no client")?;
//!         Ok::<_, BoxError>(format!("{bytes} from {client}"))
//!     },
//! ));
//!
//! let (mut balancer, server) = duplex(4_096);
//! balancer.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\nhello").await?;
//! balancer.shutdown().await?;
//! let peer = Peer::Tcp(([10, 0, 0, 1], 40_000).into());
//! let conn = Conn::new(server, ConnInfo::new(peer, Peer::Unknown));
//! assert_eq!(service.oneshot(conn).await?, "hello from 203.0.113.7:50000");
//! # Ok(())
//! # }
//! ```
//!
//! Around an axum listener (feature `axum`):
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```text")]
//! use axum::{Router, routing::get};
//! use evenkeel::{
//!     context::{ConnInfo, TrustedPeers},
//!     proxy_protocol::ProxyProtocolLayer,
//! };
//! use tower::Layer;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = ProxyProtocolLayer::new(TrustedPeers::new(["10.0.0.0/8"])?);
//! let client = async |conn: ConnInfo| format!("{:?}\n", conn.client());
//! let app = Router::new().route("/", get(client));
//! let tcp = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let app = app.into_make_service_with_connect_info::<ConnInfo>();
//! axum::serve(layer.layer(tcp), app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`ProxyHeader::of`] returns the whole header: the destination, the TLS session in front, the ids that
//! AWS, Azure and Google add, and any other field.
//!
//! # Where it goes
//!
//! First in the connection stack: outside TLS, around `TlsLayer`'s service or `server::Http`. Around
//! listeners the layers nest in reverse wire order: `tls.layer(proxy_protocol.layer(tcp))`. It writes
//! [`ConnInfo::set_client`](crate::context::ConnInfo::set_client) and
//! [`set_destination`](crate::context::ConnInfo::set_destination) before the first byte passes.
//!
//! The wrong order does not compile, since the layer takes only a
//! [`Transport`](crate::context::Transport):
//!
#![cfg_attr(
    all(feature = "axum", feature = "__tls"),
    doc = "```compile_fail,E0277"
)]
#![cfg_attr(not(all(feature = "axum", feature = "__tls")), doc = "```text")]
//! # use evenkeel::{proxy_protocol::ProxyProtocolLayer, tls::TlsLayer};
//! # use tower::Layer;
//! fn serve(tcp: tokio::net::TcpListener, tls: TlsLayer, proxy_protocol: ProxyProtocolLayer) {
//!     let app = axum::Router::new();
//!     // A header that is encrypted comes from the client, not from the balancer.
//!     let _ = axum::serve(proxy_protocol.layer(tls.layer(tcp)), app);
//! }
//! ```
//!
//! To send the header to backends, see
//! [`Connector::proxy_protocol`](crate::connect::Connector::proxy_protocol).
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | trusted peers | no default: [`ProxyProtocolLayer::new`] takes them |
//! | peers over Unix sockets | not trusted |
//! | a header of a trusted peer | required |
//! | time-out, from TCP accept | 5 s |
//! | largest header of version 2 | 512 bytes |
//! | largest header of version 1 | 107 bytes, line end included |
//!
//! # When it fails
//!
//! | what a trusted peer sends | what happens |
//! |---|---|
//! | a header that is malformed, too long, cut off, of datagrams or with a wrong checksum | closed, `proxy_header` |
//! | no header | closed, `proxy_header`; served with [`required(false)`](ProxyProtocolLayer::required) |
//! | nothing, or no whole header within the time-out | closed, `proxy_timeout` |
//! | LOCAL, UNKNOWN, UNSPEC, Unix sockets | served; the client's address is the peer's |
//!
//! The layer reports `proxy_header` and `proxy_timeout` to
//! [`ConnectionEvents`](crate::context::ConnectionEvents) (those of the connection, else those of
//! [`ProxyProtocolLayer::events`]), from where the access log writes a line. A peer that connects and
//! leaves without a byte, as TCP checks do, is not reported. The connection is closed without an
//! answer: the peer is a balancer.
//!
//! The header of a peer that is not trusted is never read. Its bytes go on to TLS or HTTP, where they
//! are malformed: an alert or a 400, and `tls_handshake` or `bad_request` in the log. HAProxy
//! (`expect-proxy` for listed sources) does the same. As such a peer may be a balancer that is missing
//! from the list, a WARN names it, at most once in 10 s.
//!
//! **Deployment caveat.** A trusted peer can name any client. List the balancers' own addresses, not a
//! network in which clients are as well.
//!
//! # Cost
//!
//! A connection of a trusted peer costs a few allocations for its header, and a timer if the header does
//! not come at once; [`max_length`](ProxyProtocolLayer::max_length) bounds the memory. Any other
//! connection, and every later read, costs one `match`.

mod header;
mod layer;
#[cfg(feature = "axum")]
mod listener;
mod parse;
mod reading;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use header::{ProxyHeader, ProxySsl};
pub use layer::ProxyProtocolLayer;
pub use service::{ProxyProtocol, ResponseFuture};
pub use stream::ProxyProtocolStream;
