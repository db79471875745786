//! Request bodies: what leaves with the head, and what of them the backend gets.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{Backend, ErrorKind, context::Selected, proxy::Proxy};
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Mutex, mpsc},
    time::timeout,
};
use tower::{Service, ServiceExt};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A backend that shows the bytes that come, and answers when the test says so.
struct Watched {
    backend: Backend,
    bytes: mpsc::UnboundedReceiver<Vec<u8>>,
    answer: mpsc::UnboundedSender<()>,
    connections: Arc<Mutex<usize>>,
}

impl Watched {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, bytes) = mpsc::unbounded_channel();
        let (answer, asked) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(asked));
        let connections = Arc::new(Mutex::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *counted.lock().await += 1;
                let (mut from, mut to) = stream.into_split();
                let (seen, asked) = (seen.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut buf = vec![0; 1 << 20];
                    loop {
                        let mut asked = asked.lock().await;
                        tokio::select! {
                            read = from.read(&mut buf) => match read {
                                Ok(1..) => seen.send(buf[..read.unwrap()].to_vec()).unwrap(),
                                _ => return,
                            },
                            Some(()) = asked.recv() => to.write_all(OK).await.unwrap(),
                        }
                    }
                });
            }
        });
        Self {
            backend: Backend::new("a", &format!("http://{address}")).unwrap(),
            bytes,
            answer,
            connections,
        }
    }

    /// Waits until what came ends so; returns what comes behind the head.
    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while !all.ends_with(end) {
            let came = timeout(PATIENCE, self.bytes.recv()).await;
            all.extend(came.expect("it must come").unwrap());
        }
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        all.split_off(head + 4)
    }

    /// Leaves an idle connection with the proxy.
    async fn warm(&mut self, proxy: &Proxy) {
        let request = post(&self.backend, Empty::<Bytes>::new());
        let call = tokio::spawn(proxy.clone().oneshot(request));
        self.until(b"\r\n\r\n").await;
        self.answer.send(()).unwrap();
        call.await.unwrap().unwrap();
    }
}

fn post<B>(backend: &Backend, body: B) -> Request<B> {
    let mut request = Request::post("/").header("host", "a").body(body).unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

/// Frames that are there at once, of a length that is not known.
struct Frames(Vec<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.0.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(self.0.remove(0))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(bytes.into()))
}

/// Calls the proxy and does not poll the future before the backend has it all.
async fn leaves_at_once<B>(body: B, wire: &[u8])
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<evenkeel::BoxError>,
{
    let mut proxy = Proxy::new();
    let mut origin = Watched::new().await;
    origin.warm(&proxy).await;
    let call = proxy.call(post(&origin.backend, body));
    assert_eq!(origin.until(wire).await, wire);
    origin.answer.send(()).unwrap();
    assert_eq!(call.await.unwrap().status(), StatusCode::OK);
    origin.warm(&proxy).await;
    assert_eq!(*origin.connections.lock().await, 1, "it is used again");
}

#[tokio::test]
async fn a_ready_body_leaves_within_the_call() {
    leaves_at_once(Full::from(vec![b'x'; 1_024]), &[b'x'; 1_024]).await;
    leaves_at_once(Full::from(vec![b'x'; 20_000]), &[b'x'; 20_000]).await;
    let chunk = b"5\r\nhello\r\n0\r\n\r\n";
    leaves_at_once(Frames(vec![data("hello")]), chunk).await;
    let large = [b"2710\r\n", &[b'x'; 10_000][..], b"\r\n0\r\n\r\n"].concat();
    leaves_at_once(Frames(vec![data(vec![b'x'; 10_000])]), &large).await;
}

#[tokio::test]
async fn the_first_part_leaves_with_the_head_and_the_rest_behind_it() {
    let mut proxy = Proxy::new();
    let mut origin = Watched::new().await;
    origin.warm(&proxy).await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    let call = proxy.call(post(&origin.backend, body));
    origin.until(b"3\r\none\r\n").await;
    let call = tokio::spawn(call);
    sender.send_data(Bytes::from_static(b"two!")).await.unwrap();
    drop(sender);
    let rest = async {
        let mut all = Vec::new();
        while !all.ends_with(b"0\r\n\r\n") {
            all.extend(origin.bytes.recv().await.unwrap());
        }
        all
    };
    let rest = timeout(PATIENCE, rest).await.expect("the rest must come");
    assert_eq!(rest, b"4\r\ntwo!\r\n0\r\n\r\n");
    origin.answer.send(()).unwrap();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_fails_at_once_costs_no_connection() {
    let mut proxy = Proxy::new();
    let mut origin = Watched::new().await;
    origin.warm(&proxy).await;
    for _ in 0..2 {
        let broken = Frames(vec![Err(std::io::ErrorKind::BrokenPipe.into())]);
        let error = proxy.call(post(&origin.backend, broken)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClientBody);
    }
    origin.warm(&proxy).await;
    assert_eq!(*origin.connections.lock().await, 1);
}

#[tokio::test]
async fn a_body_is_whole_over_a_new_connection_too() {
    let mut origin = Watched::new().await;
    let request = post(&origin.backend, Frames(vec![data(vec![b'x'; 300_000])]));
    let call = tokio::spawn(Proxy::new().oneshot(request));
    let came = origin.until(b"\r\n0\r\n\r\n").await;
    assert_eq!(came.len(), 300_000 + b"493e0\r\n\r\n0\r\n\r\n".len());
    origin.answer.send(()).unwrap();
    let response = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    response.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn trailers_obey_the_rules_of_fields() {
    let mut trailers = HeaderMap::new();
    for name in [
        "x-sum",
        "x-forwarded-for",
        "authorization",
        "content-length",
        "connection",
        "host",
    ] {
        trailers.insert(name, "1".parse().unwrap());
    }
    let body = Frames(vec![data("hello"), Ok(Frame::trailers(trailers))]);
    let mut origin = Watched::new().await;
    let call = tokio::spawn(Proxy::new().oneshot(post(&origin.backend, body)));
    let body = origin.until(b"x-sum: 1\r\n\r\n").await;
    assert_eq!(body, b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
    origin.answer.send(()).unwrap();
    call.await.unwrap().unwrap();
}

const PATIENCE: Duration = Duration::from_secs(30);
