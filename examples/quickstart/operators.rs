//! The listener for operators: the status page with its API, and `/metrics`.

use std::fmt::Write;

use evenkeel::{
    BoxError, Pool,
    admin::Admin,
    endpoints::{EndpointsLayer, Readiness},
    metrics::MetricsService,
    stats::Stats,
};
use tower::Layer;

pub(crate) struct Operators {
    pub(crate) port: u16,
    /// What orders need. In production it comes from a secret store.
    pub(crate) token: String,
    pub(crate) page: Admin,
}

impl Operators {
    /// Serves until the process ends.
    pub(crate) async fn start(pool: &Pool, stats: Stats) -> Result<Self, BoxError> {
        let mut token = String::new();
        for byte in &crate::random_key()?[..8] {
            write!(token, "{byte:02x}")?;
        }
        let page = Admin::new(pool.clone())
            .name("quickstart")
            .stats(stats.clone())?
            .metrics(MetricsService::new(stats))
            .token("operator", &token)?;
        let listener = crate::listen(9900).await?;
        let port = listener.local_addr()?.port();
        let service = EndpointsLayer::new(Readiness::new(pool.clone())).layer(page.clone());
        tokio::spawn(evenkeel::serve(listener, service).into_future());
        Ok(Self { port, token, page })
    }
}
