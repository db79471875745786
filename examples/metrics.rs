//! A load balancer with metrics: clients at port 8080, Prometheus at port 9900.
//!
//! ```sh
//! cargo run --features full --example backend -- a 127.0.0.1:9001 &
//! cargo run --features full --example metrics
//! curl -s http://127.0.0.1:8080/
//! curl -s http://127.0.0.1:9900/metrics | grep requests_total
//! ```
//!
//! The last command shows, in part:
//!
//! ```text
//! evenkeel_requests_total{listener="127.0.0.1:8080",status="2xx"} 1
//! evenkeel_backend_requests_total{backend="a",status="2xx"} 1
//! ```

use std::{error::Error, future::IntoFuture};

use axum::Router;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    metrics::{Family, MetricsLayer, MetricsService, Value},
    stats::Stats,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new([
        Backend::new("a", "http://127.0.0.1:9001")?,
        Backend::new("b", "http://127.0.0.1:9002")?,
    ])?;
    let stats = Stats::new(pool.clone());
    let metrics = MetricsLayer::new(stats.clone());
    let lines = Lines::stdout()?;
    let log = AccessLogLayer::new(lines.clone());

    // What other parts of the program know is added to each scrape.
    let service = MetricsService::new(stats).source(move |visitor| {
        visitor.family(&Family::counter(
            "evenkeel_log_lines",
            "Lines of the access log.",
        ));
        visitor.sample(&[("result", "written")], &Value::Counter(lines.written()));
        visitor.sample(&[("result", "dropped")], &Value::Counter(lines.dropped()));
    });
    let scrapes = Router::new().route_service("/metrics", service);
    let inside = TcpListener::bind("127.0.0.1:9900").await?;
    let scrapes = evenkeel::serve(inside, scrapes);

    let balancer = LoadBalancer::builder(pool)
        .access_log(log.clone())
        .metrics(metrics.clone())?
        .build();
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    // Both learn of connections that end without a request.
    let clients = evenkeel::serve(listener, balancer).events((metrics, log));

    tokio::try_join!(clients.into_future(), scrapes.into_future())?;
    Ok(())
}
