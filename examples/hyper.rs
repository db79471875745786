//! The stack under hyper's own server, without the feature `server`.
//!
//! ```sh
//! cargo run --example hyper -- http://127.0.0.1:9001 http://127.0.0.1:9002
//! curl -i http://127.0.0.1:3000/
//! ```

use std::{env, error::Error};

use evenkeel::{
    Backend, Pool,
    balance::BalanceLayer,
    context::{ConnInfo, Peer},
    failover::FailoverLayer,
    health::HealthLayer,
    proxy::Proxy,
    respond::RespondLayer,
};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn main() -> Result<(), Box<dyn Error>> {
    let urls = env::args().skip(1).enumerate();
    let backends = urls.map(|(i, url)| Backend::new(format!("b{i}"), &url));
    let pool = Pool::new(backends.collect::<Result<Vec<_>, _>>()?)?;
    let stack = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(FailoverLayer::new())
        .layer(BalanceLayer::new(pool.clone()))
        .layer(HealthLayer::new(pool).no_checks())
        .service(Proxy::new());

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/");
    loop {
        let (stream, peer) = listener.accept().await?;
        // What `evenkeel::serve` would note: the proxy tells the backend who asked.
        let conn = ConnInfo::new(Peer::Tcp(peer), Peer::Tcp(stream.local_addr()?));
        let stack = stack.clone();
        tokio::spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(conn.clone());
                stack.clone().call(request)
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
        });
    }
}
