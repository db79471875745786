//! The common requests are served without the codec, and the rest of a connection by it from the
//! first odd one on: a client cannot tell which it was.

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

/// What comes over a connection for these bytes, in an order that does not depend on who wrote
/// it, and without the dates of the day.
async fn ask(address: SocketAddr, odd: bool, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let first: &[u8] = match odd {
        true => b"POST /known HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na",
        false => b"GET /known HTTP/1.1\r\nhost: a\r\n\r\n",
    };
    exchange(&mut client, first, b"hello").await;
    client.write_all(bytes).await.unwrap();
    let got = rest(&mut client).await;
    let mut told = String::new();
    for part in got.split_inclusive("\r\n\r\n") {
        let mut lines: Vec<&str> = part.lines().collect();
        if lines.first().is_some_and(|line| line.contains("HTTP/1.1 ")) {
            lines[1..].sort_unstable();
            lines.retain(|line| !line.starts_with("date: ") || line.contains("1994"));
        }
        told += &lines.join("\n");
        told += "\n";
    }
    told
}

async fn serving() -> SocketAddr {
    let app = service_fn(|request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let _ = request.into_body().collect().await;
        Ok::<_, Infallible>(answer(&path))
    });
    let (listener, address) = listener().await;
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    address
}

#[tokio::test]
async fn whoever_serves_a_request_the_answer_is_the_same() {
    let address = serving().await;
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
                let here = ask(address, false, bytes.as_bytes()).await;
                let codec = ask(address, true, bytes.as_bytes()).await;
                assert_eq!(here, codec, "{method} {path} {field}");
            }
        }
    }
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order_by_whoever_serves_them() {
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
    let here = ask(address, false, bytes.as_bytes()).await;
    let codec = ask(address, true, bytes.as_bytes()).await;
    assert_eq!(here, codec);
    assert_eq!(here.matches("HTTP/1.1 20").count(), 6, "{here:.400}");
    // Sliced anywhere, it is the same.
    for cut in [1, 10, 40, 41, 42, 43, 44, 60, bytes.len() - last.len() - 3] {
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
    waited.expect("nobody waits for the answer any more");
}
