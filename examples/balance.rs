//! Balance alone: `BalanceLayer` picks a backend, and hyper-util's client forwards the request.
//!
//! ```sh
//! cargo run --example balance
//! curl http://127.0.0.1:3000/     # again and again: b, a, b, b, a, b …
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{future::IntoFuture, io};

use axum::{Router, body::Body, error_handling::HandleErrorLayer, response::IntoResponse, routing};
use evenkeel::{
    Backend, BoxError, Error, Pool,
    balance::{BalanceLayer, RoundRobin},
    context::Selected,
};
use http::{Request, Response, StatusCode, Uri, uri::PathAndQuery};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = Pool::new([
        Backend::new("a", &start("a").await?)?,
        Backend::new("b", &start("b").await?)?.weight(2)?,
    ])?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let balanced = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(explain))
        .layer(BalanceLayer::new(pool).strategy(RoundRobin::new()))
        .service(service_fn(move |request| forward(client.clone(), request)));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("curl http://{}/", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback_service(balanced)).await?;
    Ok(())
}

/// Forwards a request to the selected backend. Any service that reads `Selected` fits here;
/// evenkeel's own is `proxy::Proxy`.
async fn forward(
    client: Client<HttpConnector, Body>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let Some(Selected(backend)) = request.extensions().get() else {
        return Err("no backend was selected".into());
    };
    let target = request.uri().path_and_query();
    *request.uri_mut() = Uri::builder()
        .scheme(backend.scheme().as_str())
        .authority(backend.authority().as_bytes())
        .path_and_query(target.map_or("/", PathAndQuery::as_str))
        .build()?;
    // The body goes through balance, which counts the request as in flight until its end.
    Ok(client.request(request).await?.map(Body::new))
}

async fn explain(error: Error) -> impl IntoResponse {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
}

/// Starts a backend that answers with its name, and returns its URL.
async fn start(name: &'static str) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new().fallback(routing::any(move || async move { format!("{name}\n") }));
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(url)
}
