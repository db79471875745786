//! The client of a request that came by way of other balancers.
//!
//! Behind a balancer, a proxy or a content delivery network, the peer of each connection is that
//! hop. What such hops say of the client in `X-Forwarded-For` or `Forwarded` can be forged by any
//! client, so it is believed as far as the hops are trusted: [`ForwardedLayer`] reads the list
//! from its end and takes the first address that is no trusted hop's. From there on, whatever
//! speaks of the request's client means that one: `client` in the access log, `hash = "client"`,
//! the home of a session whose backend is out, and [`ConnInfo::client`](crate::context::ConnInfo::client)
//! in your own layers.
//!
//! # Example
//!
//! ```
//! use evenkeel::{context::TrustedPeers, forwarded::ForwardedLayer};
//! use tower::{Layer, service_fn};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let hops = TrustedPeers::new(["10.0.0.0/8"])?;
//! let service = ForwardedLayer::new(hops).layer(service_fn(|_: http::Request<()>| async {
//!     Ok::<_, ()>(http::Response::new(()))
//! }));
//! # drop(service);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Outermost in the request stack, around the access log: what stands above it sees the last hop
//! as the client. A [`LoadBalancer`](crate::LoadBalancer) has it there, with the peers that its
//! proxy trusts. It reads and writes [`ConnInfo`](crate::context::ConnInfo), in the request's own
//! handle: the next request of the connection has a client of its own. It leaves the fields as they
//! are; the [`Proxy`](crate::proxy::Proxy) passes those of trusted peers on and adds to them.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | trusted hops | none, and then the layer does nothing |
//! | field | `X-Forwarded-For` |
//! | trusted hops that are passed over in one list | 32 |
//!
//! # When it fails
//!
//! It does not. Without a [`ConnInfo`](crate::context::ConnInfo) (axum's bare
//! `ConnectInfo<SocketAddr>` is none) there is no peer to trust, and nothing is noted. Where the field is absent, or its
//! end is no address (`unknown`, or a name that hides one), the client is the last hop that is
//! known.
//!
//! **Deployment caveat.** Only one field is read: a hop that writes `X-Forwarded-For` passes on
//! whatever `Forwarded` its client sent, and the other way round. Choose the one that the hops
//! write, and trust no network from which clients can connect themselves.
//!
//! # Cost
//!
//! A request from a trusted hop: the list is read up to the client, without an allocation (under
//! `axum::serve`: one). Other requests: the peer is compared with each network.

mod hops;
mod layer;
mod service;

pub use layer::{ClientField, ForwardedLayer};
pub use service::Forwarded;
