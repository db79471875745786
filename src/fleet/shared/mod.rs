//! What the instances of one fleet share through Redis.
//!
//! ```text
//!  RedisStore ── commands ──▶ Link ── one connection, deadlines, back-off ──▶ redis-server
//!      ▲                       ▲
//!      │ secrets               │ orders, health
//!      └──────── sync ─────────┘
//!                  │ OrderBook: the latest order for each backend wins
//!                  ▼
//!                 Pool
//! ```

mod builder;
mod frame;
mod health_hints;
mod link;
mod order;
mod order_book;
mod redis_store;
mod redis_url;
mod remote;
mod secret_ring;
mod secrets;
mod seen;
mod status;
mod sync;
#[cfg(test)]
mod tests;

pub use builder::Fleet;
pub use redis_store::RedisStore;
pub use status::FleetHandle;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::BoxError;

/// Returns the milliseconds since 1970 by the clock of this machine.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Returns bytes of the operating system that cannot be guessed.
fn random<const N: usize>() -> Result<[u8; N], BoxError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| format!("no random bytes from the operating system: {error}"))?;
    Ok(bytes)
}

/// Returns a name that no other holder uses, of 128 random bits.
fn random_name() -> Result<String, BoxError> {
    let bits = u128::from_le_bytes(random()?);
    Ok(format!("{bits:032x}"))
}
