//! `ProxyProtocolLayer` in front of `evenkeel::serve`, and the header that a backend gets.
//!
//! ```text
//! a TCP balancer ── PROXY protocol ──▶ 127.0.0.1:8080 ── PROXY protocol, version 2 ──▶ 127.0.0.1:9001
//! ```
//!
//! ```sh
//! cargo run --features full --example proxy_protocol
//! curl --haproxy-protocol http://127.0.0.1:8080/
//! curl -i http://127.0.0.1:8080/      # no header: closed
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{convert::Infallible, error::Error, future::IntoFuture};

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    connect::{Connector, ProxyVersion},
    context::{ConnInfo, TrustedPeers},
    health::HealthLayer,
    proxy::Proxy,
    proxy_protocol::{ProxyHeader, ProxyProtocolLayer},
    server,
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::net::TcpListener;
use tower::service_fn;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // List the balancers in front, and only them: they can name any client.
    let trusted = || TrustedPeers::new(["127.0.0.1"]).map(ProxyProtocolLayer::new);

    let listener = TcpListener::bind("127.0.0.1:9001").await?;
    let backend = evenkeel::serve(listener, service_fn(show)).layer(trusted()?);

    let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
    let connector = Connector::new().proxy_protocol(ProxyVersion::V2);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool).no_checks())?
        .proxy(Proxy::new().connector(connector))
        .build();
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let front = evenkeel::serve(listener, balancer).layer(trusted()?);

    println!("http://127.0.0.1:8080/ expects a PROXY protocol header");
    tokio::try_join!(backend.into_future(), front.into_future())?;
    Ok(())
}

async fn show(request: Request<server::Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    let conn = ConnInfo::of(request.extensions());
    let header = conn.and_then(ProxyHeader::of);
    let client = conn.and_then(ConnInfo::client);
    let text = format!("the backend sees {client:?}\n{header:#?}\n");
    Ok(Response::new(Full::new(Bytes::from(text))))
}
