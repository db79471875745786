//! Finds the client of a request that came through a trusted load balancer.
//!
//! ```sh
//! cargo run --example forwarded
//! curl -s -H 'X-Forwarded-For: 192.0.2.1, 203.0.113.7' http://127.0.0.1:3000/   # 203.0.113.7
//! ```

use std::{convert::Infallible, error::Error};

use evenkeel::{
    context::{ConnInfo, Peer, TrustedPeers},
    forwarded::ForwardedLayer,
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tower::{Layer, service_fn};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn main() -> Result<(), Box<dyn Error>> {
    let greeting = service_fn(|request: Request<Incoming>| async move {
        let client = ConnInfo::client_of(request.extensions());
        let text = match client {
            Some(client) => format!("{}\n", client.ip()),
            None => "unknown\n".to_owned(),
        };
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let service = ForwardedLayer::new(TrustedPeers::new(["127.0.0.0/8"])?).layer(greeting);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/");
    loop {
        let (stream, peer) = listener.accept().await?;
        let conn = ConnInfo::new(Peer::Tcp(peer), Peer::Tcp(stream.local_addr()?));
        let service = service.clone();
        // `evenkeel::serve` inserts `ConnInfo` itself; hyper does not.
        let with_conn_info = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(conn.clone());
            tower::ServiceExt::oneshot(service.clone(), request)
        });
        tokio::spawn(async move {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(
                    TokioIo::new(stream),
                    TowerToHyperService::new(with_conn_info),
                )
                .await
        });
    }
}
