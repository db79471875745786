//! Failover, alone around a service of your own: the first of two addresses is dead, and no
//! client sees it.
//!
//! ```sh
//! cargo run --example failover
//! curl -i http://127.0.0.1:3000/
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{convert::Infallible, sync::atomic::AtomicUsize, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use evenkeel::{
    BoxError, Error, ErrorKind,
    failover::{FailoverLayer, ReplayBody},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt, service_fn};

/// Nobody listens at the first.
const BACKENDS: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:3000"];
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Somebody else's service: takes the addresses in turn. What it could not send it gives back.
async fn dial(request: Request<ReplayBody<Incoming>>) -> Result<Response<Full<Bytes>>, BoxError> {
    let address = BACKENDS[TURN.fetch_add(1, Relaxed) % BACKENDS.len()];
    match TcpStream::connect(address).await {
        Ok(_) => Ok(Response::new(format!("{address} answers\n").into())),
        Err(cause) => {
            println!("{address}: {cause}");
            let (head, _) = request.into_parts();
            let error = Error::new(ErrorKind::Connect).with_source(cause);
            Err(error.with_unsent(head).into())
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let service = FailoverLayer::new().layer(service_fn(dial));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!(
        "http://127.0.0.1:3000/ answers, though {} is dead",
        BACKENDS[0]
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        // A server of one's own says what an error looks like; `RespondLayer` does it for you.
        let answer = service_fn(move |request| {
            let service = service.clone();
            async move {
                let answer = service.oneshot(request).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(|error| {
                    let mut response = Response::new(format!("{error}\n").into());
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }))
            }
        });
        tokio::spawn(async move {
            let service = TowerToHyperService::new(answer);
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                println!("connection: {error}");
            }
        });
    }
}
