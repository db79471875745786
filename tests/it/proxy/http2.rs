//! HTTP/2 backends that fail, refuse and stall.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, Error, ErrorKind, connect::Connector, context::Selected, pool::Protocol, proxy::Proxy,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, channel::Channel};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use crate::support::Origin;

fn backend(address: SocketAddr) -> Backend {
    Backend::new("a", &format!("http://{address}"))
        .unwrap()
        .protocol(Protocol::Http2)
}

fn request<B>(method: Method, backend: &Backend, body: B) -> Request<B> {
    let mut request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a")
        .body(body)
        .unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

#[tokio::test]
async fn requests_that_wait_for_a_dial_share_its_failure() {
    // A full backlog drops what else comes, as a black hole does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill = std::net::TcpStream::connect(address).unwrap();
    let connector = Connector::new()
        .timeout(Duration::from_millis(400))
        .unwrap();
    let (proxy, backend) = (Proxy::new().connector(connector), backend(address));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..20 {
        let one = request(Method::GET, &backend, Full::<Bytes>::default());
        running.spawn(proxy.clone().oneshot(one));
    }
    while let Some(ended) = running.join_next().await {
        let error = ended.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectTimeout);
        assert!(!error.is_after_sending());
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}: one after another");
}

#[tokio::test]
async fn a_stream_that_is_refused_was_not_acted_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = backend(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut turn = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(match turn {
                0 => h2::Reason::REFUSED_STREAM,
                _ => h2::Reason::INTERNAL_ERROR,
            });
            turn += 1;
        }
    });
    let proxy = Proxy::new();
    for touched in [false, true] {
        let one = request(Method::POST, &backend, Full::<Bytes>::default());
        let error: Error = proxy.clone().oneshot(one).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResponseClosed);
        assert_eq!(error.is_unprocessed(), !touched, "{error}");
    }
}

/// Answers with what came, once all came.
async fn sink() -> Origin {
    Origin::serve(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body))
    })
    .await
}

#[tokio::test]
async fn a_stalled_upload_is_the_clients_fault() {
    let origin = sink().await;
    let proxy = Proxy::new()
        .response_timeout(Duration::from_millis(100))
        .unwrap()
        .idle_timeout(Duration::from_millis(400))
        .unwrap();
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let one = request(Method::POST, &backend(origin.address), body);
    let upload = async {
        for _ in 0..3 {
            sender.send_data(Bytes::from_static(b"x")).await.unwrap();
            // Slower than the response time-out, which has not begun.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (ended, ()) = tokio::join!(timeout(PATIENCE, proxy.oneshot(one)), upload);
    let error = ended.expect("a stall must end").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ClientBodyTimeout);
    drop(sender);
}

const PATIENCE: Duration = Duration::from_secs(30);
