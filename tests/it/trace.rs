//! Trace context and spans, over real sockets: the spans are those that a collector gets by OTLP.

mod collector;
mod context;
mod spans;

pub(crate) use collector::Collector;

use std::sync::Once;

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    health::HealthLayer,
    load_balancer::{self, Body},
    trace::TraceLayer,
};
use http::{Request, Response};
use http_body_util::Empty;
use tokio::runtime::Builder;

use crate::support::refused;

/// Registers the callsites of both spans before a test sets a subscriber: `tracing` may miss one that is
/// registered while another thread's subscriber is, and take it for disabled.
fn register_callsites() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let once = std::thread::spawn(|| {
            let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let refuses = format!("http://{}", refused());
            let balancer = unjudged(&[refuses]).trace(TraceLayer::new()).build();
            let request = Request::get("http://a/").body(Empty::new()).unwrap();
            let response = runtime.block_on(send(&balancer, request));
            assert_eq!(response.status(), 502);
        });
        once.join().unwrap();
    });
}

/// A stack over these backends that judges none of them.
fn stack(urls: &[String]) -> load_balancer::Builder {
    register_callsites();
    unjudged(urls)
}

fn unjudged(urls: &[String]) -> load_balancer::Builder {
    let named = ["a", "b", "c"].into_iter().zip(urls);
    let backends = named.map(|(id, url)| Backend::new(id, url).unwrap());
    let pool = Pool::new(backends).unwrap();
    let health = HealthLayer::new(pool.clone()).no_checks().no_outliers();
    LoadBalancer::builder(pool).health(health).unwrap()
}

async fn send(balancer: &LoadBalancer, request: Request<Empty<Bytes>>) -> Response<Body> {
    balancer.clone().send(request).await
}
