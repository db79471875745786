//! Sticky sessions by cookie: a client comes back to the backend that served it.
//!
//! Applications that keep sessions, uploads or caches in the memory of one process need every
//! request of a client at the same process. The first response sets a cookie that names the
//! backend; later requests carry the cookie and go there, as long as the backend can take them.
//!
//! # Example
//!
//! A session stays on its backend, and the backend does not see the cookie:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use evenkeel::{Backend, Pool, context::Exchange, sticky::{Keys, StickyLayer}};
//! use http::{Request, Response, header::{COOKIE, SET_COOKIE}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! // In production: 32 random bytes from a secret store, the same on every instance.
//! let keys = Keys::from_hex(["0123456789abcdef".repeat(4)])?;
//! let sticky = StickyLayer::new(pool.clone(), keys).cookie_name("NODE")?;
//!
//! // A balancer of your own: it honours the affinity, and otherwise takes the last backend.
//! let service = sticky.layer(service_fn(move |mut request: Request<()>| {
//!     assert!(!request.headers().contains_key(COOKIE));
//!     let exchange = Exchange::of(request.extensions_mut());
//!     let backend = match exchange.affinity() {
//!         Some(affinity) if affinity.backend.keeps_sessions() => affinity.backend,
//!         _ => pool.snapshot().backends()[1].clone(),
//!     };
//!     exchange.begin_attempt(backend.clone());
//!     async move { Ok::<_, Infallible>(Response::new(backend.id().to_owned())) }
//! }));
//!
//! let first = service.clone().oneshot(Request::new(())).await?;
//! assert_eq!(first.body(), "b");
//! let cookie = first.headers()[SET_COOKIE].to_str()?;
//! assert!(cookie.ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax"));
//!
//! let cookie = cookie.split(';').next().unwrap_or_default();
//! let second = Request::get("/").header(COOKIE, cookie).body(())?;
//! let second = service.oneshot(second).await?;
//! assert_eq!(second.body(), "b");
//! assert!(!second.headers().contains_key(SET_COOKIE), "a current cookie is not renewed");
//! # Ok(())
//! # }
//! ```
//!
//! # Why a keyed hash
//!
//! The value of the cookie is a keyed hash (HMAC-SHA-256, cut to 128 bits) of the cookie's name and
//! the backend's id. It says nothing about the user. It does not reveal to a client without a key
//! how many backends there are or which one it uses, and such a client cannot choose a backend.
//! Instances that share keys agree on the cookies without shared state, and a restart loses no
//! session. The client's address plays no part: it changes while a phone moves between networks,
//! and thousands of clients share one address behind a carrier's NAT.
//!
//! # Where it goes
//!
//! Above the balancer and above every layer that retries. The layer writes the affinity that the
//! cookie asks for into the [`Exchange`](crate::context::Exchange). The balancer honours it if the
//! backend can take the request, and records in the
//! [verdict](crate::context::Exchange::sticky_verdict) what became of it. With the response, the
//! layer reads from the `Exchange` which backend answered. Below the balancer the layer has no
//! effect; below the failover, a second attempt loses the affinity. Both are logged as a warning,
//! once.
//!
//! A balancer of your own reads [`Exchange::affinity`](crate::context::Exchange::affinity) and
//! calls [`begin_attempt`](crate::context::Exchange::begin_attempt) with the backend that it chose,
//! as in the example.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | cookie | `PROXY_SERVER_ID` |
//! | `HttpOnly` | always |
//! | `Secure` | on; [`insecure`](StickyLayer::insecure) switches it off |
//! | `SameSite` | `Lax` |
//! | `Path` | `/` |
//! | `Domain`, `Max-Age` | none: the host that set it, until the browser's session ends |
//! | keys | none: there is no constructor without one |
//!
//! # When it fails
//!
//! The layer never fails a request.
//!
//! | the cookie | the request | the response |
//! |---|---|---|
//! | is missing | is balanced | sets a cookie for the backend that answered |
//! | does not verify: forged, of another pool, of a removed backend | is balanced | sets a new cookie |
//! | names a backend that is down or at its cap | is balanced | sets a new cookie: the session moves |
//! | names a draining backend | goes there until the drain's deadline | sets no cookie |
//! | names a usable backend | goes there | sets no cookie |
//! | was made with an older key | goes there | sets a cookie of the first key |
//!
//! A session that has moved does not move back when its old backend returns. A response without a
//! backend, such as one for an error of the balancer, sets no cookie.
//!
//! A response that sets the cookie gets `Cache-Control: private`, unless it has `no-store`;
//! `public` and `s-maxage` are removed. A shared cache would otherwise hand one client's cookie to
//! all. Other directives stay byte for byte. A field with an unterminated quoted string stays as it
//! is, and a field with `private` is put before it.
//!
//! Browsers drop a `Secure` cookie that they receive over cleartext; the layer logs a warning for
//! the first request over cleartext.
//!
//! # Deployment caveats
//!
//! - Sessions in the memory of one backend are lost with that backend, sticky or not.
//! - Clients that keep no cookies (many API clients, some health checks) are balanced again with
//!   each request.
//! - A leaked key lets its holder choose a backend, and nothing more. To rotate keys, put the new
//!   key first and keep the old one as an [older key](Keys::with_older_key) until its cookies have
//!   expired.
//!
//! # Cost
//!
//! A request costs one pass over the `Cookie` field and one look-up in a table that is built when
//! the pool changes. It costs no cryptography, and about 140 ns without an allocation if the
//! request has a valid cookie alone. Removing the cookie copies the other cookies, if there are
//! any. A new session costs about 170 ns, and the `Cache-Control` value. The
//! figures are of a shared cloud core, produced by `benches/layers.rs`.

mod cache_control;
mod cookie;
mod layer;
mod service;
mod token;

pub use layer::{SameSite, StickyLayer};
pub use service::{ResponseFuture, Sticky};
pub use token::Keys;
