//! Reuse of connections: for which requests, and when a connection is replaced.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::mpsc,
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, Pool,
    context::{ConnInfo, Peer, Selected},
    proxy::Proxy,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::support::{Act, Origin, Scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn backend(address: SocketAddr) -> Backend {
    Backend::new("a", &format!("http://{address}")).unwrap()
}

fn request(method: Method, backend: &Backend) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "shop.example")
        .body(Full::default())
        .unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

async fn status(proxy: &Proxy, request: Request<Full<Bytes>>) -> StatusCode {
    let response = proxy.clone().oneshot(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// A backend on a thread of its own, so that it acts while the runtime under test is not driven:
/// answers one request a connection, and closes on a signal.
struct Apart {
    address: SocketAddr,
    close: mpsc::Sender<()>,
    closed: mpsc::Receiver<()>,
}

fn apart() -> Apart {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, close_signal) = mpsc::channel();
    let (done, closed) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(OK).unwrap();
            if close_signal.recv().is_err() {
                return;
            }
            drop(stream);
            done.send(()).unwrap();
        }
    });
    Apart {
        address,
        close,
        closed,
    }
}

/// A backend that takes its time, so that something can happen meanwhile.
async fn slow() -> Origin {
    Origin::serve(|_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        http::Response::new(Full::from("old"))
    })
    .await
}

#[tokio::test]
async fn a_close_that_the_runtime_has_not_seen_yet_costs_no_post() {
    let origin = apart();
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for round in 0..3 {
        let got = status(&proxy, request(Method::POST, &backend)).await;
        assert_eq!(got, StatusCode::OK, "round {round}");
        // Blocks the thread: no event reaches the runtime before the next request.
        origin.close.send(()).unwrap();
        origin.closed.recv().unwrap();
    }
}

#[tokio::test]
async fn a_408_on_an_idle_connection_is_a_close() {
    const LATE: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbye";
    let origin = Scripted::play(vec![Act::Send(OK), Act::SendAndClose(LATE), Act::Send(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for _ in 0..2 {
        let got = status(&proxy, request(Method::GET, &backend)).await;
        assert_eq!(got, StatusCode::OK);
    }
    assert_eq!(origin.connections(), 2);
    // On a new connection it is an answer; so it is to what cannot be sent again.
    let origin = Scripted::play(vec![
        Act::SendAndClose(LATE),
        Act::Send(OK),
        Act::Send(LATE),
    ])
    .await;
    let backend = self::backend(origin.address);
    let mut got = Vec::new();
    for method in [Method::GET, Method::GET, Method::POST] {
        got.push(status(&proxy, request(method, &backend)).await.as_u16());
    }
    assert_eq!(got, [408, 200, 408]);
}

#[tokio::test]
async fn a_request_that_is_refused_costs_no_connection() {
    let origin = Origin::named("a").await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for _ in 0..3 {
        status(&proxy, request(Method::GET, &backend)).await;
        let mut bad = request(Method::GET, &backend);
        bad.headers_mut().append("host", "other".parse().unwrap());
        let error = proxy.clone().oneshot(bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_connection_in_use_does_not_outlive_its_backends_address() {
    let old = slow().await;
    let new = Origin::named("new").await;
    let proxy = Proxy::new();
    let pool = Pool::new([backend(old.address)]).unwrap();
    let before = pool.snapshot().backends()[0].clone();
    let running = tokio::spawn(proxy.clone().oneshot(request(Method::GET, &before)));
    while old.requests() == 0 {
        tokio::task::yield_now().await;
    }
    pool.replace([backend(new.address)]).unwrap();
    let response = running.await.unwrap().unwrap();
    response.into_body().collect().await.unwrap();
    // A pick from before the change may still be on its way to the old address.
    status(&proxy, request(Method::GET, &before)).await;
    let after = pool.snapshot().backends()[0].clone();
    let response = proxy.oneshot(request(Method::GET, &after)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "new", "the old address must get nothing any more");
}

#[tokio::test]
async fn a_connection_in_use_does_not_become_idle_after_a_drain() {
    let origin = slow().await;
    let proxy = Proxy::new();
    let pool = Pool::new([backend(origin.address)]).unwrap();
    let member = pool.snapshot().backends()[0].clone();
    let running = tokio::spawn(proxy.clone().oneshot(request(Method::GET, &member)));
    while origin.requests() == 0 {
        tokio::task::yield_now().await;
    }
    pool.drain("a", Duration::from_secs(60)).unwrap();
    let response = running.await.unwrap().unwrap();
    response.into_body().collect().await.unwrap();
    status(&proxy, request(Method::GET, &member)).await;
    assert_eq!(origin.connections(), 2, "what was open before is closed");
    status(&proxy, request(Method::GET, &member)).await;
    assert_eq!(
        origin.connections(),
        2,
        "a session that is kept has one of its own"
    );
}

#[tokio::test]
async fn a_proxy_with_other_settings_shares_no_connection() {
    let origin = Origin::named("a").await;
    let backend = backend(origin.address);
    let one = Proxy::new();
    let same = one.clone();
    status(&one, request(Method::GET, &backend)).await;
    status(&same, request(Method::GET, &backend)).await;
    assert_eq!(origin.connections(), 1);
    let other = one.clone().connector(evenkeel::connect::Connector::new());
    status(&other, request(Method::GET, &backend)).await;
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn the_first_of_two_authorizations_binds_the_connection_too() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    let mut first = request(Method::GET, &backend);
    for value in ["NTLM abc", "Basic abc"] {
        let fields = first.headers_mut();
        fields.append("authorization", value.parse().unwrap());
    }
    let peer = Peer::Tcp("192.0.2.1:1".parse().unwrap());
    let client = ConnInfo::new(peer, Peer::Unknown);
    first.extensions_mut().insert(client.clone());
    status(&proxy, first).await;
    status(&proxy, request(Method::GET, &backend)).await;
    assert_eq!(origin.connections(), 2, "no other client may get it");
}

#[tokio::test]
async fn connections_that_belong_to_clients_are_bounded_too() {
    let origin = Origin::named("a").await;
    let (proxy, backend) = (Proxy::new().max_idle(3), backend(origin.address));
    let mut clients = Vec::new();
    for port in 1..=9 {
        let peer = Peer::Tcp(SocketAddr::from(([192, 0, 2, 1], port)));
        let client = ConnInfo::new(peer, Peer::Unknown);
        for _ in 0..2 {
            let mut one = request(Method::GET, &backend);
            let value = "Negotiate abc".parse().unwrap();
            one.headers_mut().insert("authorization", value);
            one.extensions_mut().insert(client.clone());
            status(&proxy, one).await;
        }
        clients.push(client);
    }
    // The first three keep theirs; each of the six others opens two.
    assert_eq!(origin.connections(), 3 + 6 * 2);
}
