//! `[admin]`: the listener for operators, which clients cannot reach.

use std::convert::Infallible;

use axum::Router;
use bytes::Bytes;
use evenkeel::{
    BoxError, Pool,
    admin::Admin,
    endpoints::{Endpoints, EndpointsLayer, Readiness},
    fleet::handover::Start,
    metrics::{MetricsLayer, MetricsService},
    server,
    settings::{LogOutputs, Settings},
    stats::{CertificateRegistry, Stats},
};
use http::{Request, Response};
use http_body::Body;
use tokio::{net::TcpListener, sync::watch};
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
    /// Changes when another process serves operators.
    handed_over: watch::Sender<()>,
}

impl Operators {
    /// Serves `/live`, `/ready` and what else `[admin]` asks for, until the process ends.
    pub(crate) fn serve(
        settings: &Settings,
        start: &mut Start,
        readiness: &Readiness,
        metrics: Option<&MetricsLayer>,
        log: Option<&LogOutputs>,
    ) -> Result<Self, BoxError> {
        let mut operators = Self::default();
        let Some(admin) = &settings.admin else {
            return Ok(operators);
        };
        let listener = start
            .listener(admin.address)
            .map_err(|error| format!("[admin] address: {error}"))?;
        let end = operators.handed_over.subscribe();
        let Some(stats) = metrics.and_then(MetricsLayer::stats) else {
            serve(listener, Endpoints::new(readiness.clone()), end)?;
            return Ok(operators);
        };
        let metrics = || metrics_service(stats, log);
        let endpoints = EndpointsLayer::new(readiness.clone());
        let page = settings.status_page(stats.pool())?;
        let page = page.map(|page| page.stats(stats.clone())).transpose()?;
        let Some(mut page) = page else {
            // Without both there are no numbers.
            let router = Router::new().route_service("/metrics", metrics());
            serve(listener, endpoints.layer(router), end)?;
            return Ok(operators);
        };
        if admin.metrics {
            page = page.metrics(metrics());
        }
        serve(listener, endpoints.layer(page.clone()), end)?;
        operators.page = Some(page);
        Ok(operators)
    }

    /// Stops accepting: another process does.
    pub(crate) fn hand_over(&self) {
        self.close();
        self.handed_over.send_replace(());
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

fn serve<S, B>(
    listener: TcpListener,
    service: S,
    mut handed_over: watch::Receiver<()>,
) -> Result<(), BoxError>
where
    S: Service<Request<server::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Default + Send + 'static,
    B::Error: Into<BoxError>,
{
    tracing::info!("admin on http://{}/", listener.local_addr()?);
    let serve = evenkeel::serve(listener, service).handed_over(async move {
        if handed_over.changed().await.is_err() {
            // All handles are gone, and nothing hands over.
            std::future::pending::<()>().await;
        }
    });
    tokio::spawn(serve.into_future());
    Ok(())
}
