//! The events of a connection that is open.

use std::sync::Arc;

use crate::context::{ConnInfo, ConnectionEvents};

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
