//! The cost of a line on the request's thread: with all fields, with the defaults, with a disabled sink,
//! and as a tracing event without a subscriber.
//!
//! ```sh
//! cargo bench --features full --bench access_log
//! ```
//!
//! Each figure is the least of 2,000 rounds, minus the cost of the request and its service without the
//! layer. That includes the `Exchange`, which every stack has. Between two rounds the benchmark waits
//! for the writer, because a line that finds the queue full would be dropped, not formatted.
//!
//! `a layer` is one that does nothing and wraps the future and the body of the response, as each layer
//! must that sees a response's end. The last row is what a disabled sink costs beside it.

#[path = "timing/pass_through.rs"]
mod pass_through;
#[path = "timing/mod.rs"]
mod timing;

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError,
    access_log::{AccessLogLayer, Entry, Lines, Sink, TracingSink},
    context::{
        ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Exchange, Outcome, Peer,
        StickyVerdict, TlsInfo,
    },
};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

use self::{
    pass_through::PassThrough,
    timing::{Row, rounds, say, time},
};

type Body = Empty<Bytes>;

struct Disabled;

impl Sink for Disabled {
    fn enabled(&self) -> bool {
        false
    }

    fn record(&self, _entry: &Entry<'_>) {}
}

fn main() -> Result<(), BoxError> {
    let sink = Lines::writer(std::io::sink())?;
    let maker = Maker::new();
    let backend = Backend::new("a", "http://127.0.0.1:9001")?;
    let full = AccessLogLayer::new(sink.clone())
        .node("lb-1")
        .query(str::to_owned)
        .referer(true)
        .trust_request_id(true);
    let usual = AccessLogLayer::new(sink.clone()).node("lb-1");
    let off = AccessLogLayer::new(Disabled);
    let tracing = AccessLogLayer::new(TracingSink::new());
    let event = ConnectionEvent::new(
        maker.conn.clone(),
        ConnectionEventKind::Io,
        "",
        Duration::ZERO,
    );
    let events = usual.clone();
    let ended = move || time(|| (0..BATCH).for_each(|_| events.connection_ended(&event)));
    let mut rows = [
        row("without the layer", &maker, answer(&backend)),
        row("all fields", &maker, full.layer(answer(&backend))),
        row("the defaults", &maker, usual.layer(answer(&backend))),
        row("switched off", &maker, off.layer(answer(&backend))),
        row(
            "tracing, no subscriber",
            &maker,
            tracing.layer(answer(&backend)),
        ),
        row("a layer", &maker, PassThrough(answer(&backend))),
        Row::new("connection event", BATCH, ended),
    ];
    for _ in 0..rounds(2_000) {
        rows.iter_mut().for_each(Row::run);
        assert!(sink.flush());
    }
    assert_eq!(
        sink.dropped(),
        0,
        "a line that was dropped was not measured"
    );
    let bare = rows[0].least();
    for row in &rows[1..6] {
        say(&format!("{:22}{:7.1} ns", row.name, row.least() - bare));
    }
    let event = &rows[6];
    say(&format!("{:22}{:7.1} ns", event.name, event.least()));
    let disabled = rows[3].least() - rows[5].least();
    say(&format!("{:22}{disabled:7.1} ns", "a disabled sink"));
    Ok(())
}

/// Returns a service that answers at once. It fills in the `Exchange` as the layers below a log do, and
/// inserts one if there is none.
fn answer<B>(
    backend: &Backend,
) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + 'static
{
    let backend = backend.clone();
    service_fn(move |mut request: Request<B>| {
        let exchange = Exchange::of(request.extensions_mut());
        exchange.set_sticky_verdict(StickyVerdict::Valid);
        exchange.set_decision("round-robin", 4);
        let number = exchange.begin_attempt(backend.clone());
        // So that the line has its phases.
        exchange.set_head_at(Instant::now());
        exchange.end_attempt(number, Outcome::Ok);
        drop(request);
        std::future::ready(Ok(Response::new(Body::new())))
    })
}

fn row<S, R>(name: &str, maker: &Maker, mut service: S) -> Row
where
    S: Service<Request<Body>, Response = Response<R>> + 'static,
{
    let maker = maker.clone();
    Row::new(name, BATCH, move || {
        time(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..BATCH {
                let request = maker.request();
                // The body is empty, so that the line ends with the response's head.
                let _ = pin!(service.call(request)).poll(&mut cx);
            }
        })
    })
}

/// Makes requests over TLS.
#[derive(Clone)]
struct Maker {
    conn: ConnInfo,
}

impl Maker {
    fn new() -> Self {
        let conn = ConnInfo::new(
            Peer::Tcp(([192, 0, 2, 9], 1_234).into()),
            Peer::Tcp(([192, 0, 2, 1], 443).into()),
        );
        conn.set_client(([198, 51, 100, 7], 4_321).into());
        let mut tls = TlsInfo::default();
        tls.version = "TLSv1.3";
        tls.cipher = "TLS_AES_128_GCM_SHA256";
        tls.key_exchange = Some("X25519MLKEM768");
        tls.alpn = Some(Bytes::from_static(b"http/1.1"));
        tls.sni = Some("shop.example".into());
        conn.set_tls(tls);
        Self { conn }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new());
        *request.uri_mut() = Uri::from_static("/path/to/something?query=1");
        let headers = request.headers_mut();
        headers.insert("host", HeaderValue::from_static("shop.example"));
        let agent = HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64)");
        headers.insert("user-agent", agent);
        let referer = HeaderValue::from_static("https://shop.example/from/here");
        headers.insert("referer", referer);
        let id = HeaderValue::from_static("0af7651916cd43dd8448eb211c80319c");
        headers.insert("x-request-id", id);
        request.extensions_mut().insert(self.conn.clone());
        request
    }
}

const BATCH: usize = 128;
