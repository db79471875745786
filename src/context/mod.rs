//! The typed extensions by which the layers of this crate pass facts to each other.
//!
//! The layers never call one another. Each leaves what it knows in [`http::Extensions`], under a type
//! of this module, and reads there what the others left. So each layer works alone, in any stack, and
//! a layer of your own reads and writes the same types.
//!
//! | extension | what | written by | when absent |
//! |---|---|---|---|
//! | [`ConnInfo`] | the connection: peer, local address, client, TLS session | server, proxy_protocol, tls | peer unknown; no fields about the client are added |
//! | [`Exchange`] | the record of the request: affinity, decision, attempts, failure | all layers | the layer that needs it inserts one |
//! | [`Selected`] | the backend of this attempt | balance | the proxy fails with [`ErrorKind::NotRouted`](crate::ErrorKind::NotRouted) |
//! | [`Interim`] | sends 102 and 103 to the client | server | interim responses are dropped |
//! | [`Tunnel`] (response) | guards that last until the tunnel closes | proxy | the exchange ends with the body |
//! | [`LocalReply`] (response) | the response was made without its backend | proxy | the backend sent it |
//! | [`AuthFailure`] (response) | why authentication failed | your own layer | derived from 401, 403, 407 |
//! | [`User`] (request or response) | the user that was authenticated | your own layer | no user in the log |
//! | [`LogFields`] (request or response) | fields of your own for the log | your own layer | none |
//! | [`TraceContext`] | the trace and the span of the request | trace | no trace id in the log |
//!
//! The connection stack, below the requests, has types of its own: [`Conn`], [`ShutdownSignal`],
//! [`ConnectionEvents`] and [`Transport`].
//!
//! # Example
//!
//! A balancer of your own writes the record, and a layer above reads it:
//!
//! ```
//! use evenkeel::{Backend, ErrorKind, context::{Exchange, Outcome, Selected}};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let (a, b) = (Backend::new("a", "http://127.0.0.1:9001")?, Backend::new("b", "http://127.0.0.1:9002")?);
//! let mut request = http::Request::new(());
//! let exchange = Exchange::of(request.extensions_mut());
//!
//! let first = exchange.begin_attempt(a);
//! exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
//! let second = exchange.begin_attempt(b.clone());
//! request.extensions_mut().insert(Selected(b));
//! exchange.end_attempt(second, Outcome::Ok);
//!
//! assert_eq!(exchange.answered_by().unwrap().id(), "b");
//! exchange.attempts(|attempts| {
//!     let outcomes: Vec<_> = attempts.iter().map(|a| a.outcome.unwrap().as_str()).collect();
//!     assert_eq!(outcomes, ["connect", "ok"]);
//! });
//! # Ok(())
//! # }
//! ```
//!
//! # Why extensions
//!
//! A call between two layers needs both of their types, so a layer of another crate could not stand
//! between them. An extension passes through such a layer untouched. The record is shared and not
//! copied, because a request may fail, be retried or be dropped in the middle: a response extension
//! would be lost then, and the access log would not know which backends were tried.
//!
//! # Where it goes
//!
//! Between the layers. A layer above reads what a layer below wrote into the [`Exchange`], during the
//! request or after it.
//!
//! # Defaults
//!
//! None.
//!
//! # When it fails
//!
//! It does not fail: the table above says what the absence of each extension means.
//!
//! # Cost
//!
//! Each insertion into the extensions allocates, so there are few.
//!
//! | extension | allocations |
//! |---|---|
//! | [`Exchange`] | two for each request; about 90 ns by `benches/layers.rs` (row `record`) |
//! | [`Selected`] | one for each attempt; in a `LoadBalancer` none, except after a wait for room |
//! | [`ConnInfo`], [`Interim`] | one each for each request, and a few for each connection |
//!
//! `evenkeel::serve` reuses the table of a request's extensions for a later request: the `Proxy` puts
//! the emptied table into its response.

mod affinity;
mod attempt;
mod attempt_observer;
mod auth_failure;
#[cfg(feature = "axum")]
mod axum_extract;
mod cause;
mod certificate_info;
mod client_identity;
mod conn;
mod conn_cache;
mod conn_info;
mod connection_event;
mod exchange;
mod exchange_notes;
mod exchange_record;
mod handshake_failure;
mod host_policies;
mod interim;
mod local_reply;
mod log_fields;
mod phases;
mod request_outcome;
mod selected;
pub(crate) mod service_poll;
mod shutdown;
mod tls_info;
mod trace_context;
mod transport;
mod trusted_peers;
mod tunnel;
mod user;

pub(crate) use affinity::AffinityState;
pub use affinity::{Affinity, StickyVerdict};
pub use attempt::{Attempt, Outcome};
pub(crate) use attempt_observer::AttemptObserver;
pub use auth_failure::AuthFailure;
#[cfg(feature = "axum")]
pub use axum_extract::{ConnectInfoLayer, MissingConnInfo, WithConnectInfo};
pub use certificate_info::CertificateInfo;
pub use client_identity::ClientIdentity;
pub use conn::Conn;
pub(crate) use conn_cache::ConnCache;
pub use conn_info::{ConnInfo, Peer};
pub use connection_event::{ConnectionEvent, ConnectionEventKind, ConnectionEvents};
pub use exchange::Exchange;
pub(crate) use exchange::ExchangeSummary;
pub use exchange_record::HeadCopy;
pub(crate) use exchange_record::PickRecord;
pub use handshake_failure::HandshakeFailure;
#[cfg(feature = "__tls")]
pub(crate) use host_policies::{ConnPolicy, HostPolicies};
pub use interim::Interim;
pub(crate) use interim::InterimQueue;
#[cfg(test)]
pub(crate) use interim::{MAX_INTERIM_BYTES, MAX_INTERIM_RESPONSES};
pub use local_reply::LocalReply;
pub use log_fields::{LogFields, LogValue};
pub use phases::Phases;
pub(crate) use request_outcome::{Ended, RequestOutcome};
pub use selected::Selected;
pub(crate) use selected::{CallSelected, Selection};
pub(crate) use shutdown::IDLE_GRACE;
pub use shutdown::{GracefulShutdown, ShutdownSignal};
pub use tls_info::TlsInfo;
pub use trace_context::TraceContext;
pub use transport::Transport;
pub use trusted_peers::TrustedPeers;
pub use tunnel::Tunnel;
pub use user::User;
