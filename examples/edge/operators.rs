//! `[admin]`: the listener for operators, which clients cannot reach.

use std::convert::Infallible;

use axum::Router;
use bytes::Bytes;
use evenkeel::{
    BoxError,
    endpoints::{EndpointsLayer, Readiness},
    metrics::{MetricsLayer, MetricsService},
    server,
    settings::{AdminSettings, LogOutputs, Settings},
    stats::Stats,
};
use http::{Request, Response};
use http_body::Body;
use tokio::net::TcpListener;
use tower::{Layer, Service};

/// Makes the layer that records what `[admin]` shows; `None` if it shows nothing, so that requests
/// do no work for it.
pub(crate) fn metrics_layer(settings: &Settings, pool: &evenkeel::Pool) -> Option<MetricsLayer> {
    let admin = settings.admin.as_ref()?;
    let is_shown = admin.metrics || admin.status;
    is_shown.then(|| MetricsLayer::new(Stats::new(pool.clone())))
}

/// Serves `/live`, `/ready` and what else `[admin]` asks for, until the process ends.
pub(crate) async fn serve(
    settings: &Settings,
    readiness: &Readiness,
    metrics: Option<&MetricsLayer>,
    log: Option<&LogOutputs>,
) -> Result<(), BoxError> {
    let Some(admin) = &settings.admin else {
        return Ok(());
    };
    let listener = TcpListener::bind(admin.address)
        .await
        .map_err(|error| format!("[admin] address: {}: {error}", admin.address))?;
    let endpoints = EndpointsLayer::new(readiness.clone());
    let stats = metrics.and_then(MetricsLayer::stats);
    let mut router = Router::new();
    if let Some(service) = metrics_service(admin, stats, log) {
        router = router.route_service("/metrics", service);
    }
    start(listener, endpoints.layer(router))
}

/// Makes the service of `/metrics`: all series, and the lines of the log.
fn metrics_service(
    admin: &AdminSettings,
    stats: Option<&Stats>,
    log: Option<&LogOutputs>,
) -> Option<MetricsService> {
    let stats = stats.filter(|_| admin.metrics)?;
    let mut service = MetricsService::new(stats.clone());
    if let Some(log) = log.cloned() {
        service = service.source(move |visitor| log.visit(visitor));
    }
    Some(service)
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
