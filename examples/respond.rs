//! `RespondLayer` around a service that fails: the client gets 502 with a generic body and no details.
//!
//! ```sh
//! cargo run --example respond
//! curl -si http://127.0.0.1:3000/          # fails every other time
//! ```

use std::{
    error::Error,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use evenkeel::respond::RespondLayer;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tower::{Layer, service_fn};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn main() -> Result<(), Box<dyn Error>> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let moody = service_fn(|_: Request<Incoming>| async {
        if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Ok(Response::new(Full::new(Bytes::from("fine\n"))))
        } else {
            Err(io::Error::other("the database's password is wrong"))
        }
    });
    let service = RespondLayer::new().layer(moody);
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
