//! The client of a request that came through other load balancers.
//!
//! Behind a load balancer, a proxy or a content delivery network, the peer of each connection is that
//! hop, and the hop names the client in `X-Forwarded-For` or `Forwarded`. Any client can send these
//! fields as well. So [`ForwardedLayer`] reads the list from its end, where the nearest hop has added
//! its element, and takes the first address that is not a trusted hop's.
//!
//! That address is the request's client for all layers below: `client` in the access log,
//! `hash = "client"`, the second choice of a sticky session whose backend is down, and
//! [`ConnInfo::client`](crate::context::ConnInfo::client) in your own layers.
//!
//! # Example
//!
//! ```
//! use std::convert::Infallible;
//!
//! use evenkeel::{context::{ConnInfo, Peer, TrustedPeers}, forwarded::ForwardedLayer};
//! use http::{Request, Response};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hops = TrustedPeers::new(["10.0.0.0/8"])?;
//! let service = ForwardedLayer::new(hops).layer(service_fn(|request: Request<()>| async move {
//!     let client = ConnInfo::client_of(request.extensions()).map(|client| client.ip());
//!     Ok::<_, Infallible>(Response::new(client))
//! }));
//!
//! // 10.0.0.1 is a trusted hop: it added 203.0.113.7, and the client sent the rest.
//! let mut request = Request::get("/").header("x-forwarded-for", "192.0.2.1, 203.0.113.7").body(())?;
//! let peer = Peer::Tcp(([10, 0, 0, 1], 50_000).into());
//! request.extensions_mut().insert(ConnInfo::new(peer, Peer::Unknown));
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.body().unwrap().to_string(), "203.0.113.7");
//! # Ok(())
//! # }
//! ```
//!
//! # Why from the end
//!
//! Each hop adds its peer at the end of the list, so the last element comes from the nearest hop, and
//! the first may come from the client. A reader that takes the first element lets each client choose
//! its own address, and so its place in rate limits, logs and hashes.
//!
//! # Where it goes
//!
//! Outermost in the request stack, around the access log: a layer above it sees the last hop as the
//! client. `LoadBalancer` has it there, with the peers that its proxy trusts. It reads and writes
//! [`ConnInfo`](crate::context::ConnInfo), in the handle of this request alone: the next request of
//! the connection has a client of its own. It leaves the header fields as they are; `Proxy` passes
//! those of trusted peers on and adds to them.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | trusted hops | none, and then the layer does nothing |
//! | field | `X-Forwarded-For` |
//! | elements of the list that are read | 32 |
//!
//! # When it fails
//!
//! It does not fail. Without a [`ConnInfo`](crate::context::ConnInfo) there is no peer to trust, and
//! the layer does nothing; axum's `ConnectInfo<SocketAddr>` is not enough. If the field is absent, or
//! an element is not an address (`unknown`, or a name that hides one), the client is the last hop that
//! is known.
//!
//! **Deployment caveat.** The layer reads one field only: a hop that writes `X-Forwarded-For` passes
//! on any `Forwarded` that its client sent, and the other way round. Choose the field that the hops
//! write, and trust no network from which clients can connect directly.
//!
//! # Cost
//!
//! Each request: the peer is compared with each trusted network. A request from a trusted hop: the
//! list is read up to the client, without an allocation (under `axum::serve`: one).

mod hops;
mod layer;
mod service;

pub use layer::{ClientField, ForwardedLayer};
pub use service::Forwarded;
