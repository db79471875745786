//! The cost of recording a request on its thread: with an `Exchange` that the layers below fill in, with
//! sticky sessions, without a backend, and with the layer switched off.
//!
//! ```sh
//! cargo bench --features full --bench metrics
//! ```
//!
//! Each figure is the least of 2,000 rounds, minus the cost of the request and its service without the
//! layer. That includes the `Exchange`, which every stack has. The last row is a scrape of ten backends.

#[path = "timing/mod.rs"]
mod timing;

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    task::{Context, Waker},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Pool,
    context::{ConnInfo, Exchange, Outcome, Peer, StickyVerdict},
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
};
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};

use self::timing::{Row, rounds, say, time};

type Body = Empty<Bytes>;

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
    let sticky = answer(&backend, Some(StickyVerdict::Valid));
    let mut rows = [
        row("without", &conn, answer(&backend, None)),
        row("with", &conn, layer.layer(answer(&backend, None))),
        row(
            "sticky, without",
            &conn,
            answer(&backend, Some(StickyVerdict::Valid)),
        ),
        row("sticky, with", &conn, layer.layer(sticky)),
        row("no backend, without", &conn, answer_alone()),
        row("no backend, with", &conn, layer.layer(answer_alone())),
    ];
    for _ in 0..rounds(2_000) {
        rows.iter_mut().for_each(Row::run);
    }
    for (name, pair) in ["a backend", "and sticky", "no backend"]
        .iter()
        .zip(rows.chunks(2))
    {
        let [without, with] = pair else { continue };
        say(&format!(
            "{name:18}{:7.0} ns",
            with.least() - without.least()
        ));
    }
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
        exchange.end_attempt(number, Outcome::Ok);
        drop(request);
        std::future::ready(Ok(Response::new(Body::new())))
    })
}

/// Returns a service that answers at once, without a backend.
fn answer_alone<B>()
-> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + 'static {
    service_fn(|mut request: Request<B>| {
        Exchange::of(request.extensions_mut());
        drop(request);
        std::future::ready(Ok(Response::new(Body::new())))
    })
}

fn row<S, R>(name: &str, conn: &ConnInfo, mut service: S) -> Row
where
    S: Service<Request<Body>, Response = Response<R>> + 'static,
{
    let conn = conn.clone();
    Row::new(name, BATCH, move || {
        time(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..BATCH {
                let mut request = Request::new(Body::new());
                request.extensions_mut().insert(conn.clone());
                // The body is empty, so that the request ends with the response's head.
                let _ = pin!(service.call(request)).poll(&mut cx);
            }
        })
    })
}

const BATCH: usize = 128;
