//! `[admin]`: the listener for operators, which clients cannot reach.

use std::convert::Infallible;

use axum::Router;
use bytes::Bytes;
use evenkeel::{
    BoxError, Pool,
    admin::Admin,
    endpoints::{Endpoints, EndpointsLayer, Readiness},
    metrics::{MetricsLayer, MetricsService},
    server,
    settings::{LogOutputs, Settings},
    stats::{CertificateRegistry, Stats},
};
use http::{Request, Response};
use http_body::Body;
use tokio::net::TcpListener;
use tower::{Layer, Service};

/// Makes the layer that records what `[admin]` shows; `None` if it shows nothing, so that requests
/// do no work for it.
pub(crate) fn metrics_layer(
    settings: &Settings,
    pool: &Pool,
    certificates: &CertificateRegistry,
) -> Option<MetricsLayer> {
    let admin = settings.admin.as_ref()?;
    let is_shown = admin.metrics || admin.status;
    is_shown.then(|| {
        let stats = Stats::new(pool.clone());
        MetricsLayer::new(stats.with_certificates(certificates.clone()))
    })
}

/// What runs on the listener for operators.
#[derive(Clone, Default)]
pub(crate) struct Operators {
    page: Option<Admin>,
}

impl Operators {
    /// Serves `/live`, `/ready` and what else `[admin]` asks for, until the process ends.
    pub(crate) async fn serve(
        settings: &Settings,
        readiness: &Readiness,
        metrics: Option<&MetricsLayer>,
        log: Option<&LogOutputs>,
    ) -> Result<Self, BoxError> {
        let Some(admin) = &settings.admin else {
            return Ok(Self::default());
        };
        let listener = TcpListener::bind(admin.address)
            .await
            .map_err(|error| format!("[admin] address: {}: {error}", admin.address))?;
        let Some(stats) = metrics.and_then(MetricsLayer::stats) else {
            start(listener, Endpoints::new(readiness.clone()))?;
            return Ok(Self::default());
        };
        let metrics = || metrics_service(stats, log);
        let endpoints = EndpointsLayer::new(readiness.clone());
        let page = settings.status_page(stats.pool())?;
        let page = page.map(|page| page.stats(stats.clone())).transpose()?;
        let Some(mut page) = page else {
            // Without both there are no numbers.
            let router = Router::new().route_service("/metrics", metrics());
            start(listener, endpoints.layer(router))?;
            return Ok(Self::default());
        };
        if admin.metrics {
            page = page.metrics(metrics());
        }
        start(listener, endpoints.layer(page.clone()))?;
        Ok(Self { page: Some(page) })
    }

    /// Ends the live updates of open pages, at the beginning of a shutdown. All else is served until
    /// the end.
    pub(crate) fn close(&self) {
        if let Some(page) = &self.page {
            page.close();
        }
    }
}

/// Makes the service of `/metrics`: all series, and the lines of the log.
fn metrics_service(stats: &Stats, log: Option<&LogOutputs>) -> MetricsService {
    let service = MetricsService::new(stats.clone());
    match log.cloned() {
        Some(log) => service.source(move |visitor| log.visit(visitor)),
        None => service,
    }
}

fn start<S, B>(listener: TcpListener, service: S) -> Result<(), BoxError>
where
    S: Service<Request<server::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Default + Send + 'static,
    B::Error: Into<BoxError>,
{
    tracing::info!("admin on http://{}/", listener.local_addr()?);
    tokio::spawn(evenkeel::serve(listener, service).into_future());
    Ok(())
}
