//! HTTP/2: one write a poll, and ends that do not depend on the client's help.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use evenkeel::{
    context::{Conn, Peer},
    server::Http,
};
use hyper::client::conn::http2::SendRequest;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::Semaphore,
};
use tower::{Layer, limit::ConcurrencyLimitLayer};

use super::*;

/// The preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;

async fn client(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<App> {
    let (sender, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(conn);
    sender
}

fn get() -> Request<App> {
    Request::get("http://a/").body(App::default()).unwrap()
}

/// Returns the types of the frames that came.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// Closes the read half after everything came, within a limit.
async fn everything(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let closed = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(closed.is_ok(), "the connection must be closed");
    got
}

/// Counts writes; with `lazy`, keeps what is written until it is flushed, as TLS may.
struct Instrumented {
    io: DuplexStream,
    writes: Arc<AtomicUsize>,
    lazy: bool,
    kept: Vec<u8>,
}

impl AsyncRead for Instrumented {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Instrumented {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        if self.lazy {
            if self.kept.len() > 32 * 1024 {
                ready!(self.as_mut().poll_flush(cx))?;
            }
            self.kept.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.kept.is_empty() {
            let n = ready!(Pin::new(&mut this.io).poll_write(cx, &this.kept))?;
            this.kept.drain(..n);
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Keeps what came.
struct Tapped {
    io: TcpStream,
    came: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.came.lock().unwrap().extend(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Serves one connection in memory with `size` bytes a response.
async fn in_memory(size: usize, lazy: bool) -> (SendRequest<App>, Arc<AtomicUsize>) {
    let (near, far) = tokio::io::duplex(if lazy { 1_000 } else { 1 << 20 });
    let writes = Arc::new(AtomicUsize::new(0));
    let io = Instrumented {
        io: far,
        writes: writes.clone(),
        lazy,
        kept: Vec::new(),
    };
    let body = Bytes::from(vec![b'x'; size]);
    let app = service_fn(move |_: Request<Body>| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(App::from(body))) }
    });
    let info = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let serving = Http::new(app).call(Conn::new(io, info));
    tokio::spawn(serving);
    (client(near).await, writes)
}

#[tokio::test]
async fn a_response_is_one_write() {
    let (mut sender, writes) = in_memory(1_024, false).await;
    let ask = async |sender: &mut SendRequest<App>| {
        let response = sender.send_request(get()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 1_024);
    };
    for _ in 0..3 {
        ask(&mut sender).await;
    }
    let before = writes.load(Relaxed);
    for _ in 0..20 {
        ask(&mut sender).await;
    }
    let a_request = (writes.load(Relaxed) - before) as f64 / 20.0;
    assert!(
        a_request <= 1.2,
        "head and body go out together: {a_request} writes a response"
    );
}

#[tokio::test]
async fn a_request_with_a_body_is_answered_in_one_write() {
    let (mut sender, writes) = in_memory(1_024, false).await;
    let ask = async |sender: &mut SendRequest<App>| {
        let body = App::from(Bytes::from_static(&[b'x'; 8 * 1_024]));
        let request = Request::post("http://a/").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 1_024);
    };
    for _ in 0..3 {
        ask(&mut sender).await;
    }
    let before = writes.load(Relaxed);
    // More than the connection's window: it is opened again meanwhile.
    for _ in 0..1_000 {
        ask(&mut sender).await;
    }
    let a_request = (writes.load(Relaxed) - before) as f64 / 1_000.0;
    assert!(
        a_request <= 1.05,
        "window updates go out with the answers: {a_request} writes a response"
    );
}

#[tokio::test]
async fn what_the_stream_below_keeps_is_flushed() {
    let (mut sender, _) = in_memory(50_000, true).await;
    for _ in 0..3 {
        let whole = async {
            let response = sender.send_request(get()).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        };
        let body = tokio::time::timeout(Duration::from_secs(5), whole).await;
        assert_eq!(body.expect("nothing may be left in between").len(), 50_000);
    }
}

#[tokio::test]
async fn an_idle_client_that_never_answers_is_closed() {
    let server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    let got = everything(&mut client).await;
    assert!(
        frames(&got).contains(&GOAWAY),
        "GOAWAY comes first: {got:?}"
    );
    assert!(
        server.seen.0.lock().unwrap().is_empty(),
        "an idle end is no event"
    );
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_never_answers() {
    let mut server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    client.read_u8().await.unwrap();
    server.stop.take();
    everything(&mut client).await;
    tokio::time::timeout(Duration::from_secs(4), server.task)
        .await
        .expect("long before the drain's own deadline")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_refuses_new_ones() {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (a, r) = (arrived.clone(), release.clone());
    let app = service_fn(move |_: Request<Body>| {
        let (a, r) = (a.clone(), r.clone());
        async move {
            a.notify_one();
            r.notified().await;
            Ok::<_, Infallible>(Response::new(App::from("late")))
        }
    });
    let serve = evenkeel::serve(listener, app).shutdown(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(serve.into_future());
    let came = Arc::new(Mutex::new(Vec::new()));
    let mut sender = client(Tapped {
        io: TcpStream::connect(address).await.unwrap(),
        came: came.clone(),
    })
    .await;
    let late = sender.send_request(get());
    arrived.notified().await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while !frames(&came.lock().unwrap()).contains(&GOAWAY) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the client gets GOAWAY");
    assert!(!task.is_finished(), "a stream keeps the server");
    release.notify_one();
    let body = late.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "late");
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed() {
    let (listener, address) = listener().await;
    let body = Bytes::from(vec![b'x'; 8 << 20]);
    let (dropped, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let app = service_fn(move |_: Request<Body>| {
        let (body, dropped) = (body.clone(), dropped.clone());
        async move {
            let _held = dropped;
            Ok::<_, Infallible>(Response::new(App::from(body)))
        }
    });
    let serve = evenkeel::serve(listener, app)
        .http(|http| http.idle_timeout(Duration::from_millis(300)))
        .unwrap();
    let task = tokio::spawn(serve.into_future());
    let mut sender = client(TcpStream::connect(address).await.unwrap()).await;
    // Neither read nor given room for more: the window stays shut.
    let response = sender.send_request(get()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("a stalled client is not waited for");
    drop(response);
    task.abort();
    let _ = task.await;
    assert!(gone.recv().await.is_none());
}

#[tokio::test]
async fn a_slow_application_is_no_stalled_client() {
    let (listener, address) = listener().await;
    let app = service_fn(move |request: Request<Body>| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let serve = evenkeel::serve(listener, app)
        .http(|http| http.idle_timeout(Duration::from_millis(300)))
        .unwrap();
    tokio::spawn(serve.into_future());
    let mut sender = client(TcpStream::connect(address).await.unwrap()).await;
    let response = sender.send_request(get()).await.unwrap();
    response.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn a_slow_client_is_no_stalled_one() {
    const WINDOW: u32 = 64 * 1024;
    let (listener, address) = listener().await;
    // In one frame: the application is done long before the client.
    let body = Bytes::from(vec![b'x'; 8 * WINDOW as usize]);
    let app = service_fn(move |_: Request<Body>| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(App::from(body))) }
    });
    let serve = evenkeel::serve(listener, app)
        .http(|http| http.idle_timeout(Duration::from_secs(1)))
        .unwrap();
    tokio::spawn(serve.into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, conn) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(conn);
    let mut body = sender.send_request(get()).await.unwrap().into_body();
    let (mut got, mut rested) = (0, 0);
    while let Some(frame) = body.frame().await {
        got += frame.expect("not cut").into_data().unwrap().len();
        if got - rested >= WINDOW as usize {
            rested = got;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    assert_eq!(got, 8 * WINDOW as usize);
}

/// Says when the inner service is not ready.
#[derive(Clone)]
struct Watched<S> {
    inner: S,
    pending: Arc<Semaphore>,
}

impl<S: Service<R>, R> Service<R> for Watched<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        self.pending.add_permits(usize::from(ready.is_pending()));
        ready
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_the_service_gets_its_turn() {
    let (gate, pending) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let gated = gate.clone();
    let inner = service_fn(move |_: Request<Body>| {
        let gate = gated.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Response::new(App::default()))
        }
    });
    let app = Watched {
        inner: ConcurrencyLimitLayer::new(1).layer(inner),
        pending: pending.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let mut client = client(TcpStream::connect(address).await.unwrap()).await;
    let both = [client.send_request(get()), client.send_request(get())].map(tokio::spawn);
    // The server looks once, and the stream waits once.
    pending.acquire_many(2).await.unwrap().forget();
    gate.add_permits(2);
    for answered in both {
        let answered = tokio::time::timeout(Duration::from_secs(10), answered).await;
        let response = answered.expect("its turn must come").unwrap().unwrap();
        assert_eq!(response.status(), 200);
    }
}
