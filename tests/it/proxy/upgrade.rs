use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use evenkeel::{
    Backend,
    context::{Selected, Tunnel},
    proxy::Proxy,
};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

/// An origin that speaks `echo` after the switch.
async fn echo_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.contains("upgrade: echo\r\nconnection: upgrade\r\n"),
            "{head}"
        );
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhi ";
        stream.write_all(answer).await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    address
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_with_its_guards() {
    let backend = Backend::new("a", &format!("http://{}", echo_origin().await)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, gone) = tokio::sync::oneshot::channel::<()>();
    let closed = std::sync::Arc::new(std::sync::Mutex::new(Some(closed)));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Selected(backend.clone()));
            let guard = closed.lock().unwrap().take();
            async move {
                let response = Proxy::new().oneshot(request).await.unwrap();
                let tunnel = response
                    .extensions()
                    .get::<Tunnel>()
                    .expect("a tunnel extension");
                tunnel.hold(guard);
                Ok::<_, Infallible>(response)
            }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .unwrap();
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\nhi ") {
        assert_ne!(
            client.read_buf(&mut got).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&got)
        );
    }
    client.write_all(b"there").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"there");
    client.shutdown().await.unwrap();
    assert_eq!(
        client.read(&mut echo).await.unwrap(),
        0,
        "both directions end"
    );
    assert!(
        gone.await.is_err(),
        "the guard must be dropped with the tunnel"
    );
}

#[tokio::test]
async fn a_switch_that_was_not_asked_for_is_an_error() {
    let origin = crate::support::Scripted::play(vec![crate::support::Act::Send(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    )])
    .await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    for fields in [&[][..], &[("connection", "upgrade"), ("upgrade", "h2c")]] {
        let mut request = Request::get("/")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        for (name, value) in fields {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        request.extensions_mut().insert(Selected(backend.clone()));
        let error = Proxy::new().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), evenkeel::ErrorKind::Upgrade);
        assert!(format!("{error}").contains("not asked for"), "{error}");
    }
}

#[tokio::test]
async fn a_switch_amid_the_request_is_an_error() {
    let origin = crate::support::Scripted::play(vec![crate::support::Act::Send(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    )])
    .await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    let (sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
    let mut request = Request::post("/").body(body).unwrap();
    for name in ["connection", "upgrade"] {
        let value = if name == "upgrade" { "x" } else { "upgrade" };
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request.extensions_mut().insert(Selected(backend));
    let error = Proxy::new().oneshot(request).await.unwrap_err();
    assert_eq!(error.kind(), evenkeel::ErrorKind::Upgrade);
    assert!(format!("{error}").contains("before the end"), "{error}");
    drop(sender);
}

#[tokio::test]
async fn a_switch_to_what_was_not_offered_is_an_error() {
    use crate::support::{Act, Scripted};
    for (answer, why) in [
        (
            &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n"[..],
            "not offered",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
            "names no protocol",
        ),
    ] {
        let origin = Scripted::play(vec![Act::Send(answer)]).await;
        let mut request = Request::get("/")
            .header("connection", "upgrade")
            .header("upgrade", "echo, Websocket")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
        request.extensions_mut().insert(Selected(backend));
        let error = Proxy::new().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), evenkeel::ErrorKind::Upgrade);
        assert!(format!("{error}").contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_426_keeps_the_upgrade_that_it_demands() {
    use crate::support::{Act, Scripted};
    let origin = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          content-length: 0\r\n\r\n",
    )])
    .await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    let mut request = Request::get("/")
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    request.extensions_mut().insert(Selected(backend));
    let response = Proxy::new().oneshot(request).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::UPGRADE_REQUIRED);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert!(!response.headers().contains_key("connection"));
}
