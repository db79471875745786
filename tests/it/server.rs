mod connection_ends;
mod http1;
mod http2;
mod http2_goaway;
mod http2_interim;
mod http2_requests;
mod http2_resets;
mod http2_streams;
mod hyper_parity;
mod min_rate;
mod over_tls;
mod shutdown_under_load;
mod streaming;
mod tunnels;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    context::{ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents},
    server::{Body, Serve, Workers, bind},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tower::{Service, service_fn};

type App = Full<Bytes>;

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<ConnectionEventKind>>>, Arc<Notify>);

impl ConnectionEvents for Seen {
    fn connection_ended(&self, event: &ConnectionEvent) {
        self.0.lock().unwrap().push(event.kind);
        self.1.notify_one();
    }
}

impl Seen {
    async fn one(&self) -> ConnectionEventKind {
        tokio::time::timeout(Duration::from_secs(10), self.1.notified())
            .await
            .expect("an event");
        self.0.lock().unwrap()[0]
    }
}

fn hello()
-> impl Service<Request<Body>, Response = Response<App>, Error = Infallible, Future: Send> + Clone + Send
{
    service_fn(|request: Request<Body>| async move {
        let conn = ConnInfo::of(request.extensions()).expect("every request knows its connection");
        assert!(conn.local() != conn.peer() || conn.peer().address().is_none());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(Full::new(if body.is_empty() {
            Bytes::from("hello")
        } else {
            body
        })))
    })
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A running server, which shuts down when the sender is dropped.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
    seen: Seen,
}

const HEAD: Duration = Duration::from_millis(400);

async fn run() -> Running {
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let seen = Seen::default();
    let serve = evenkeel::serve(listener, hello())
        .http(|http| {
            http.head_timeout(HEAD)?
                .idle_timeout(Duration::from_secs(1))
        })
        .unwrap()
        .events(seen.clone())
        .drain_timeout(Duration::from_secs(5))
        .shutdown(async {
            let _ = stopped.await;
        });
    Running {
        address,
        stop: Some(stop),
        task: tokio::spawn(serve.into_future()),
        seen,
    }
}

async fn exchange(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &[u8],
    ends: &[u8],
) -> Vec<u8> {
    stream.write_all(request).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(ends) {
        let n = stream.read_buf(&mut got).await.unwrap();
        assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&got));
    }
    got
}

async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut got))
        .await
        .expect("the connection must be closed")
        .unwrap_or(0);
    String::from_utf8_lossy(&got).into_owned()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn keep_alive_and_pipelines() {
    let server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        exchange(&mut client, GET, b"hello").await;
    }
    client.write_all(&[GET, GET].concat()).await.unwrap();
    let mut got = String::new();
    while got.matches("hello").count() < 2 {
        let mut buf = [0; 1_024];
        let n = client.read(&mut buf).await.unwrap();
        assert_ne!(n, 0, "closed after {got:?}");
        got.push_str(std::str::from_utf8(&buf[..n]).unwrap());
    }
}

#[tokio::test]
async fn http2_is_detected_however_its_preface_is_sliced() {
    let server = run().await;
    let (client, mut wire) = tokio::io::duplex(64 * 1024);
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    tokio::spawn(async move {
        // The preface goes out a byte at a time.
        for _ in 0..24 {
            let byte = wire.read_u8().await.unwrap();
            socket.write_all(&[byte]).await.unwrap();
        }
        let _ = tokio::io::copy_bidirectional(&mut wire, &mut socket).await;
    });
    let (mut sender, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .unwrap();
    tokio::spawn(conn);
    for body in ["", "echo"] {
        let request = Request::post("http://a/")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let got = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(got, if body.is_empty() { "hello" } else { body });
    }
}

#[tokio::test]
async fn a_slow_head_gets_408_and_an_event() {
    for partial in [&b"GET / HTTP/1.1\r\nho"[..], b"PRI * HT"] {
        let server = run().await;
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(partial).await.unwrap();
        let began = std::time::SystemTime::now();
        let got = rest(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 408 "), "{got:?}");
        assert!(began.elapsed().unwrap() >= HEAD / 2);
        assert_eq!(server.seen.one().await, ConnectionEventKind::HeadTimeout);
    }
}

#[tokio::test]
async fn a_trickle_is_no_excuse() {
    let server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    exchange(&mut client, GET, b"hello").await;
    let (mut read, mut write) = client.split();
    let trickle = async {
        for byte in GET.iter().cycle() {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = trickle => panic!("the server must end it"),
        got = rest(&mut read) => assert!(got.starts_with("HTTP/1.1 408 "), "{got:?}"),
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = run().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    exchange(&mut client, GET, b"hello").await;
    assert_eq!(rest(&mut client).await, "");
    assert!(
        server.seen.0.lock().unwrap().is_empty(),
        "an idle end is no event"
    );
}

#[tokio::test]
async fn malformed_and_oversized_heads_are_answered_and_reported() {
    let long = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(40_000)
    );
    for (request, status, kind) in [
        (
            &b"\x16\x03\x01garbage\r\n\r\n"[..],
            " 400 ",
            ConnectionEventKind::BadRequest,
        ),
        (
            b"GET / HTTP/9.9\r\n\r\n",
            " 505 ",
            ConnectionEventKind::BadRequest,
        ),
        (long.as_bytes(), " 431 ", ConnectionEventKind::HeadTooLarge),
    ] {
        let server = run().await;
        let mut client = TcpStream::connect(server.address).await.unwrap();
        let (mut read, mut write) = client.split();
        let _ = write.write_all(request).await;
        let got = rest(&mut read).await;
        drop(client);
        assert!(
            got.lines()
                .next()
                .is_some_and(|l| format!("{l} ").contains(status)),
            "{kind:?} {got:?}"
        );
        assert_eq!(server.seen.one().await, kind);
    }
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_tells_the_others() {
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
    let task = tokio::spawn(
        evenkeel::serve(listener, app)
            .shutdown(async {
                let _ = stopped.await;
            })
            .into_future(),
    );
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(GET).await.unwrap();
    arrived.notified().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    assert_eq!(rest(&mut idle).await, "", "an idle connection ends");
    assert!(!task.is_finished(), "a request in flight keeps the server");
    release.notify_one();
    let got = rest(&mut busy).await;
    assert!(
        got.ends_with("late") && got.contains("connection: close"),
        "{got}"
    );
    task.await.unwrap().unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the listener is closed"
    );
}

#[tokio::test]
async fn what_hangs_is_cut_at_the_deadline() {
    let (listener, address) = listener().await;
    let arrived = Arc::new(Notify::new());
    let a = arrived.clone();
    let app = service_fn(move |_: Request<Body>| {
        a.notify_one();
        std::future::pending::<Result<Response<App>, Infallible>>()
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = evenkeel::serve(listener, app)
        .drain_timeout(Duration::from_millis(50))
        .shutdown(async {
            let _ = stopped.await;
        });
    let task = tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(GET).await.unwrap();
    arrived.notified().await;
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), task)
        .await
        .expect("cut")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn connections_over_the_cap_wait() {
    let (listener, address) = listener().await;
    tokio::spawn(
        evenkeel::serve(listener, hello())
            .max_connections(1)
            .unwrap()
            .into_future(),
    );
    let mut first = TcpStream::connect(address).await.unwrap();
    exchange(&mut first, GET, b"hello").await;
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(GET).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(early.is_err(), "the second must wait");
    drop(first);
    let got = tokio::time::timeout(Duration::from_secs(10), second.read_u8()).await;
    assert_eq!(got.expect("its turn").unwrap(), b'H');
}

#[tokio::test]
async fn unix_sockets_and_a_router() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "routed" }));
    tokio::spawn(evenkeel::serve(UnixListener::bind(&path).unwrap(), app).into_future());
    let mut client = UnixStream::connect(&path).await.unwrap();
    exchange(&mut client, GET, b"routed").await;
}

#[test]
fn workers_share_an_address() {
    let first = {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _in = runtime.enter();
        bind("127.0.0.1:0".parse().unwrap(), true)
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (stop, stopped) = tokio::sync::watch::channel(());
    let ready = Arc::new(std::sync::Barrier::new(3));
    let r = ready.clone();
    let workers = Workers::spawn(2.try_into().unwrap(), move |number| {
        let (mut stopped, r) = (stopped.clone(), r.clone());
        async move {
            let listener = bind(first, true)?;
            r.wait();
            let app = service_fn(move |_: Request<Body>| async move {
                Ok::<_, Infallible>(Response::new(App::from(format!("worker {number}"))))
            });
            Serve::new(listener, evenkeel::server::Http::new(app))
                .shutdown(async move {
                    let _ = stopped.changed().await;
                })
                .await
        }
    })
    .unwrap();
    ready.wait();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        use std::io::{Read, Write};
        let mut client = std::net::TcpStream::connect(first).unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        seen.insert(got.lines().last().unwrap().to_owned());
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "both workers must answer");
    drop(stop);
    workers.join().unwrap();
}
