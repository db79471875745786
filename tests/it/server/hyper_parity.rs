//! Parity with hyper's codec: both write the same bytes for a response, and parse the same request from
//! the same bytes. The lists name the differences and their reasons.

use std::{collections::VecDeque, pin::Pin};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::*;

/// Frames of a length that is not known before.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    known: Option<u64>,
    breaks: bool,
    /// Lets another poll come between two frames.
    waits: bool,
}

impl Frames {
    fn of(frames: &[&'static str]) -> Self {
        let data = |text: &&'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        Self {
            frames: frames.iter().map(data).collect(),
            ..Self::default()
        }
    }
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        use std::task::Poll;
        if std::mem::take(&mut self.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.breaks => Poll::Ready(Some(Err(std::io::ErrorKind::Other.into()))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.known == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.known.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

const PATHS: [&str; 27] = [
    "/known",
    "/empty",
    "/unknown",
    "/unknown-waits",
    "/unknown-empty",
    "/declared",
    "/declared-twice",
    "/declared-apart",
    "/declared-badly",
    "/declared-none",
    "/length-of-head",
    "/204",
    "/204-body",
    "/304",
    "/304-length",
    "/404-unknown",
    "/close",
    "/close-also",
    "/date",
    "/many",
    "/reason",
    "/599",
    "/trailers",
    "/te",
    "/large",
    "/large-unknown",
    "/broken",
];

fn answer(path: &str) -> Response<Frames> {
    let known = |text: &'static str| Frames {
        known: Some(text.len() as u64),
        ..Frames::of(&[text])
    };
    let empty = || Frames {
        known: Some(0),
        ..Frames::default()
    };
    let unknown = || Frames::of(&["he", "", "llo"]);
    let large: &'static str = "0123456789abcdef".repeat(6_000).leak();
    let (status, body): (u16, Frames) = match path {
        "/empty" | "/declared-none" | "/length-of-head" => (200, empty()),
        "/unknown" | "/te" | "/declared" | "/declared-twice" => (200, unknown()),
        "/declared-apart" | "/declared-badly" => (200, unknown()),
        "/unknown-waits" => (
            200,
            Frames {
                waits: true,
                ..unknown()
            },
        ),
        "/unknown-empty" => (200, Frames::default()),
        "/204" => (204, empty()),
        "/204-body" => (204, known("hello")),
        "/304" | "/304-length" => (304, empty()),
        "/404-unknown" => (404, unknown()),
        "/599" => (599, known("hello")),
        "/trailers" => {
            let mut body = unknown();
            let trailers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("a"))]);
            body.frames.push_back(Frame::trailers(trailers));
            (200, body)
        }
        "/large" => (200, known(large)),
        "/large-unknown" => (200, Frames::of(&["a", large, "b"])),
        "/broken" => (
            200,
            Frames {
                breaks: true,
                ..unknown()
            },
        ),
        _ => (200, known("hello")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let fields: &[(&str, &str)] = match path {
        "/declared" => &[("content-length", "5")],
        "/declared-twice" => &[("content-length", "5"), ("content-length", "5")],
        "/declared-apart" => &[("content-length", "5"), ("content-length", "6")],
        "/declared-badly" => &[("content-length", "five")],
        "/declared-none" => &[("content-length", "0")],
        "/length-of-head" => &[("content-length", "7")],
        "/304" => &[("etag", "\"a\"")],
        "/304-length" => &[("etag", "\"a\""), ("content-length", "5")],
        "/close" => &[("connection", "close")],
        "/close-also" => &[("connection", "x, Close"), ("x", "y")],
        "/date" => &[("date", "Sun, 06 Nov 1994 08:49:37 GMT")],
        "/many" => &[("set-cookie", "a=1"), ("x", "y"), ("set-cookie", "b=2")],
        "/te" => &[("transfer-encoding", "chunked")],
        "/trailers" => &[("trailer", "etag")],
        _ => &[],
    };
    for (name, value) in fields {
        response
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    if path == "/reason" {
        let reason = hyper::ext::ReasonPhrase::from_static(b"Quite So");
        response.extensions_mut().insert(reason);
    }
    response
}

/// What comes over a connection for these bytes, in an order that does not depend on the server,
/// and without the dates of the day.
async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = client.split();
    let (_, got) = tokio::join!(write.write_all(bytes), rest(&mut read));
    let mut seen = String::new();
    for part in got.split_inclusive("\r\n\r\n") {
        let mut lines: Vec<&str> = part.lines().collect();
        if lines.first().is_some_and(|line| line.contains("HTTP/1.1 ")) {
            lines[1..].sort_unstable();
            lines.retain(|line| !line.starts_with("date: ") || line.contains("1994"));
        }
        seen += &lines.join("\n");
        seen += "\n";
    }
    seen
}

async fn serving() -> SocketAddr {
    let (listener, address) = listener().await;
    let app = service_fn(|request: Request<Body>| responds(request));
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    address
}

async fn responds<B: HttpBody>(request: Request<B>) -> Result<Response<Frames>, Infallible> {
    let path = request.uri().path().to_owned();
    let _ = request.into_body().collect().await;
    Ok(answer(&path))
}

/// The same service behind hyper's codec.
async fn codec<F, B>(
    app: impl Fn(Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<evenkeel::BoxError>,
{
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let app = hyper::service::service_fn(app.clone());
            let conn = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), app);
            tokio::spawn(conn);
        }
    });
    address
}

#[tokio::test]
async fn a_response_is_written_as_the_codec_writes_it() {
    let (here, codec) = (serving().await, codec(responds).await);
    for path in PATHS {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            // A length that is not that of the body is a mistake that debug builds of the codec
            // panic at.
            if path == "/length-of-head" && method != Method::HEAD {
                continue;
            }
            for field in ["", "connection: close\r\n", "connection: keep-alive\r\n"] {
                let last = "GET /many HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                let bytes = format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{field}\r\n{last}");
                let (ours, theirs) =
                    tokio::join!(ask(here, bytes.as_bytes()), ask(codec, bytes.as_bytes()));
                assert_eq!(ours, theirs, "{method} {path} {field}");
            }
        }
    }
}

/// Says all that a service can see of a request.
async fn describes<B>(request: Request<B>) -> Result<Response<App>, Infallible>
where
    B: HttpBody<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => {
            let trailers = format!("{:?}", body.trailers());
            format!("{:?} {trailers}", body.to_bytes())
        }
        Err(_) => "a broken body".to_owned(),
    };
    let text = format!(
        "{} {} {:?} {:?} {body}",
        parts.method, parts.uri, parts.version, parts.headers
    );
    Ok(Response::new(Full::new(text.into())))
}

/// The status of the response, and what the service saw.
async fn seen(address: SocketAddr, bytes: &[u8]) -> (String, String) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let got = rest(&mut client).await;
    let status = got.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = got.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // What is left of the bytes may be a request that is refused.
    let refused = ["HTTP/1.1 4", "HTTP/1.0 4", "HTTP/1.1 5"];
    let end = refused.iter().filter_map(|line| body.find(line)).min();
    let body = &body[..end.unwrap_or(body.len())];
    (status, body.to_owned())
}

/// Requests of which the two make something else, and why that is right.
const DIFFERENT: [(&str, &str, &str, &str); 17] = [
    (
        "GET / HTTP/1.1\nhost: a\n\n",
        "400",
        "200",
        "a bare LF is no line end",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        "400",
        "200",
        "nor is one within the head",
    ),
    (
        "GET / HTTP/1.1\r\n\r\n",
        "400",
        "200",
        "RFC 9112 §3.2 demands a Host",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "400",
        "200",
        "and one alone",
    ),
    (
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        "400",
        "200",
        "that is not empty",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "400",
        "200",
        "and is a host",
    ),
    (
        "GET /#a HTTP/1.1\r\nhost: a\r\n\r\n",
        "400",
        "200",
        "a target has no fragment",
    ),
    (
        "GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
        "400",
        "200",
        "nor bytes from 0x80 on",
    ),
    (
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        "400",
        "200",
        "`*` is for OPTIONS",
    ),
    (
        "GET / HTTP/1.7\r\nhost: a\r\n\r\n",
        "200",
        "400",
        "RFC 9110 §2.5: a minor version that is not known",
    ),
    (
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "505",
        "400",
        "a major version has a status of its own",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        "400",
        "200",
        "a length is said once",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
        "200",
        "a length or a coding",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "501",
        "200",
        "the coding would be lost",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0 \r\n\r\n",
        "200",
        "200",
        "blanks behind a size: the body is broken here",
    ),
    (
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;\r\nx\r\n0\r\n\r\n",
        "200",
        "200",
        "and so it is behind a bare semicolon",
    ),
    (
        "OPTIONS http://b HTTP/1.1\r\nhost: a\r\n\r\n",
        "200",
        "200",
        "RFC 9112 §3.2.4: it asks for `*`",
    ),
];

async fn both() -> (SocketAddr, SocketAddr) {
    let (listener, address) = listener().await;
    let app = service_fn(|request: Request<Body>| describes(request));
    let serve = evenkeel::serve(listener, app).http(|http| Ok(http.half_close(true)));
    tokio::spawn(serve.unwrap().into_future());
    let theirs = {
        let (listener, address) = super::listener().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let app = hyper::service::service_fn(describes);
                let conn = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), app);
                tokio::spawn(conn);
            }
        });
        address
    };
    (address, theirs)
}

#[tokio::test]
async fn each_difference_has_its_reason() {
    let (here, codec) = both().await;
    for (request, ours, theirs, reason) in DIFFERENT {
        let (here, codec) = tokio::join!(
            seen(here, request.as_bytes()),
            seen(codec, request.as_bytes())
        );
        assert_eq!(here.0, ours, "{request:?}: {reason}");
        assert_eq!(codec.0, theirs, "{request:?}: {reason}: hyper has changed");
        assert_ne!(here, codec, "{request:?}: {reason}");
    }
}

#[tokio::test]
async fn a_request_that_both_accept_is_the_same_request() {
    let (here, codec) = both().await;
    let mut random = fastrand::Rng::with_seed(17);
    let mut accepted = 0;
    for _ in 0..1_500 {
        let mut bytes = Vec::new();
        let line = random.choice(LINES).unwrap();
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"host: a\r\n");
        for _ in 0..random.usize(0..4) {
            bytes.extend_from_slice(random.choice(FIELDS).unwrap().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(random.choice(BODIES).unwrap().as_bytes());
        let shown = String::from_utf8_lossy(&bytes);
        let (ours, theirs) = tokio::join!(seen(here, &bytes), seen(codec, &bytes));
        if ours.0 == "200" && !ours.1.contains("a broken body") {
            assert_eq!(ours, theirs, "{shown:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 300, "only {accepted} were accepted");
}

const LINES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "GET /a?b=c HTTP/1.1\r\n",
    "POST /a%20b HTTP/1.1\r\n",
    "PUT /\"{}| HTTP/1.1\r\n",
    "X-NEW http://b/c?d HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "POST / HTTP/1.0\r\n",
    "get / HTTP/1.1\r\n",
];
const FIELDS: &[&str] = &[
    "a: 1\r\n",
    "A:2\r\n",
    "a:  \t x y \t \r\n",
    "b:\r\n",
    "c: \u{e9}\r\n",
    "content-length: 5\r\n",
    "content-length: 0\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "connection: keep-alive\r\n",
    "te: trailers\r\n",
    "x{}: y\r\n",
    "d : e\r\n",
    " folded\r\n",
    "e: \u{1}\r\n",
];
const BODIES: &[&str] = &[
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3;x=\"y\"\r\nllo\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\netag: a\r\n\r\n",
    "5\r\nhelloo",
];

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order_however_they_are_cut() {
    let address = serving().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let post = "POST /declared HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let last = "GET /many HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let bytes = [
        &get("/known"),
        &get("/unknown"),
        &get("/204"),
        post,
        &get("/large"),
        last,
    ]
    .concat();
    for cut in [
        bytes.len(),
        1,
        10,
        40,
        41,
        42,
        43,
        44,
        60,
        bytes.len() - last.len() - 3,
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(&bytes.as_bytes()[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&bytes.as_bytes()[cut..]).await.unwrap();
        let got = rest(&mut client).await;
        assert_eq!(
            got.matches("HTTP/1.1 20").count(),
            6,
            "cut at {cut}: {got:.400}"
        );
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_read() {
    let address = serving().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    for byte in b"GET /known HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" {
        client.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(rest(&mut client).await.ends_with("hello"));
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_request_along() {
    struct Dropped(Arc<Notify>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (came, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived, dropped) = (came.clone(), gone.clone());
    let app = service_fn(move |_: Request<Body>| {
        let (arrived, dropped) = (arrived.clone(), Dropped(dropped.clone()));
        async move {
            arrived.notify_one();
            let _held = dropped;
            std::future::pending::<Result<Response<App>, Infallible>>().await
        }
    });
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(GET).await.unwrap();
    came.notified().await;
    drop(client);
    let waited = tokio::time::timeout(Duration::from_secs(10), gone.notified()).await;
    waited.expect("the receiver of the answer was dropped");
}
