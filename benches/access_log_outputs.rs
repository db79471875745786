//! The cost of a line on the request's thread, by format, and while the output stalls: an output that
//! discards at once, beside a full disk, a pipe and a TCP peer that nothing is read from.
//!
//! ```sh
//! cargo bench --features full --bench access_log_outputs
//! ```
//!
//! Each figure is the least of 2,000 rounds, minus the cost of the request and its service without the
//! layer. Those of an output that discards include no drop: between two rounds the benchmark waits for
//! the writer. Those of outputs that stall are of a full queue.

#[path = "timing/mod.rs"]
mod timing;

use std::{
    convert::Infallible,
    fs,
    io::Write,
    net::TcpListener,
    pin::pin,
    process::Command,
    task::{Context, Waker},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError,
    access_log::{AccessLogLayer, Format, Lines, Output, Sampled},
    context::{ConnInfo, Exchange, Outcome, Peer},
};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};

use self::timing::{Row, rounds, say, time};

type Body = Empty<Bytes>;

fn main() -> Result<(), BoxError> {
    let discard = |format| Lines::new(format, Output::writer(std::io::sink()));
    let json = discard(Format::Json)?;
    let (logfmt, combined) = (discard(Format::Logfmt)?, discard(Format::Combined)?);
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("pipe");
    if !Command::new("mkfifo").arg(&pipe).status()?.success() {
        return Err("mkfifo".into());
    }
    // Opened for both, so that neither end waits for the other.
    let mut both = fs::File::options().read(true).write(true).open(&pipe)?;
    let peer = TcpListener::bind("127.0.0.1:0")?;
    let full_disk = Lines::file("/dev/full")?;
    let stalled = [
        ("a slow pipe", Lines::file(&pipe)?),
        (
            "a stalled peer",
            Lines::new(Format::Json, Output::tcp(peer.local_addr()?.to_string()))?,
        ),
    ];
    let sampled = Sampled::new(json.clone()).ratio(0.01)?;
    let mut rows = vec![
        row("without the layer", answer()?),
        row("json", layer(&json).layer(answer()?)),
        row(
            "json, 1 % of them",
            AccessLogLayer::new(sampled).node("lb-1").layer(answer()?),
        ),
        row("logfmt", layer(&logfmt).layer(answer()?)),
        row("combined", layer(&combined).layer(answer()?)),
        row("a full disk", layer(&full_disk).layer(answer()?)),
    ];
    for (name, lines) in &stalled {
        let mut filling = row("filling", layer(lines).layer(answer()?));
        while lines.dropped() == 0 {
            filling.run();
        }
        rows.push(row(name, layer(lines).layer(answer()?)));
    }
    for _ in 0..rounds(2_000) {
        rows.iter_mut().for_each(Row::run);
        assert!(json.flush() && logfmt.flush() && combined.flush() && full_disk.flush());
    }
    assert_eq!(json.dropped() + logfmt.dropped() + combined.dropped(), 0);
    let bare = rows[0].least();
    say(&format!("{:18}{bare:7.0} ns", rows[0].name));
    for row in &rows[1..] {
        say(&format!("{:18}{:7.0} ns", row.name, row.least() - bare));
    }
    // Keeps the pipe open until here.
    both.flush()?;
    Ok(())
}

fn layer(lines: &Lines) -> AccessLogLayer {
    AccessLogLayer::new(lines.clone()).node("lb-1")
}

/// Returns a service that answers at once, and fills in the `Exchange` as the layers below a log do.
fn answer<B>() -> Result<
    impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + 'static,
    BoxError,
> {
    let backend = Backend::new("a", "http://127.0.0.1:9001")?;
    Ok(service_fn(move |mut request: Request<B>| {
        let exchange = Exchange::of(request.extensions_mut());
        exchange.set_decision("round-robin", 4);
        let number = exchange.begin_attempt(backend.clone());
        exchange.end_attempt(number, Outcome::Ok);
        drop(request);
        std::future::ready(Ok(Response::new(Body::new())))
    }))
}

fn row<S, R>(name: &str, mut service: S) -> Row
where
    S: Service<Request<Body>, Response = Response<R>> + 'static,
{
    let conn = ConnInfo::new(
        Peer::Tcp(([192, 0, 2, 9], 1_234).into()),
        Peer::Tcp(([192, 0, 2, 1], 443).into()),
    );
    Row::new(name, BATCH, move || {
        time(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..BATCH {
                let mut request = Request::new(Body::new());
                *request.uri_mut() = Uri::from_static("/path/to/something?query=1");
                let headers = request.headers_mut();
                headers.insert("host", HeaderValue::from_static("shop.example"));
                let agent = HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64)");
                headers.insert("user-agent", agent);
                request.extensions_mut().insert(conn.clone());
                // The body is empty, so that the line ends with the response's head.
                let _ = pin!(service.call(request)).poll(&mut cx);
            }
        })
    })
}

const BATCH: usize = 128;
