//! What clients send makes no series and keeps no memory.

use std::{
    convert::Infallible,
    env,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use evenkeel::{
    Backend, Pool,
    context::{Exchange, Outcome},
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};

use super::{Series, World, keep, statuses};

/// A request with a path, a host and a method that no other has.
fn random() -> Request<Empty<Bytes>> {
    let method = format!("M{:x}", fastrand::u64(..));
    Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(format!("/{:x}?{:x}", fastrand::u128(..), fastrand::u64(..)))
        .header("host", format!("h{:x}.example", fastrand::u64(..)))
        .header("user-agent", format!("{:x}", fastrand::u128(..)))
        .body(Empty::new())
        .unwrap()
}

/// `EVENKEEL_REQUESTS` sets another number.
#[test]
fn random_requests_leave_series_and_memory_where_they_were() {
    let requests = env::var("EVENKEEL_REQUESTS").map_or(100_000, |n| n.parse().unwrap());
    let pool = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let backend = pool.snapshot().backends()[0].clone();
    let stats = Stats::new(pool);
    let service = MetricsService::new(stats.clone());
    let mut stack = MetricsLayer::new(stats).layer(service_fn(move |mut request: Request<_>| {
        let exchange = Exchange::of(request.extensions_mut());
        let number = exchange.begin_attempt(backend.clone());
        exchange.end_attempt(number, Outcome::Ok);
        let body: Empty<Bytes> = request.into_body();
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    let mut send = || {
        let mut call = pin!(stack.call(random()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    };
    // After the first few requests, the thread keeps a cache of the counters that it wrote last.
    (0..8).for_each(|_| send());
    let before = Series::parse(&service.text());
    let kept = allocation_counter::measure(|| (0..requests).for_each(|_| send()));
    assert_eq!(
        (kept.count_current, kept.bytes_current),
        (0, 0),
        "memory stays allocated"
    );
    let after = Series::parse(&service.text());
    assert_eq!(after.names(), before.names());
    let counted = after.sum("evenkeel_backend_requests_total", &["backend=\"a\""]);
    assert_eq!(counted, f64::from(requests + 8_u32));
}

#[test]
fn a_request_allocates_nothing_but_the_record_that_all_layers_share() {
    let pool = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let backend = pool.snapshot().backends()[0].clone();
    let mut stack = MetricsLayer::new(Stats::new(pool)).layer(service_fn(
        move |mut request: Request<Empty<Bytes>>| {
            let exchange = Exchange::of(request.extensions_mut());
            let number = exchange.begin_attempt(backend.clone());
            exchange.end_attempt(number, Outcome::Ok);
            let response = Response::builder().status(StatusCode::NO_CONTENT);
            let response = response.body(request.into_body()).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        },
    ));
    let mut send = |mut request: Request<Empty<Bytes>>| {
        Exchange::of(request.extensions_mut());
        allocation_counter::measure(|| {
            let mut call = pin!(stack.call(request));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
        })
    };
    let first = send(random());
    assert!(first.count_total > 0, "the counters of the thread");
    // One more, for the cache of the counters that the thread wrote last.
    let few: u64 = (0..8).map(|_| send(random()).count_total).sum();
    assert!(few <= 1, "{few}");
    assert_eq!(send(random()).count_total, 0);
}

#[tokio::test]
async fn random_requests_over_a_socket_make_no_series() {
    let origin = statuses().await;
    let world = World::new(&[("a", origin.url())], keep).await;
    world.get("/200").await;
    let before = world.at_rest().await;
    for _ in 0..200 {
        let fields = format!(
            "user-agent: {:x}\r\nx-{:x}: 1\r\n",
            fastrand::u128(..),
            fastrand::u64(..)
        );
        world
            .send(&format!("/{:x}x", fastrand::u128(..)), &fields)
            .await;
    }
    let after = world.at_rest().await;
    assert_eq!(after.names(), before.names());
    assert_eq!(after.sum("evenkeel_requests_total", &[]), 201.0);
}
