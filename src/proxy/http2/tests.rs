//! What no test outside sees: interim responses in the client's queue, and writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    net::TcpListener,
    time::timeout,
};
use tower_service::Service;

use super::upload::Upload;
use crate::{
    Backend, Error, ErrorKind,
    connect::http2::handshake,
    context::{InterimQueue, Selected},
    pool::Protocol,
    proxy::{Body, Proxy, body::erase},
};

/// Plays a backend that answers one request, and asks it through the proxy.
async fn ask(
    play: impl FnOnce(SendResponse<Bytes>) + Send + 'static,
) -> (Result<Response<Body>, Error>, Vec<(StatusCode, HeaderMap)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, respond) = connection.accept().await.unwrap().unwrap();
        play(respond);
        while connection.accept().await.is_some() {}
    });
    let backend = Backend::new("a", &url).unwrap().protocol(Protocol::Http2);
    let mut queue = InterimQueue::new();
    let mut request = Request::get("/")
        .header("host", "a")
        .body(Empty::new())
        .unwrap();
    request.extensions_mut().insert(Selected(backend));
    request.extensions_mut().insert(queue.begin(true));
    let answer = timeout(PATIENCE, Proxy::new().call(request)).await.unwrap();
    let mut passed = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    for interim in queue.poll(&cx).into_iter().flatten() {
        passed.push(interim);
    }
    (answer, passed)
}

fn interim(status: u16) -> Response<()> {
    let response = Response::builder().status(status);
    response
        .header("link", " </a>; rel=preload\t")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn interim_responses_go_to_the_client_and_the_final_one_follows() {
    let (answer, passed) = ask(|mut respond| {
        for status in [100, 103, 102, 103] {
            respond.send_informational(interim(status)).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    let statuses: Vec<_> = passed.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(statuses, [103, 102, 103], "100 is for the proxy");
    assert_eq!(passed[0].1["link"], "</a>; rel=preload", "without blanks");
}

#[tokio::test]
async fn an_endless_row_of_interim_responses_is_no_answer() {
    let (answer, passed) = ask(|mut respond| {
        for _ in 0..101 {
            respond.send_informational(interim(102)).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseHead);
    assert_eq!(passed.len(), 8, "a client gets no more");
}

#[tokio::test]
async fn a_switch_of_protocols_does_not_exist_in_http2() {
    let (answer, passed) = ask(|mut respond| {
        respond.send_informational(interim(101)).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseHead);
    assert!(passed.is_empty());
}

/// Counts writes.
struct Counting {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, SeqCst);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_small_body_goes_out_with_its_head_in_one_write() {
    for size in [100, 1024, 16 * 1024] {
        let (data, theirs) = duplex(1 << 20);
        let writes = Arc::<AtomicUsize>::default();
        let counting = Counting {
            inner: data,
            writes: writes.clone(),
        };
        let (sender, driver) = handshake(counting).await.unwrap();
        let _driver = tokio::spawn(driver);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((request, mut respond))) = server.accept().await {
                tokio::spawn(async move {
                    let (mut body, mut came) = (request.into_body(), 0);
                    while let Some(data) = body.data().await {
                        came += data.unwrap().len();
                    }
                    let response = Response::builder().header("x-came", came);
                    respond
                        .send_response(response.body(()).unwrap(), true)
                        .unwrap();
                });
            }
        });
        // The first one waits for SETTINGS.
        for round in 0..2 {
            let before = writes.load(SeqCst);
            let mut turn = sender.turn().await.unwrap();
            let request = Request::post("http://a/").body(()).unwrap();
            let opened = turn.send(request, false).unwrap();
            let body = erase(Full::new(Bytes::from(vec![0; size]))).unwrap();
            let mut upload = Upload::new(opened.body, body, Some(size as u64));
            std::future::poll_fn(|cx| turn.poll_open(cx)).await;
            drop(turn);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(upload.poll(&mut cx).is_ready(), "all is with h2");
            let response = timeout(PATIENCE, opened.response).await.unwrap().unwrap();
            assert_eq!(response.headers()["x-came"], size.to_string());
            if round == 1 {
                assert_eq!(writes.load(SeqCst) - before, 1, "{size}");
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
