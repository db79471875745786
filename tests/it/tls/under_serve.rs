//! `TlsLayer` under `evenkeel::serve`.
#![cfg(all(feature = "server", feature = "http1", feature = "http2"))]

use evenkeel::tls::HstsLayer;
use http::{Request, header};

use super::*;
use crate::support::pki::connect;

#[tokio::test]
async fn the_server_of_this_crate_takes_the_layer() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let app = service_fn(async |request: Request<evenkeel::server::Body>| {
        let conn = ConnInfo::of(request.extensions()).unwrap();
        let described = describe(conn.tls().unwrap());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(described))))
    });
    let serve = evenkeel::serve(listener, HstsLayer::new().layer(app))
        .layer(TlsLayer::new(config(&authority.issue(&["localhost"]))))
        .events(Events(sender))
        .shutdown(async { stopped.await.unwrap_or(()) });
    let serving = tokio::spawn(serve.into_future());

    let mut http1_stream = connect(address, http1(authority.client()), "localhost")
        .await
        .unwrap();
    assert!(get(&mut http1_stream).await.contains("alpn=http/1.1"));
    let stream = connect(address, authority.client(), "localhost")
        .await
        .unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let running = tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Full::<Bytes>::default());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(
        answer.headers()[header::STRICT_TRANSPORT_SECURITY],
        "max-age=31536000"
    );
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    let described = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert!(described.contains("alpn=h2 sni=localhost"), "{described}");

    let mut plaintext = TcpStream::connect(address).await.unwrap();
    plaintext
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    plaintext.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let event = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.kind.as_str(), "tls_handshake");

    // Neither the idle nor the silent hold up the end.
    let _silent = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(PATIENCE / 6, serving).await;
    ended.expect("at once").unwrap().unwrap();
    running.abort();
    assert!(events.try_recv().is_err(), "one failure, one event");
}
