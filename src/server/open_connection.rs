//! Connections that are open: their events, and how many may be.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    context::{ConnInfo, ConnectionEvents},
    error::ConfigError,
};

/// Reports to the events that a connection opened, and at its drop that it is closed.
pub(super) struct OpenConnection {
    events: Arc<dyn ConnectionEvents>,
    info: ConnInfo,
}

impl OpenConnection {
    pub(super) fn new(events: Arc<dyn ConnectionEvents>, info: ConnInfo) -> Self {
        events.connection_opened(&info);
        Self { events, info }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.events.connection_closed(&self.info);
    }
}

/// Returns a number of connections that may be open at once, if a semaphore can count it.
pub(crate) fn check_max_connections(max: usize) -> Result<usize, ConfigError> {
    if max == 0 || max > Semaphore::MAX_PERMITS {
        return Err(ConfigError::new(
            "max_connections",
            format!("{max}: 1 to {} is accepted", Semaphore::MAX_PERMITS),
        ));
    }
    Ok(max)
}
