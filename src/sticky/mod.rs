//! Sticky sessions by cookie: a client comes back to the backend that served it.
//!
//! The cookie holds an opaque token, a keyed hash of the backend's id: it says nothing about the
//! user, nothing about the backend to whoever has no key, and cannot be made without one. It is
//! never the client's address that decides.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, sticky::{Keys, StickyLayer}};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! // From a secret store; the same on every instance.
//! let keys = Keys::from_hex(["0123456789abcdef".repeat(4)])?;
//! let sticky = StickyLayer::new(pool, keys).cookie_name("NODE")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above the balancer, of ours or of others, and above what retries. It writes the affinity that
//! the cookie asks for into the [`Exchange`](crate::context::Exchange); the balancer honours it
//! and settles the verdict. It reads there which backend answered. Below the balancer it has no
//! effect, and warns once.
//!
//! With a balancer of your own: read [`Exchange::affinity`](crate::context::Exchange::affinity),
//! and call [`begin_attempt`](crate::context::Exchange::begin_attempt) with the backend that you
//! chose.
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
//! It does not fail a request. No cookie, or one that does not verify, is balanced like any other
//! request and gets a cookie for the backend that answered. So is one whose backend is down or at
//! its cap; a backend that drains keeps its sessions until its deadline, and then they move once.
//! A session that moved does not move back when its old backend returns.
//!
//! The response that sets the cookie gets `Cache-Control: private` unless it has `no-store`;
//! `public` and `s-maxage` give way: a shared cache would hand one client's backend to all. Other
//! directives stay byte for byte, and fields with an unfinished quoted string stay as they are, a
//! field with `private` before them. What was not routed sets no cookie. The backend never sees the cookie; other cookies pass byte for
//! byte.
//!
//! Over cleartext a browser drops a `Secure` cookie; the first such request is warned about.
//!
//! **Deployment caveat.** Sessions that live in one backend's memory are lost with it, sticky or
//! not. Clients that keep no cookies (many API clients, some health checks) are balanced anew
//! each time. A key that leaks lets its holder choose a backend, nothing more; rotate it by
//! putting the new one first and dropping the old one when its cookies are gone.
//!
//! # Cost
//!
//! One pass over the Cookie field, and one look-up in a table that is made when the pool changes;
//! no cryptography. Taking the cookie out costs a copy of the other cookies, where there are any;
//! a first response costs the `Cache-Control` value.
//!
//! About 140 ns and no allocation on a shared cloud core with a cookie,
//! 170 ns for a new session: produced by `benches/layers.rs`.

mod cookie;
mod layer;
mod private;
mod service;
mod token;

pub use layer::{SameSite, StickyLayer};
pub use service::{ResponseFuture, Sticky};
pub use token::Keys;
