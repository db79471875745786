//! axum: routes of your own beside the load balancer, which answers under `/api` and for all the
//! rest; TLS termination around it; tower-http's layers in the stack.
//!
//! ```sh
//! cargo run --features full --example axum
//! curl -k https://127.0.0.1:3000/hello         # a route, which sees the TLS session
//! curl -k https://127.0.0.1:3000/api/users     # a backend, which sees /users
//! curl -k https://127.0.0.1:3000/users         # a backend, by the fallback
//! ```
//!
//! With a settings file (see the `edge` example) it serves what that says:
//! `cargo run --release --features full --example axum -- edge.toml`.

#[path = "../edge/acme.rs"]
mod acme;
#[path = "../edge/cli.rs"]
mod cli;
mod demo;
#[path = "../edge/fleet.rs"]
mod fleet;
#[path = "../edge/listen.rs"]
mod listen;
mod listeners;
#[path = "../edge/operators.rs"]
mod operators;
#[path = "../edge/state_file.rs"]
mod state_file;
#[path = "../edge/upgrade.rs"]
mod upgrade;

use std::{num::NonZeroUsize, process::ExitCode, time::Duration};

use axum::{Router, extract::Request, routing::get};
use evenkeel::{
    BoxError, LoadBalancer,
    context::ConnInfo,
    fleet::handover::{PassedSockets, Start},
    settings::{LogOutputs, Settings},
    stats::CertificateRegistry,
    tls::ExpiryWatcher,
};
use http::StatusCode;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::AbortHandle,
};
use tower::ServiceBuilder;
use tower_http::{
    compression::CompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
};

use crate::{listeners::Listeners, operators::Operators};

/// Builds the router. A balancer with a log gives each request an id; without a log, tower-http
/// does.
fn app(balancer: LoadBalancer, has_log: bool) -> Router {
    // Any tower layer goes around the balancer, as around a handler.
    let api = ServiceBuilder::new()
        .option_layer((!has_log).then(|| SetRequestIdLayer::x_request_id(MakeRequestUuid)))
        .option_layer((!has_log).then(PropagateRequestIdLayer::x_request_id))
        .layer(CompressionLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(30),
        ))
        .service(balancer.clone());
    Router::new()
        .route("/hello", get(hello))
        .nest_service("/api", api)
        .fallback_service(balancer)
}

async fn hello(request: Request) -> String {
    match ConnInfo::of(request.extensions()).and_then(ConnInfo::tls) {
        Some(tls) => format!("hello over {} with {}\n", tls.version, tls.cipher),
        None => "hello over cleartext\n".into(),
    }
}

const HELP: &str = "\
axum: routes of its own beside the load balancer

usage: axum [[--check] FILE.toml]

  --check        says what is wrong with the file and the files that it names, and ends
  -h, --help     shows this
  -V, --version  shows the version

Without a file, it balances over two backends that it starts itself. RUST_LOG sets which events go
to the standard error: \"info,h2=error\" where it is not set.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn run() -> Result<(), ExitCode> {
    let arguments = cli::arguments(HELP)?;
    let Some(path) = arguments.file else {
        return show().map_err(|error| cli::failed("axum", &*error));
    };
    let settings = cli::settings(&path, arguments.only_check)?;
    cli::start_log();
    serve(&settings).map_err(|error| cli::failed(&path, &*error))
}

fn show() -> Result<(), BoxError> {
    runtime(None)?.block_on(async {
        let (balancer, listeners) = demo::start().await?;
        listeners.serve(app(balancer, false)).await
    })
}

fn serve(settings: &Settings) -> Result<(), BoxError> {
    // Before the runtime starts threads.
    let passed = PassedSockets::take()?;
    runtime(settings.server.threads)?.block_on(async {
        let mut start = Start::begin(upgrade::handover(settings)?, passed).await?;
        let pool = settings.pool();
        if settings.health.is_some() {
            start.restore_health(upgrade::POOL, &pool);
        }
        let state_file = settings.health.as_ref().and_then(|h| h.state_file.clone());
        // Before the layers are made, because checks begin then.
        let state_file = state_file.map(|path| {
            if start.predecessor().is_none() {
                state_file::restore(&path, &pool);
            }
            state_file::StateFile::start(path, pool.clone())
        });
        let tickets = fleet::tickets(settings)?;
        let tls = fleet::tls(settings, tickets.as_ref())?;
        let fleet = fleet::join(settings, &pool, tickets.as_ref()).await?;
        fleet::take_over(fleet.as_ref(), &mut start, &pool);
        let mut balancer = settings.load_balancer(&pool);
        let (log, log_layer) = settings.access_log()?.unzip();
        let has_log = log.is_some();
        if let Some(layer) = &log_layer {
            balancer = balancer.access_log(layer.clone());
        }
        let certificates = settings.certificate_registry();
        if let Some(certificate) = settings.client_certificate() {
            certificates.add(CertificateRegistry::BACKENDS, certificate);
        }
        let metrics = operators::metrics_layer(settings, &pool, &certificates);
        if let Some(layer) = &metrics {
            balancer = balancer.metrics(layer.clone())?;
        }
        fleet::add_gauge(fleet.as_ref(), metrics.as_ref());
        let readiness = settings.readiness(&pool, &certificates);
        let (stats, lines) = (metrics.as_ref(), log.as_ref());
        let _reopened = log.clone().map(reopen_at_hangup).transpose()?;
        let app = app(balancer.build(), has_log);
        if start.predecessor().is_some() && settings.health.is_some() {
            upgrade::checked(&pool).await;
        }
        let ready = readiness.clone();
        let mut listeners = Listeners::from_settings(settings, start, ready, &pool, tls).await?;
        listeners.show_certificates_in(&certificates)?;
        let _expiry = ExpiryWatcher::start(&certificates, ExpiryWatcher::INTERVAL);
        let start = &mut listeners.start;
        listeners.operators = Operators::serve(settings, start, &readiness, stats, lines)?;
        listeners.events = (metrics, log_layer);
        (listeners.fleet, listeners.state_file) = (fleet, state_file);
        listeners.serve(app).await
    })
}

/// Opens the files of the log again at SIGHUP, after another program has moved them.
fn reopen_at_hangup(log: LogOutputs) -> std::io::Result<AbortHandle> {
    let mut hangup = signal(SignalKind::hangup())?;
    let reopen = async move {
        while hangup.recv().await.is_some() {
            log.reopen();
        }
    };
    Ok(tokio::spawn(reopen).abort_handle())
}

fn runtime(threads: Option<NonZeroUsize>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.enable_all().build()
}
