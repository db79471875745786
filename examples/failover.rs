//! Failover alone, around a service of your own: of three addresses one is dead and one hangs, and
//! no client sees it.
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
    context::Exchange,
    failover::{FailoverLayer, Hedge, ReplayBody},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt, service_fn};

/// Nothing listens at the first; the second stands for a backend that accepts connections and hangs.
const BACKENDS: [&str; 3] = ["127.0.0.1:1", "hangs", "127.0.0.1:3000"];
static TURN: AtomicUsize = AtomicUsize::new(0);

/// A client that knows nothing of evenkeel's balancer: it takes the addresses in turn. It gives back
/// a head that it could not send; while it waits, it offers a copy of the head, so that a hedge can begin beside
/// this attempt.
async fn dial(request: Request<ReplayBody<Incoming>>) -> Result<Response<Full<Bytes>>, BoxError> {
    let address = BACKENDS[TURN.fetch_add(1, Relaxed) % BACKENDS.len()];
    let (head, _) = request.into_parts();
    if address == "hangs" {
        println!("{address}: no answer");
        std::future::poll_fn(|_| {
            if let Some(exchange) = head.extensions.get::<Exchange>() {
                exchange.offer_head_copy(&head, true);
            }
            std::task::Poll::<()>::Pending
        })
        .await;
    }
    match TcpStream::connect(address).await {
        Ok(_) => Ok(Response::new(format!("{address} answers\n").into())),
        Err(cause) => {
            println!("{address}: {cause}");
            let error = Error::new(ErrorKind::Connect).with_source(cause);
            Err(error.with_unsent(head).into())
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let failover = FailoverLayer::new().max_attempts(3)?.hedge(Hedge::new());
    let service = failover.layer(service_fn(dial));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!(
        "http://127.0.0.1:3000/ answers, though {} is dead and another hangs",
        BACKENDS[0]
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        // The server decides what an error looks like; `RespondLayer` has a default for it.
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
