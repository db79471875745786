//! What all handshakes of a layer share.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use rustls::{ServerConfig, server::ClientHello};
use tokio::sync::Semaphore;

use super::{Certificates, challenge::Challenges, configs::Configs};
use crate::context::ConnectionEvents;

/// The settings and permits that all handshakes of a layer share.
#[derive(Clone)]
pub(super) struct HandshakeConfig {
    pub(super) configs: Arc<Configs>,
    /// `None` for a configuration of rustls.
    pub(super) certificates: Option<Certificates>,
    pub(super) timeout: Duration,
    pub(super) permits: Arc<Semaphore>,
    pub(super) events: Option<Arc<dyn ConnectionEvents>>,
}

impl HandshakeConfig {
    /// Returns a future if the certificate has to be looked up.
    pub(super) fn lookup(&self, hello: &ClientHello<'_>) -> Option<Lookup> {
        let certificates = self.certificates.as_ref()?;
        let name = hello.server_name()?;
        if Challenges::is_check(hello) {
            let challenges = certificates.challenges()?;
            return Some(Box::pin(challenges.config(name.into())));
        }
        let lookup = certificates.lookup(name)?;
        Some(Box::pin(async move {
            lookup.await;
            None
        }))
    }
}

/// The configuration of this handshake alone; `None` for the layer's.
pub(super) type Lookup = Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send>>;
