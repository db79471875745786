//! A check that a connection can be had.

use tokio::time::timeout_at;

use super::check::{CheckFuture, HealthCheck, Report, Target};
use crate::{connect::Connector, pool::Scheme};

/// Connects, with TLS where the backend's URL says `https`, and asks nothing.
///
/// Shows that somebody listens, not that requests are answered: a process that hangs still
/// accepts connections. Prefer [`HttpCheck`](super::HttpCheck) where there is a path to ask.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TcpCheck {
    connector: Connector,
}

impl TcpCheck {
    /// Makes the check.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects as the proxy does: same TLS settings, same time-out.
    ///
    /// Default: [`Connector::new`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }
}

impl HealthCheck for TcpCheck {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            let connect = self.connector.connect(target.backend());
            match timeout_at(target.deadline(), connect).await {
                Ok(Ok(_)) => match target.backend().scheme() {
                    Scheme::Http => Report::pass("L4OK", ""),
                    Scheme::Https => Report::pass("L6OK", ""),
                },
                Ok(Err(error)) => Report::not_connected(&error),
                Err(_) => Report::fail("L4TOUT", "no connection in time"),
            }
        })
    }
}
