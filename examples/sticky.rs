//! Sticky sessions around a balancer of your own: here, a coin toss.
//!
//! ```sh
//! cargo run --example sticky
//! curl -si http://127.0.0.1:3000/                                    # either backend, and a cookie
//! curl -s --cookie "NODE=<its value>" http://127.0.0.1:3000/         # the same backend, every time
//! ```

use std::{convert::Infallible, error::Error};

use evenkeel::{
    Backend, Pool,
    context::Exchange,
    sticky::{Keys, StickyLayer},
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tower::{Layer, service_fn};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example prints its address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new([
        Backend::new("left", "http://127.0.0.1:9001")?,
        Backend::new("right", "http://127.0.0.1:9002")?,
    ])?;
    // In production: random keys from a secret store, and TLS instead of `insecure`.
    let keys = Keys::from_hex(["0123456789abcdef".repeat(4)])?;
    let sticky = StickyLayer::new(pool.clone(), keys)
        .cookie_name("NODE")?
        .insecure()?;

    let coin_toss = service_fn(move |mut request: Request<Incoming>| {
        let exchange = Exchange::of(request.extensions_mut());
        let chosen = match exchange.affinity() {
            Some(affinity) if affinity.backend.keeps_sessions() => affinity.backend,
            _ => pool.snapshot().backends()[fastrand::usize(..2)].clone(),
        };
        exchange.begin_attempt(chosen.clone());
        let answer = Bytes::from(format!("{}\n", chosen.id()));
        async move { Ok::<_, Infallible>(Response::new(Full::new(answer))) }
    });
    let service = sticky.layer(coin_toss);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/");
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
        });
    }
}
