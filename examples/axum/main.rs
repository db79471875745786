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

mod demo;
mod doors;
#[path = "../edge/known.rs"]
mod known;

use std::{env, time::Duration};

use axum::{Router, extract::Request, routing::get};
use evenkeel::{BoxError, LoadBalancer, context::ConnInfo, settings::Settings};
use http::StatusCode;
use tower::ServiceBuilder;
use tower_http::{
    compression::CompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
};
use tracing_subscriber::EnvFilter;

use crate::doors::Doors;

fn app(balancer: LoadBalancer) -> Router {
    // Any tower layer goes around the balancer like around a handler.
    let api = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
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

fn main() -> Result<(), BoxError> {
    let Some(path) = env::args().nth(1) else {
        return runtime(None)?.block_on(async {
            let (balancer, doors) = demo::start().await?;
            doors.serve(app(balancer)).await
        });
    };
    // The `h2` crate warns about each odd frame of a client, which would choose how much is logged.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info,h2=error"))
        .with_writer(std::io::stderr)
        .init();
    let settings = Settings::from_toml(&std::fs::read_to_string(&path)?)
        .map_err(|error| format!("{path}: {error}"))?;
    runtime(settings.server.threads)?.block_on(async {
        let pool = settings.pool()?;
        let state_file = settings.health.as_ref().and_then(|h| h.state_file.clone());
        // Before checks begin, which is when the layers are made.
        let keeper = state_file.map(|path| {
            known::restore(&path, &pool);
            known::Keeper::start(path, pool.clone())
        });
        let mut balancer = settings.load_balancer(&pool)?;
        if let Some((_, log)) = settings.access_log()? {
            balancer = balancer.access_log(log);
        }
        let doors = Doors::from_settings(&settings, &pool)?;
        let served = doors.serve(app(balancer.build())).await;
        if let Some(keeper) = keeper {
            keeper.finish();
        }
        served
    })
}

fn runtime(threads: Option<usize>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}
