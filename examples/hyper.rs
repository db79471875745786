//! The stack in a server of your own: the program accepts connections, hyper serves HTTP on them, and
//! evenkeel's layers do the rest. The feature `server` is not needed.
//!
//! ```sh
//! cargo run --example backend -- a 127.0.0.1:9001 &
//! cargo run --example backend -- b 127.0.0.1:9002 &
//! cargo run --example hyper -- a=http://127.0.0.1:9001 b=http://127.0.0.1:9002
//! curl http://127.0.0.1:3000/        # kill a backend, and ask again
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::env;

use evenkeel::{
    BoxError, Pool, balance::BalanceLayer, context::ConnInfo, context::Peer, discover,
    failover::FailoverLayer, health::HealthLayer, proxy::Proxy, respond::RespondLayer,
};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let list: Vec<String> = env::args().skip(1).collect();
    let backends = discover::list(&list.join(" "))?;
    if backends.is_empty() {
        return Err("usage: hyper a=http://127.0.0.1:9001 b=http://127.0.0.1:9002 …".into());
    }
    let pool = Pool::new(backends)?;
    let stack = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(FailoverLayer::new())
        .layer(BalanceLayer::new(pool.clone()))
        // The backends may have no health page, so outlier detection alone judges them.
        .layer(HealthLayer::new(pool).no_checks())
        .service(Proxy::new());

    let listener = match TcpListener::bind("127.0.0.1:3000").await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("127.0.0.1:0").await?,
    };
    println!("curl http://{}/", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        // `X-Forwarded-For` is made from the `ConnInfo`. The stack works without it, too.
        let local = stream.local_addr()?;
        let conn = ConnInfo::new(Peer::Tcp(peer), Peer::Tcp(local));
        let stack = stack.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(conn.clone());
            // These layers are always ready, so a clone of the stack can be called at once.
            stack.clone().call(request)
        });
        tokio::spawn(async move {
            let connection = Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            if let Err(error) = connection.await {
                println!("{peer}: {error}");
            }
        });
    }
}
