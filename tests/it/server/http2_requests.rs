//! Which requests of HTTP/2 reach the service, and how: over real sockets, by frames of our own
//! where a client would not send them.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

use super::{http2_streams::both, *};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Encodes fields as literals without indexing (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for &(name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        block.push(0);
        block.push(name.len() as u8);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value);
    }
    block
}

fn head(path: &[u8], more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        (":method", b"POST"),
        (":scheme", b"http"),
        (":authority", b"a"),
        (":path", path),
    ];
    fields.extend(more);
    block(&fields)
}

/// A connection that speaks frames.
struct Raw(TcpStream);

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, frames: &[Vec<u8>]) {
        self.0.write_all(&frames.concat()).await.unwrap();
    }

    /// Reads to the next frame of this kind on this stream; returns flags and payload, or `None`
    /// where the connection is closed first.
    async fn until(&mut self, kind: u8, stream: u32) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            let on = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if (head[3], on) == (kind, stream) {
                return Some((head[4], payload));
            }
        }
    }

    /// Waits until the server has read all that was sent.
    async fn settled(&mut self) -> bool {
        self.send(&[frame(PING, 0, 0, b"settled?")]).await;
        self.until(PING, 0).await.is_some()
    }
}

/// How a request's body reached the service.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    path: String,
    /// What the body says of its length before it is read.
    exact: Option<u64>,
    body: Result<Vec<u8>, ()>,
    trailers: Vec<String>,
}

impl Got {
    fn whole(body: &[u8]) -> Self {
        Self {
            path: "/".to_owned(),
            exact: Some(body.len() as u64),
            body: Ok(body.to_vec()),
            trailers: Vec::new(),
        }
    }
}

/// Serves with a service that reads each body and says how it came.
async fn reading() -> (SocketAddr, mpsc::UnboundedReceiver<Got>) {
    let (listener, address) = listener().await;
    let (report, got) = mpsc::unbounded_channel();
    let app = service_fn(move |request: Request<Body>| {
        let report = report.clone();
        async move {
            let path = request.uri().to_string();
            let path = path.strip_prefix("http://a").unwrap().to_owned();
            let body = request.into_body();
            let exact = body.size_hint().exact();
            let collected = body.collect().await;
            let trailers = collected.as_ref().ok().and_then(|c| c.trailers());
            let trailers = trailers.into_iter().flatten();
            let trailers =
                trailers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
            let got = Got {
                path,
                exact,
                trailers: trailers.collect(),
                body: collected.map(|c| c.to_bytes().to_vec()).map_err(drop),
            };
            let _ = report.send(got);
            Ok::<_, Infallible>(Response::new(App::default()))
        }
    });
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    (address, got)
}

#[test]
fn a_body_that_came_with_its_head_is_whole() {
    both(async || {
        let (address, mut got) = reading().await;
        let mut raw = Raw::connect(address).await;
        assert!(raw.settled().await);
        let begins = |stream| frame(HEADERS, END_HEADERS, stream, &head(b"/", &[]));
        let large = vec![b'x'; 16 * 1_024];
        for (stream, frames) in [
            vec![(END_STREAM, &b"hello"[..])],
            vec![(0, b"hello"), (END_STREAM, b"")],
            vec![(0, b"hel"), (0, b""), (END_STREAM, b"lo")],
            vec![(END_STREAM, &large)],
            vec![(END_STREAM, b"")],
        ]
        .iter()
        .enumerate()
        {
            let stream = 1 + 2 * stream as u32;
            let mut sent = vec![begins(stream)];
            for (flags, data) in frames {
                sent.push(frame(DATA, *flags, stream, data));
            }
            raw.send(&sent).await;
            let body: Vec<u8> = frames.iter().flat_map(|(_, data)| data.to_vec()).collect();
            assert_eq!(got.recv().await.unwrap(), Got::whole(&body));
        }
        // It is not asked for (200 is the eighth of HPACK's static table).
        let expects = head(b"/", &[("expect", b"100-continue")]);
        raw.send(&[
            frame(HEADERS, END_HEADERS, 99, &expects),
            frame(DATA, END_STREAM, 99, b"hello"),
        ])
        .await;
        assert_eq!(got.recv().await.unwrap(), Got::whole(b"hello"));
        let (_, first) = raw.until(HEADERS, 99).await.unwrap();
        assert_eq!(first[0], 0x88, "the final response is the only one");
        // One that did not come with its head is as long as it is.
        raw.send(&[begins(101)]).await;
        assert!(raw.settled().await);
        raw.send(&[frame(DATA, END_STREAM, 101, b"late")]).await;
        let late = got.recv().await.unwrap();
        assert_eq!((late.exact, late.body), (None, Ok(b"late".to_vec())));
        // Many frames, of which the first ones were here.
        let mut sent = vec![begins(103)];
        sent.extend((0..50).map(|_| frame(DATA, 0, 103, b"0123456789")));
        sent.push(frame(DATA, END_STREAM, 103, &large));
        raw.send(&sent).await;
        let many = got.recv().await.unwrap().body.unwrap();
        assert_eq!(many, [b"0123456789".repeat(50), large].concat());
    });
}

#[test]
fn trailers_pass_without_pseudo_fields_and_without_framing() {
    both(async || {
        let (address, mut got) = reading().await;
        let mut raw = Raw::connect(address).await;
        let trailers = [
            (":path", &b"/admin"[..]),
            ("sum", b" 42 "),
            ("content-length", b"7"),
            ("host", b"b"),
            ("authorization", b"secret"),
        ];
        let none = [(":path", &b"/admin"[..]), ("host", b"b")];
        // At once, and later.
        for (stream, apart, trailers, left) in [
            (1, false, &trailers[..], &["sum=42"][..]),
            (3, true, &trailers, &["sum=42"]),
            (5, false, &none, &[]),
            (7, true, &none, &[]),
        ] {
            let ends = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(trailers));
            raw.send(&[
                frame(HEADERS, END_HEADERS, stream, &head(b"/", &[])),
                frame(DATA, 0, stream, b"some"),
            ])
            .await;
            if apart {
                assert!(raw.settled().await);
            }
            raw.send(&[ends]).await;
            let got = got.recv().await.unwrap();
            assert_eq!(got.path, "/", "stream {stream}");
            assert_eq!(got.body.unwrap(), b"some");
            assert_eq!(got.trailers, left, "stream {stream}");
        }
    });
}

#[test]
fn data_beyond_the_announced_length_is_no_body() {
    both(async || {
        let (address, mut got) = reading().await;
        let mut raw = Raw::connect(address).await;
        assert!(raw.settled().await);
        let none = head(b"/", &[("content-length", b"0")]);
        // Along with its head it never reaches the service.
        raw.send(&[
            frame(HEADERS, END_HEADERS, 1, &none),
            frame(DATA, END_STREAM, 1, b"smuggled"),
        ])
        .await;
        assert!(raw.until(RESET, 1).await.is_some());
        // Too late for that, the service's reading fails.
        raw.send(&[frame(HEADERS, END_HEADERS, 3, &none)]).await;
        assert!(raw.settled().await);
        raw.send(&[frame(DATA, END_STREAM, 3, b"smuggled")]).await;
        let failed = got.recv().await.unwrap();
        assert_eq!((failed.exact, failed.body), (Some(0), Err(())));
        // And neither does less than was announced.
        let five = head(b"/", &[("content-length", b"5")]);
        raw.send(&[
            frame(HEADERS, END_HEADERS, 5, &five),
            frame(DATA, END_STREAM, 5, b"four"),
        ])
        .await;
        assert!(raw.until(RESET, 5).await.is_some());
        raw.send(&[
            frame(HEADERS, END_HEADERS, 7, &head(b"/", &[])),
            frame(DATA, END_STREAM, 7, b"fine"),
        ])
        .await;
        assert_eq!(got.recv().await.unwrap(), Got::whole(b"fine"));
    });
}

#[test]
fn of_a_target_the_fragment_is_dropped_and_other_bytes_are_refused() {
    both(async || {
        let (address, mut got) = reading().await;
        let mut raw = Raw::connect(address).await;
        // The codec drops it before it can be seen here.
        let headers =
            |stream, path| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(path, &[]));
        raw.send(&[headers(1, b"/a?b#c")]).await;
        assert_eq!(got.recv().await.unwrap().path, "/a?b");
        // 400 is the twelfth of HPACK's static table.
        raw.send(&[headers(3, "/\u{e9}".as_bytes())]).await;
        let (flags, block) = raw.until(HEADERS, 3).await.unwrap();
        assert_eq!((flags & END_STREAM, block[0]), (END_STREAM, 0x8c));
        raw.send(&[headers(5, b"/last")]).await;
        assert_eq!(got.recv().await.unwrap().path, "/last");
        // What is no UTF-8 ends the connection: HPACK's state is lost to the codec.
        raw.send(&[headers(7, b"/\xff"), headers(9, b"/")]).await;
        assert!(!raw.settled().await, "closed");
        assert!(got.try_recv().is_err(), "never seen by the service");
    });
}

/// Serves with a service that answers with blanks around values, and counts its requests.
async fn counted() -> (h2::client::SendRequest<Bytes>, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let app = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, SeqCst);
        let asked = request.headers().get("x-asked").cloned();
        let mut response = Response::new(request.into_body());
        let fields = response.headers_mut();
        fields.extend(asked.map(|value| (http::HeaderName::from_static("x-asked"), value)));
        fields.insert("x-own", HeaderValue::from_static("\t own "));
        async { Ok::<_, Infallible>(response) }
    });
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, conn) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(conn);
    (sender.ready().await.unwrap(), requests)
}

#[test]
fn values_are_trimmed_in_both_directions() {
    both(async || {
        let (mut sender, _) = counted().await;
        let request = Request::get("http://a/").header("x-asked", " a b\t");
        let request = request.body(()).unwrap();
        let response = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["x-asked"], "a b");
        assert_eq!(response.headers()["x-own"], "own");
    });
}

#[test]
fn what_is_refused_has_a_status_and_never_reaches_the_service() {
    both(async || {
        let (mut sender, requests) = counted().await;
        let mut crowded = HeaderMap::new();
        for _ in 0..101 {
            crowded.append("x", HeaderValue::from_static("1"));
        }
        let field = |name, value| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )])
        };
        for (uri, fields, status) in [
            ("http://a/", crowded, 431),
            ("http://a/", field("host", "b"), 400),
            ("http://u@a/", HeaderMap::new(), 400),
            ("http://a/\u{e9}", HeaderMap::new(), 400),
            ("http://a/?\u{e9}", HeaderMap::new(), 400),
        ] {
            let mut request = Request::post(uri).body(()).unwrap();
            *request.headers_mut() = fields;
            // The body is not waited for.
            let (response, _upload) = sender.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status, "{uri}");
            assert_eq!(response.headers()["content-length"], "0");
            assert!(response.headers().contains_key("date"));
            assert!(response.into_body().is_end_stream());
        }
        assert_eq!(requests.load(SeqCst), 0);
        let fine = Request::get("http://a/")
            .header("host", "A")
            .body(())
            .unwrap();
        let response = sender.send_request(fine, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), 200, "and the connection goes on");
    });
}

#[test]
fn the_trailers_of_an_answer_are_no_framing() {
    both(async || {
        let (listener, address) = listener().await;
        let app = service_fn(|request: Request<Body>| async move {
            let mut trailers = HeaderMap::new();
            if request.uri().path() == "/some" {
                trailers.append("sum", HeaderValue::from_static(" 42 "));
            }
            for name in ["content-length", "set-cookie", "keep-alive"] {
                trailers.append(name, HeaderValue::from_static("1"));
            }
            let frames = [Frame::data(Bytes::from("body")), Frame::trailers(trailers)];
            let mut frames = frames.map(Ok::<_, Infallible>).into_iter();
            let stream = Frames(Box::new(move || frames.next()));
            Ok::<_, Infallible>(Response::new(StreamBody::new(stream)))
        });
        tokio::spawn(evenkeel::serve(listener, app).into_future());
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, conn) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(conn);
        for (uri, left) in [("http://a/some", Some(1)), ("http://a/none", None)] {
            let request = Request::get(uri).body(()).unwrap();
            let response = sender.send_request(request, true).unwrap().0.await.unwrap();
            let mut body = response.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "body");
            while let Some(more) = body.data().await {
                assert!(more.unwrap().is_empty());
            }
            let trailers = body.trailers().await.unwrap();
            assert_eq!(trailers.as_ref().map(HeaderMap::len), left, "{uri}");
            assert!(trailers.is_none_or(|trailers| trailers["sum"] == "42"));
        }
    });
}

type Next = Box<dyn FnMut() -> Option<Result<Frame<Bytes>, Infallible>> + Send>;

struct Frames(Next);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready((self.0)())
    }
}
