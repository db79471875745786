//! What each layer costs over a service that answers at once: time, and allocations.
//!
//! ```sh
//! cargo bench --features full --bench layers
//! ```
//!
//! Each figure is the least of 2,000 turns of 128 requests, less that of the row which it stands
//! over: the layer's own price. Rows that stand over nothing hold the making of a request, too.
//! Allocations are the fewest of a request, and the same is done with them. The record that the
//! layers share has a row of its own; it is there already for the others, but the access log,
//! which stands over it, and `all`, which makes it.

#[path = "timing/mod.rs"]
mod timing;

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn, ready},
    hint::black_box,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Pool,
    access_log::{AccessLogLayer, Lines},
    balance::BalanceLayer,
    context::{ConnInfo, Exchange, Peer, Selected, TlsInfo},
    failover::{FailoverLayer, Hedge},
    health::HealthLayer,
    respond::RespondLayer,
    sticky::{Keys, StickyLayer},
    tls::HstsLayer,
    trace::TraceLayer,
};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{Empty, Full};
use tokio::{runtime::Builder, task::yield_now};
use tower::{Layer, Service, service_fn};

use self::timing::{Row, rounds, say, time};

type In = Request<Empty<Bytes>>;
type Result<T> = std::result::Result<T, BoxError>;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let sink = Lines::writer(std::io::sink())?;
    let mut table = Table::default();
    // In the runtime, as a request that waits has a place in its wheel.
    runtime.block_on(async {
        fill(&mut table, &sink)?;
        for _ in 0..rounds(2_000) {
            table.rows.iter_mut().for_each(|priced| priced.row.run());
            // A line that finds the queue full would be counted, not formatted.
            assert!(sink.flush());
            yield_now().await;
        }
        Ok::<_, BoxError>(())
    })?;
    assert_eq!(sink.dropped(), 0);
    table.print();
    Ok(())
}

/// The rows, in the order of the stack.
fn fill(table: &mut Table, sink: &Lines) -> Result<()> {
    let backends = ["a", "b", "c", "d"].map(|id| Backend::new(id, "http://127.0.0.1:1"));
    let pool = Pool::new(backends.into_iter().flatten())?;
    let log = AccessLogLayer::new(sink.clone()).node("lb-1");
    let (hsts, respond) = (HstsLayer::new(), RespondLayer::new());
    let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32]));
    let failover = FailoverLayer::new();
    // As `edge` has it by default: GET and HEAD, the 95th percentile, 50 ms at least.
    let hedged = FailoverLayer::new().hedge(Hedge::new());
    let balance = BalanceLayer::new(pool.clone());
    let health = HealthLayer::new(pool.clone()).no_checks();
    let all = |failover: &FailoverLayer| {
        let core = failover.layer(balance.layer(health.layer(inner())));
        log.layer(respond.layer(sticky.layer(core)))
    };
    let record = service_fn(|mut request: In| {
        drop(black_box(Exchange::of(request.extensions_mut())));
        inner().call(request)
    });

    let maker = Maker::new(&mut sticky.layer(balance.layer(inner())))?;
    let backend = pool.snapshot().backends()[0].clone();
    let (client, new, routed) = (maker.clone(), maker.clone(), maker.clone());
    let client = move || client.request(Cookie::Valid);
    let new = move || new.recorded(Cookie::Other);
    let routed = move || routed.routed(&backend);
    let known = move || maker.recorded(Cookie::Valid);

    table.add("service", "", &client, inner());
    table.add("record", "service", &client, record);
    table.add("access_log", "record", &client, log.layer(inner()));
    table.add("service, record", "", &known, inner());
    let over = "service, record";
    table.add("hsts", over, &known, hsts.layer(inner()));
    let span = service_fn(|request: In| {
        // As `trace` makes it; no subscriber wants it.
        let span = tracing::info_span!(
            target: "evenkeel::trace",
            "request",
            "http.request.method" = request.method().as_str(),
            "url.path" = request.uri().path(),
            "error.type" = tracing::field::Empty,
        );
        drop(black_box(span));
        inner().call(request)
    });
    table.add("a span", over, &known, span);
    table.add("trace", over, &known, TraceLayer::new().layer(inner()));
    table.add("respond", over, &known, respond.layer(inner()));
    table.add("failover", over, &known, failover.layer(inner()));
    table.add("failover, hedging", over, &known, hedged.layer(inner()));
    table.add("balance", over, &known, balance.layer(inner()));
    let (over, layer) = ("balance", &sticky);
    table.add(
        "sticky, cookie",
        over,
        &known,
        layer.layer(balance.layer(inner())),
    );
    table.add(
        "sticky, no cookie",
        over,
        &new,
        layer.layer(balance.layer(inner())),
    );
    table.add("service, selected", "", &routed, inner());
    table.add(
        "health",
        "service, selected",
        &routed,
        health.layer(inner()),
    );
    table.add("service, waits", "", &known, waiting());
    let over = "service, waits";
    table.add("failover, waits", over, &known, failover.layer(waiting()));
    table.add(
        "failover, hedging, waits",
        over,
        &known,
        hedged.layer(waiting()),
    );
    table.add("all", "service", &client, all(&failover));
    table.add("all, as edge", "service", &client, hsts.layer(all(&hedged)));
    Ok(())
}

#[derive(Default)]
struct Table {
    rows: Vec<Priced>,
}

struct Priced {
    row: Row,
    /// The row that is taken off.
    over: &'static str,
    /// The fewest that a request made.
    allocations: Rc<Cell<u64>>,
}

impl Table {
    fn add<S, R, M>(&mut self, name: &str, over: &'static str, make: &M, mut service: S)
    where
        S: Service<In, Response = Response<R>> + 'static,
        R: Body,
        M: Fn() -> In + Clone + 'static,
    {
        let make = make.clone();
        let allocations = Rc::new(Cell::new(u64::MAX));
        let least = allocations.clone();
        let row = Row::new(name, BATCH, move || {
            let request = make();
            let counted = allocation_counter::measure(|| drive(&mut service, request));
            least.set(least.get().min(counted.count_total));
            // Made one by one: as many at once would not fit the allocator's cache.
            time(|| (0..BATCH).for_each(|_| drive(&mut service, make())))
        });
        self.rows.push(Priced {
            row,
            over,
            allocations,
        });
    }

    fn print(&self) {
        let names = ["layer", "ns", "allocations", "over"];
        say(&format!(
            "{:26}{:>6}{:>13}  {}",
            names[0], names[1], names[2], names[3]
        ));
        for Priced {
            row,
            over,
            allocations,
        } in &self.rows
        {
            let base = self.rows.iter().find(|other| other.row.name == *over);
            let (ns, count) = base.map_or((0.0, 0), |b| (b.row.least(), b.allocations.get()));
            let (ns, count) = (row.least() - ns, allocations.get().saturating_sub(count));
            say(&format!("{:26}{ns:6.0}{count:13}  {over}", row.name));
        }
    }
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
    for _ in 0..2 {
        if let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) {
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
                let _ = black_box(frame);
            }
            break;
        }
    }
}

/// Answers at once.
fn inner<B>() -> impl Inner<B> {
    service_fn(|request: Request<B>| {
        drop(request);
        ready(Ok(hello()))
    })
}

/// Answers when it is asked for the second time, as whatever is behind a socket does.
fn waiting<B: Send + 'static>() -> impl Inner<B> {
    service_fn(|request: Request<B>| {
        drop(request);
        let mut asked = false;
        poll_fn(move |_| {
            if std::mem::replace(&mut asked, true) {
                Poll::Ready(Ok(hello()))
            } else {
                Poll::Pending
            }
        })
    })
}

fn hello() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    let headers = response.headers_mut();
    headers.insert("server", HeaderValue::from_static("bench"));
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    response
}

/// What the two above are.
trait Inner<B>:
    Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<B, S> Inner<B> for S where
    S: Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Makes requests as a server over TLS makes them: shared bytes, and the connection's note.
#[derive(Clone)]
struct Maker {
    conn: ConnInfo,
    /// A cookie that verifies, from the stack itself, and one that is not ours.
    cookies: [HeaderValue; 2],
}

#[derive(Clone, Copy)]
enum Cookie {
    Valid = 0,
    Other = 1,
}

impl Maker {
    fn new(sticky: &mut impl Service<In, Response = Response<impl Body>>) -> Result<Self> {
        let conn = ConnInfo::new(
            Peer::Tcp(([192, 0, 2, 9], 1_234).into()),
            Peer::Tcp(([192, 0, 2, 1], 443).into()),
        );
        let mut tls = TlsInfo::default();
        tls.version = "TLSv1.3";
        tls.cipher = "TLS_AES_128_GCM_SHA256";
        conn.set_tls(tls);
        let other = HeaderValue::from_static("x=1");
        let mut maker = Self {
            conn,
            cookies: [other.clone(), other],
        };
        let call = pin!(sticky.call(maker.request(Cookie::Other)));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(response)) = call.poll(&mut cx) else {
            return Err("no answer".into());
        };
        let set = response.headers().get("set-cookie").ok_or("no cookie")?;
        let pair = set.to_str()?.split(';').next().unwrap_or_default();
        maker.cookies[0] = HeaderValue::try_from(pair)?;
        Ok(maker)
    }

    fn request(&self, cookie: Cookie) -> In {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static("/path?query=1");
        let headers = request.headers_mut();
        headers.insert("host", HeaderValue::from_static("shop.example"));
        headers.insert("user-agent", HeaderValue::from_static("bench/1.0"));
        headers.insert("cookie", self.cookies[cookie as usize].clone());
        request.extensions_mut().insert(self.conn.clone());
        request
    }

    /// With the record, as below the layer that made it.
    fn recorded(&self, cookie: Cookie) -> In {
        let mut request = self.request(cookie);
        let _ = Exchange::of(request.extensions_mut());
        request
    }

    /// With the record and a backend, as below the pick.
    fn routed(&self, backend: &Backend) -> In {
        let mut request = self.recorded(Cookie::Valid);
        request.extensions_mut().insert(Selected(backend.clone()));
        request
    }
}

const BATCH: usize = 128;
