//! A load balancer inside an axum application: ordinary routes beside it, under `/api` and as
//! the fallback, with tower-http's layers around it.
//!
//! ```sh
//! cargo run --features full --example axum
//! curl -i http://127.0.0.1:3000/            # an ordinary route
//! curl -i http://127.0.0.1:3000/api/x       # balanced; the backend sees /x
//! curl -i http://127.0.0.1:3000/else        # balanced, too
//! ```
//!
//! With `edge`'s settings file as its argument, it serves those settings as the fallback of a
//! router, with TLS where they say so:
//!
//! ```sh
//! cargo run --release --features full --example axum -- edge.toml
//! ```

use std::{error::Error, net::Ipv4Addr, time::Duration};

use axum::{
    Router,
    extract::Extension,
    http::{HeaderName, StatusCode},
    routing::get,
};
use evenkeel::{
    Backend, LoadBalancer, Pool, context::ConnInfo, health::HealthLayer, settings::Settings,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder};
use tower_http::{
    compression::CompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
};

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let path = std::env::args().nth(1);
    let settings = match path {
        Some(path) => Some(Settings::from_toml(&std::fs::read_to_string(path)?)?),
        None => None,
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = settings.as_ref().and_then(|s| s.server.threads) {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        match settings {
            Some(settings) => serve(settings).await,
            None => demo().await,
        }
    })
}

/// The settings' load balancer as a router's fallback.
async fn serve(settings: Settings) -> Result<(), BoxError> {
    let pool = settings.pool()?;
    let mut builder = settings.load_balancer(&pool)?;
    if let Some((_, layer)) = settings.access_log()? {
        builder = builder.access_log(layer);
    }
    let app = Router::new().fallback_service(builder.build());
    let mut serving = tokio::task::JoinSet::new();
    for nth in 0..settings.listen.len() {
        let tcp = TcpListener::bind(settings.listen_address(nth)?).await?;
        let app = app
            .clone()
            .into_make_service_with_connect_info::<ConnInfo>();
        match settings.tls(nth)? {
            Some((tls, _)) => serving.spawn(axum::serve(tls.layer(tcp), app).into_future()),
            None => serving.spawn(axum::serve(tcp, app).into_future()),
        };
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    Ok(())
}

/// A router with routes of its own, over two backends in this process.
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn demo() -> Result<(), BoxError> {
    let mut backends = Vec::new();
    for name in ["left", "right"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let app = Router::new()
            .fallback(move |uri: http::Uri| async move { format!("{name} was asked for {uri}\n") });
        tokio::spawn(axum::serve(listener, app).into_future());
        backends.push(Backend::new(name, &url)?);
    }
    let pool = Pool::new(backends)?;
    // These backends have no health page: live traffic alone judges them.
    let health = HealthLayer::new(pool.clone()).no_checks();
    let balancer = LoadBalancer::builder(pool).health(health).build();

    let request_id = HeaderName::from_static("x-request-id");
    let app = Router::new()
        .route("/", get(own_route))
        .nest_service("/api", balancer.clone())
        .fallback_service(balancer)
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::new(request_id.clone(), MakeRequestUuid))
                .layer(TimeoutLayer::with_status_code(
                    StatusCode::GATEWAY_TIMEOUT,
                    Duration::from_secs(30),
                ))
                .layer(CompressionLayer::new())
                .layer(PropagateRequestIdLayer::new(request_id)),
        );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 3000)).await?;
    println!("http://127.0.0.1:3000/  http://127.0.0.1:3000/api/x  http://127.0.0.1:3000/else");
    let app = app.into_make_service_with_connect_info::<ConnInfo>();
    axum::serve(listener, app).await?;
    Ok(())
}

async fn own_route(Extension(conn): Extension<axum::extract::ConnectInfo<ConnInfo>>) -> String {
    format!("an ordinary route, asked by {:?}\n", conn.0.client())
}
