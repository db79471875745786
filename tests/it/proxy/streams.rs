//! HTTP/2 backends that go away amid streams, and that take few at once.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{Backend, ErrorKind, context::Selected, pool::Protocol, proxy::Proxy};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use tower::ServiceExt;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

fn backend(address: SocketAddr) -> Backend {
    Backend::new("a", &format!("http://{address}"))
        .unwrap()
        .protocol(Protocol::Http2)
}

fn request(method: Method, path: &str, backend: &Backend) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "a")
        .body(Full::default())
        .unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn go_away(last: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend([0; 4]);
    frame(7, 0, 0, &payload)
}

/// 200, from the static table, and a body.
fn answer(stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frames = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    frames.extend(frame(0, END, stream, body));
    frames
}

/// Takes the preface and settings; tells of the streams that begin, until the connection ends.
async fn streams(stream: TcpStream) -> (tokio::net::tcp::OwnedWriteHalf, mpsc::Receiver<u32>) {
    let (mut from, mut to) = stream.into_split();
    from.read_exact(&mut [0; 24]).await.unwrap();
    to.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    to.write_all(&frame(SETTINGS, END, 0, &[])).await.unwrap();
    let (begun, heard) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut head = [0; 9];
        while from.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if from.read_exact(&mut payload).await.is_err() {
                return;
            }
            if head[3] == HEADERS {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let _ = begun.send(stream).await;
            }
        }
    });
    (to, heard)
}

async fn text(response: Response<evenkeel::proxy::Body>) -> (StatusCode, Bytes) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, body)
}

#[tokio::test]
async fn after_a_goaway_accepted_streams_end_and_others_are_sent_once_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(listener.local_addr().unwrap());
    let proxy = Proxy::new();
    let client = |method, path| {
        let one = request(method, path, &backend);
        tokio::spawn(proxy.clone().oneshot(one))
    };
    let taken = client(Method::GET, "/taken");
    let (stream, _) = listener.accept().await.unwrap();
    let (mut to, mut begun) = streams(stream).await;
    assert_eq!(begun.recv().await, Some(1));
    // Over the last that it will act on: certainly not acted on, whatever the method.
    let over = [client(Method::GET, "/over"), client(Method::POST, "/over")];
    assert_eq!(begun.recv().await, Some(3));
    assert_eq!(begun.recv().await, Some(5));
    to.write_all(&go_away(1)).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (mut next, mut again) = streams(stream).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let stream = timeout(PATIENCE, again.recv()).await.unwrap().unwrap();
        seen.push(stream);
        next.write_all(&answer(stream, b"again")).await.unwrap();
    }
    assert_eq!(seen, [1, 3], "each once, on a connection of its own");
    for one in over {
        let response = timeout(PATIENCE, one).await.unwrap().unwrap().unwrap();
        assert_eq!(text(response).await, (StatusCode::OK, "again".into()));
    }
    // What it took goes on, on the connection that ends.
    assert!(!taken.is_finished(), "it is neither cut nor sent again");
    to.write_all(&answer(1, b"taken")).await.unwrap();
    let response = timeout(PATIENCE, taken).await.unwrap().unwrap().unwrap();
    assert_eq!(text(response).await, (StatusCode::OK, "taken".into()));
    drop(to);
    // And so does what comes later, on the new one.
    let later = client(Method::GET, "/later");
    let stream = timeout(PATIENCE, again.recv()).await.unwrap().unwrap();
    assert_eq!(stream, 5);
    next.write_all(&answer(stream, b"later")).await.unwrap();
    let response = timeout(PATIENCE, later).await.unwrap().unwrap().unwrap();
    assert_eq!(text(response).await, (StatusCode::OK, "later".into()));
    assert!(begun.recv().await.is_none(), "nothing more came to the old");
}

#[tokio::test]
async fn a_backend_that_only_sends_goaway_is_not_asked_forever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let (mut to, mut begun) = streams(stream).await;
            tokio::spawn(async move {
                while begun.recv().await.is_some() {
                    if to.write_all(&go_away(0)).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let one = Proxy::new().oneshot(request(Method::GET, "/", &backend));
    let error = timeout(PATIENCE, one).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseClosed);
    assert!(error.is_unprocessed(), "another backend may have it");
    assert_eq!(connections.load(SeqCst), 2, "one more, and no other");
}

#[tokio::test]
async fn requests_beyond_the_stream_limit_of_a_backend_wait_and_none_is_lost() {
    for (limit, at_once) in [(1, 10), (3, 40)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = backend(listener.local_addr().unwrap());
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (now, peak, seen) = (running.clone(), most.clone(), paths.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (now, peak, seen) = (now.clone(), peak.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut connection = h2::server::Builder::new()
                        .max_concurrent_streams(limit)
                        .handshake::<_, Bytes>(stream)
                        .await
                        .unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let (now, peak, seen) = (now.clone(), peak.clone(), seen.clone());
                        tokio::spawn(async move {
                            peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                            seen.lock().unwrap().push(request.uri().path().to_owned());
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            now.fetch_sub(1, SeqCst);
                            let mut body = respond.send_response(Response::new(()), false).unwrap();
                            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                        });
                    }
                });
            }
        });
        let proxy = Proxy::new();
        let mut clients = JoinSet::new();
        for number in 0..at_once {
            let method = [Method::GET, Method::POST][number % 2].clone();
            let one = request(method, &format!("/{number}"), &backend);
            clients.spawn(timeout(PATIENCE, proxy.clone().oneshot(one)));
        }
        while let Some(ended) = clients.join_next().await {
            let response = ended.unwrap().expect("none hangs").expect("none is lost");
            assert_eq!(text(response).await, (StatusCode::OK, "ok".into()));
        }
        let mut seen = paths.lock().unwrap().clone();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), at_once);
        assert_eq!(paths.lock().unwrap().len(), at_once, "each came once");
        assert!(most.load(SeqCst) <= limit as usize, "no more than it takes");
    }
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_stream_says_so_and_blames_no_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::Builder::new()
            .max_concurrent_streams(1)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            open.push(respond.send_response(Response::new(()), false).unwrap());
        }
    });
    let proxy = Proxy::new()
        .response_timeout(Duration::from_millis(200))
        .unwrap();
    let first = request(Method::GET, "/", &backend);
    let held = proxy.clone().oneshot(first).await.unwrap();
    let mut waiting = JoinSet::new();
    // One waits for the stream, the others for their turn.
    for body in ["", "", "hello", "hello"] {
        let one = request(Method::POST, "/", &backend).map(|_| Full::<Bytes>::from(body));
        waiting.spawn(timeout(PATIENCE, proxy.clone().oneshot(one)));
    }
    while let Some(ended) = waiting.join_next().await {
        let error = ended.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueTimeout, "{error:?}");
        assert!(!error.is_after_sending(), "{error:?}");
    }
    drop(held);
}

#[tokio::test]
async fn a_request_that_waits_for_a_stream_leaves_with_its_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(listener.local_addr().unwrap());
    let (release, paths) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (released, seen) = (release.clone(), paths.clone());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::Builder::new()
            .max_concurrent_streams(1)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = request.uri().path().to_owned();
            seen.lock().unwrap().push(path.clone());
            let released = released.clone();
            tokio::spawn(async move {
                if path == "/first" {
                    released.notified().await;
                }
                let _ = respond.send_response(Response::new(()), true);
            });
        }
    });
    let proxy = Proxy::new();
    let first = tokio::spawn(
        proxy
            .clone()
            .oneshot(request(Method::GET, "/first", &backend)),
    );
    let arrived = async {
        while paths.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
    let mut waiting = JoinSet::new();
    for path in ["/gone", "/last"] {
        let one = request(Method::GET, path, &backend);
        waiting.spawn(proxy.clone().oneshot(one));
        tokio::task::yield_now().await;
        if path == "/gone" {
            tokio::time::sleep(Duration::from_millis(50)).await;
            waiting.shutdown().await;
        }
    }
    release.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
    let last = timeout(PATIENCE, waiting.join_next()).await.unwrap();
    assert_eq!(last.unwrap().unwrap().unwrap().status(), StatusCode::OK);
    let seen = paths.lock().unwrap().clone();
    // A head that was queued already may go out, to be reset at once.
    let others: Vec<_> = seen.iter().filter(|path| *path != "/gone").collect();
    assert_eq!(others, ["/first", "/last"]);
}

const PATIENCE: Duration = Duration::from_secs(30);
