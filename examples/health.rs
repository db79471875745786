//! Health, alone around a service of your own: checks and live traffic say which of two
//! backends gets requests.
//!
//! ```sh
//! cargo run --example health
//! curl -i http://127.0.0.1:3000/
//! curl -X POST http://127.0.0.1:3001/toggle   # a goes down; again, and it comes back
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use evenkeel::{
    Backend, BoxError, Pool,
    context::Selected,
    health::{Checks, HealthLayer},
    pool::EventKind,
};
use http::{Method, Request, Response, StatusCode};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt, service_fn};

static A_IS_UP: AtomicBool = AtomicBool::new(true);

/// A backend: `/health` is what the checks ask.
async fn backend(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.method() == Method::POST {
        A_IS_UP.fetch_xor(true, Relaxed);
    }
    let mut response = Response::new(String::new());
    if !A_IS_UP.load(Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// Stands for a service of another crate: it only says where a request would go.
async fn forward(request: Request<Incoming>) -> Result<Response<String>, BoxError> {
    let selected = request.extensions().get::<Selected>();
    let id = selected.map_or("no backend", |Selected(backend)| backend.id());
    Ok(Response::new(format!("{id} gets this request\n")))
}

async fn serve<S, B>(address: &'static str, service: S) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { connection.await.map_err(|error| println!("{error}")) });
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = Pool::new([
        Backend::new("a", "http://127.0.0.1:3001")?,
        Backend::new("b", "http://127.0.0.1:3002")?,
    ])?;
    let checks = Checks::new()
        .interval(Duration::from_secs(1))
        .timeout(Duration::from_millis(500));
    let judged = HealthLayer::new(pool.clone())
        .checks(checks)?
        .layer(service_fn(forward));

    let mut events = pool.subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let EventKind::Health(change) = event.kind {
                let (from, to) = (change.from.as_str(), change.to.as_str());
                println!("{}: {from} -> {to}, {}", event.backend.id(), change.reason);
            }
        }
    });

    // The first usable backend; `BalanceLayer` picks better.
    let front = service_fn(move |mut request: Request<Incoming>| {
        let usable = pool
            .snapshot()
            .backends()
            .iter()
            .find(|b| b.is_usable())
            .cloned();
        if let Some(backend) = usable {
            request.extensions_mut().insert(Selected(backend));
        }
        judged.clone().oneshot(request)
    });
    let always_up = service_fn(|_| async { Ok::<_, Infallible>(Response::new(String::new())) });
    println!("try: curl http://127.0.0.1:3000/");
    tokio::try_join!(
        serve("127.0.0.1:3000", front),
        serve("127.0.0.1:3001", service_fn(backend)),
        serve("127.0.0.1:3002", always_up),
    )?;
    Ok(())
}
