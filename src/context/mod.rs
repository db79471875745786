//! The wires: typed notes by which the rooms tell one another what they know.
//!
//! Rooms never call one another; they leave notes in [`http::Extensions`]. Each insertion costs
//! an allocation, so there are few, and the absence of each has a defined meaning:
//!
//! | note | what | when absent |
//! |---|---|---|
//! | [`ConnInfo`] | the connection: peer, local address, client, TLS facts | peer unknown, nothing added |
//! | [`Exchange`] | one shared record a request: affinity, decision, attempts, end | the layer inserts one |
//! | [`Selected`] | where this attempt goes | the proxy answers [`ErrorKind::NotRouted`](crate::ErrorKind::NotRouted) |
//! | [`Tunnel`] (response) | guards that live until the tunnel closes | the exchange ends with the body |
//! | [`Interim`] | sends 102 and 103 to the client | interim responses are dropped |
//! | [`LocalReply`] (response) | it was made without its backend | the backend made it |
//! | [`AuthFailure`] (response) | why authentication failed | derived from 401, 403, 407 |
//!
//! # Example
//!
//! ```
//! use evenkeel::context::Exchange;
//!
//! let mut request = http::Request::new(());
//! let exchange = Exchange::of(request.extensions_mut());
//! assert!(exchange.attempts(|attempts| attempts.is_empty()));
//! ```
//!
//! # Where it goes
//!
//! Between the rooms: every layer reads and writes here.
//!
//! # Defaults
//!
//! None.
//!
//! # When it fails
//!
//! It does not: a note that is missing has the meaning above.
//!
//! # Cost
//!
//! [`Exchange`]: two allocations a request, about 90 ns by `benches/layers.rs` (row `record`).
//! [`Selected`]: one an attempt; in a `LoadBalancer` none, but for one that waited for room.
//! [`ConnInfo`] and [`Interim`]: one each a request, and a few a connection. `evenkeel::serve` uses
//! the table that holds the extensions again for a later request: the `Proxy` puts the emptied table
//! of a request into its response.

mod affinity;
mod attempt;
mod auth_failure;
#[cfg(feature = "axum")]
mod axum_extract;
mod conn;
mod conn_cache;
mod conn_info;
mod connection_event;
mod exchange;
mod exchange_record;
mod interim;
mod local_reply;
mod selected;
pub(crate) mod service_poll;
mod shutdown;
mod tls_info;
mod trusted_peers;
mod tunnel;

pub(crate) use affinity::AffinityState;
pub use affinity::{Affinity, StickyVerdict};
pub use attempt::{Attempt, Outcome};
pub use auth_failure::AuthFailure;
#[cfg(feature = "axum")]
pub use axum_extract::{ConnectInfoLayer, MissingConnInfo, WithConnectInfo};
pub use conn::Conn;
pub(crate) use conn_cache::ConnCache;
pub use conn_info::{ConnInfo, Peer};
pub use connection_event::{ConnectionEvent, ConnectionEventKind, ConnectionEvents};
pub use exchange::Exchange;
pub(crate) use exchange::ExchangeSummary;
pub use exchange_record::LentHead;
pub use interim::Interim;
pub(crate) use interim::InterimQueue;
pub use local_reply::LocalReply;
pub use selected::Selected;
pub(crate) use selected::{CallSelected, Selection};
pub(crate) use shutdown::IDLE_GRACE;
pub use shutdown::{GracefulShutdown, ShutdownSignal};
pub use tls_info::TlsInfo;
pub use trusted_peers::TrustedPeers;
pub use tunnel::Tunnel;
