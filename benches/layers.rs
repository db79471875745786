//! What each layer costs over a service that answers at once: time, and allocations.
//!
//! ```sh
//! cargo bench --features full --bench layers
//! ```
//!
//! `bare` is the service alone; subtract it. Allocations are printed first, counted over one
//! request in steady state.

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::{
    Backend, Pool,
    access_log::{AccessLogLayer, JsonLines},
    balance::BalanceLayer,
    context::{ConnInfo, Peer, Selected},
    failover::FailoverLayer,
    health::HealthLayer,
    respond::RespondLayer,
    sticky::{Keys, StickyLayer},
};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::{Layer, Service, service_fn};

type In = Request<Empty<Bytes>>;

/// A request as a server makes it: shared bytes, and the connection's note.
fn request(conn: &ConnInfo, cookie: &HeaderValue) -> In {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static("/path?query=1");
    let headers = request.headers_mut();
    headers.insert("host", HeaderValue::from_static("shop.example"));
    headers.insert("user-agent", HeaderValue::from_static("bench/1.0"));
    headers.insert("cookie", cookie.clone());
    request.extensions_mut().insert(conn.clone());
    request
}

/// Answers at once.
fn inner<B>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(|request: Request<B>| {
        drop(request);
        std::future::ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    })
}

/// Drives one request to its last byte.
fn drive<S, R>(service: &mut S, request: In)
where
    S: Service<In, Response = Response<R>>,
    R: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let _ = service.poll_ready(&mut cx);
    let mut call = pin!(service.call(request));
    if let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) {
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
            let _ = black_box(frame);
        }
    }
}

fn measure<S, R>(c: &mut Criterion, name: &str, mut service: S, make: &dyn Fn() -> In)
where
    S: Service<In, Response = Response<R>>,
    R: Body,
{
    for _ in 0..100 {
        drive(&mut service, make());
    }
    let least = (0..20).map(|_| {
        let request = make();
        allocation_counter::measure(|| drive(&mut service, request)).count_total
    });
    say(&format!("{name}: {} allocations", least.min().unwrap_or(0)));
    c.bench_function(&format!("layers/{name}"), |b| {
        b.iter_batched(
            make,
            |request| drive(&mut service, request),
            criterion::BatchSize::SmallInput,
        );
    });
}

fn layers(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    let _in = runtime.enter();
    let backends = ["a", "b", "c", "d"].map(|id| Backend::new(id, "http://127.0.0.1:1"));
    let Ok(pool) = Pool::new(backends.into_iter().flatten()) else {
        return;
    };
    let Ok(sink) = JsonLines::writer(std::io::sink()) else {
        return;
    };
    let conn = ConnInfo::new(
        Peer::Tcp(([192, 0, 2, 9], 1234).into()),
        Peer::Tcp(([192, 0, 2, 1], 443).into()),
    );
    let log = AccessLogLayer::new(sink).node("lb-1");
    let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32]));
    let balance = BalanceLayer::new(pool.clone());
    let health = HealthLayer::new(pool.clone()).no_checks();
    let failover = FailoverLayer::new();
    let respond = RespondLayer::new();

    // A cookie that verifies, from the stack itself.
    let core = failover.layer(balance.layer(health.layer(inner())));
    let mut first = sticky.layer(core);
    let none = HeaderValue::from_static("x=1");
    let response = runtime.block_on(first.call(request(&conn, &none)));
    let cookie = response
        .ok()
        .and_then(|r| r.headers().get("set-cookie").cloned());
    let pair = cookie
        .as_ref()
        .and_then(|c| c.to_str().ok()?.split(';').next());
    let cookie = pair
        .and_then(|p| HeaderValue::try_from(p).ok())
        .unwrap_or(none);
    let make = || request(&conn, &cookie);
    let member = pool.snapshot().backends()[0].clone();
    let routed = || {
        let mut request = make();
        request.extensions_mut().insert(Selected(member.clone()));
        request
    };

    measure(c, "bare", inner(), &make);
    measure(c, "access_log", log.layer(inner()), &make);
    measure(c, "respond", respond.layer(inner()), &make);
    measure(c, "sticky", sticky.layer(inner()), &make);
    measure(c, "failover", failover.layer(inner()), &make);
    measure(c, "balance", balance.layer(inner()), &make);
    measure(c, "health", health.layer(inner()), &routed);
    let core = failover.layer(balance.layer(health.layer(inner())));
    let stack = log.layer(respond.layer(sticky.layer(core)));
    measure(c, "all", stack, &make);
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
fn say(text: &str) {
    println!("{text}");
}

criterion_group!(benches, layers);
criterion_main!(benches);
