//! The cost of recording a request on its thread: of a response without a body, with a body, of sticky
//! sessions, and without a backend.
//!
//! ```sh
//! cargo bench --features full --bench metrics
//! ```
//!
//! Each figure is the least of 2,000 rounds, minus the cost of the request and its service without the
//! layer. That includes the `Exchange`, which every stack has. A response with a body reads the clock once,
//! at its head; the attempts read it for the end, as those of a `LoadBalancer` do. The row `clock` is what
//! one reading costs on this machine. The last row is a scrape of ten backends.

#[path = "timing/mod.rs"]
mod timing;

use std::{
    convert::Infallible,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Pool,
    context::{ConnInfo, Exchange, Outcome, Peer, StickyVerdict},
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

use self::timing::{Row, rounds, say, time};

/// The body of a response. It ends the attempt with its last frame, as the balancer's does.
#[derive(Default)]
struct Body {
    inner: Full<Bytes>,
    running: Option<(Exchange, usize)>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some((exchange, number)) = self.running.take() {
            exchange.end_attempt(number, Outcome::Ok);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

fn main() -> Result<(), BoxError> {
    let backends = (0..10).map(|n| Backend::new(format!("b{n}"), "http://127.0.0.1:9001"));
    let pool = Pool::new(backends.collect::<Result<Vec<_>, _>>()?)?;
    let stats = Stats::new(pool.clone());
    let layer = MetricsLayer::new(stats.clone());
    let backend = pool.snapshot().backends()[0].clone();
    let conn = ConnInfo::new(
        Peer::Tcp(([192, 0, 2, 9], 1_234).into()),
        Peer::Tcp(([192, 0, 2, 1], 443).into()),
    );
    let plain = || answer(&backend, None, "");
    let sticky = || answer(&backend, Some(StickyVerdict::Valid), "");
    let body = || answer(&backend, None, "hello");
    let clock = || {
        time(|| {
            (0..BATCH).for_each(|_| {
                black_box(Instant::now());
            })
        })
    };
    let mut rows = [
        row("without", &conn, plain()),
        row("with", &conn, layer.layer(plain())),
        row("sticky, without", &conn, sticky()),
        row("sticky, with", &conn, layer.layer(sticky())),
        row("body, without", &conn, body()),
        row("body, with", &conn, layer.layer(body())),
        row("no backend, without", &conn, answer_alone()),
        row("no backend, with", &conn, layer.layer(answer_alone())),
        Row::new("clock", BATCH, clock),
    ];
    for _ in 0..rounds(2_000) {
        rows.iter_mut().for_each(Row::run);
    }
    let names = ["no body", "and sticky", "a body", "no backend"];
    for (name, pair) in names.iter().zip(rows.chunks(2)) {
        if let [without, with] = pair {
            let nanos = with.least() - without.least();
            say(&format!("{name:18}{nanos:7.0} ns"));
        }
    }
    say(&format!("{:18}{:7.0} ns", "clock", rows[8].least()));
    let service = MetricsService::new(stats);
    let mut scrape = Row::new("scrape", 1, move || {
        time(|| drop(black_box(service.text())))
    });
    (0..rounds(200)).for_each(|_| scrape.run());
    say(&format!(
        "{:18}{:7.0} µs",
        scrape.name,
        scrape.least() / 1_000.0
    ));
    Ok(())
}

/// Returns a service that answers at once. It fills in the `Exchange` as the layers below do.
fn answer<B>(
    backend: &Backend,
    verdict: Option<StickyVerdict>,
    body: &'static str,
) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + 'static
{
    let backend = backend.clone();
    service_fn(move |mut request: Request<B>| {
        let exchange = Exchange::of(request.extensions_mut());
        if let Some(verdict) = verdict {
            exchange.set_affinity(backend.clone());
            exchange.set_sticky_verdict(verdict);
        }
        let number = exchange.begin_attempt(backend.clone());
        let inner = Full::from(body);
        let mut body = Body {
            inner,
            running: None,
        };
        match body.is_end_stream() {
            true => exchange.end_attempt(number, Outcome::Ok),
            false => body.running = Some((exchange, number)),
        }
        drop(request);
        std::future::ready(Ok(Response::new(body)))
    })
}

/// Returns a service that answers at once, without a backend.
fn answer_alone<B>()
-> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + 'static {
    service_fn(|mut request: Request<B>| {
        Exchange::of(request.extensions_mut());
        drop(request);
        std::future::ready(Ok(Response::new(Body::default())))
    })
}

fn row<S, R>(name: &str, conn: &ConnInfo, mut service: S) -> Row
where
    S: Service<Request<Body>, Response = Response<R>> + 'static,
    R: http_body::Body,
{
    let conn = conn.clone();
    Row::new(name, BATCH, move || {
        time(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..BATCH {
                let mut request = Request::new(Body::default());
                request.extensions_mut().insert(conn.clone());
                let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
                    continue;
                };
                let mut body = pin!(response.into_body());
                // An empty body ended with the head, as a server sees it.
                if !body.is_end_stream() {
                    drop(black_box(body.as_mut().poll_frame(&mut cx)));
                }
            }
        })
    })
}

const BATCH: usize = 128;
