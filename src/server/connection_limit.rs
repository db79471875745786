//! How many connections a server may have open at once.

use tokio::sync::Semaphore;

use crate::error::ConfigError;

/// Refuses what [`Serve::max_connections`](super::Serve::max_connections) does not accept. Settings are
/// checked before there is a listener.
pub(crate) fn check(max: usize) -> Result<(), ConfigError> {
    match (1..=Semaphore::MAX_PERMITS).contains(&max) {
        true => Ok(()),
        false => Err(ConfigError::new(
            "max_connections",
            format!("{max}: 1 to {} is accepted", Semaphore::MAX_PERMITS),
        )),
    }
}

/// A process may usually open more files than this, with a backend connection for each client too.
pub(super) const DEFAULT: usize = 10_000;
