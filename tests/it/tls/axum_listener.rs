//! `TlsLayer` around an axum listener.
#![cfg(feature = "axum")]

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    routing::get as route,
    serve::{Listener, ListenerExt},
};
use evenkeel::context::{ConnectInfoLayer, ConnectionEventKind};
use tokio::net::UnixListener;

use super::{
    hostile::{best_handshake, crowd},
    *,
};
use crate::support::pki::{connect, handshake};

/// What a handler knows of its connection: the same Router in all worlds.
fn app() -> Router {
    let described = async |request: Request| match ConnInfo::of(request.extensions()) {
        Some(conn) => conn.tls().map_or_else(|| "cleartext".into(), describe),
        None => "nothing".into(),
    };
    let client = async |ConnectInfo(client): ConnectInfo<SocketAddr>| client.to_string();
    Router::new()
        .route("/", route(described))
        .route("/client", route(client))
        .layer(ConnectInfoLayer::new())
}

async fn start<L>(listener: L) -> JoinHandle<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
    ConnInfo: for<'a> axum::extract::connect_info::Connected<axum::serve::IncomingStream<'a, L>>,
{
    let service = app().into_make_service_with_connect_info::<ConnInfo>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() })
}

#[tokio::test]
async fn the_same_router_sees_the_session_under_axum_serve() {
    let authority = Authority::new();
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"])));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = layer.layer(tcp.tap_io(|io| io.set_nodelay(true).unwrap()));
    assert_eq!(
        listener.local_addr().unwrap().local().address(),
        Some(address)
    );
    let server = start(listener).await;
    let mut stream = connect(address, http1(authority.client()), "localhost")
        .await
        .unwrap();
    for _ in 0..2 {
        let described = get(&mut stream).await;
        assert!(
            described.contains("alpn=http/1.1 sni=localhost"),
            "{described}"
        );
    }
    let local = stream.get_ref().0.local_addr().unwrap();
    assert_eq!(get_path(&mut stream, "/client").await, local.to_string());

    let h2 = connect(address, authority.client(), "localhost")
        .await
        .unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(h2))
            .await
            .unwrap();
    let running = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/").body(Full::<Bytes>::default());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    let described = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert!(described.contains("alpn=h2"), "{described}");
    running.abort();
    server.abort();
}

#[tokio::test]
async fn without_the_layer_the_note_is_there_and_says_cleartext() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let server = start(tcp).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(get(&mut stream).await, "cleartext");
    let local = stream.local_addr().unwrap();
    assert_eq!(get_path(&mut stream, "/client").await, local.to_string());
    server.abort();
}

#[tokio::test]
async fn tap_io_outside_and_unix_sockets_work_too() {
    let authority = Authority::new();
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"])));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = layer.layer(UnixListener::bind(&path).unwrap());
    let server = start(listener.tap_io(|io| assert!(io.get_ref().is_none()))).await;
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut stream = handshake(stream, http1(authority.client()), "localhost")
        .await
        .unwrap();
    let described = get(&mut stream).await;
    assert!(described.starts_with("TLSv1.3"), "{described}");
    server.abort();
}

#[tokio::test]
async fn failures_are_reported_to_the_layers_events_and_delay_no_other_client() {
    let authority = Authority::new();
    let (sender, mut events) = mpsc::unbounded_channel();
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"])))
        .max_handshakes(1)
        .unwrap()
        .events(Events(sender));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let server = start(layer.layer(tcp)).await;
    let rude = crowd(address, &authority).await;
    best_handshake(address, &authority).await;
    drop(rude);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let described = async {
        loop {
            let event: ConnectionEvent = events.recv().await.unwrap();
            assert_eq!(event.kind, ConnectionEventKind::TlsHandshake);
            if event.detail.contains("plaintext HTTP") {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, described).await.unwrap();
    assert_eq!(event.conn.local().address(), Some(address));
    assert_eq!(
        event.conn.peer().address(),
        Some(stream.local_addr().unwrap())
    );
    server.abort();
}

#[tokio::test]
async fn a_graceful_shutdown_ends_with_the_silent_still_there() {
    let authority = Authority::new();
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"])));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = app().into_make_service_with_connect_info::<ConnInfo>();
    let serving = axum::serve(layer.layer(tcp), service).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(async move { serving.await });
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut stream = connect(address, http1(authority.client()), "localhost")
        .await
        .unwrap();
    get(&mut stream).await;
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(PATIENCE / 6, serving).await;
    ended
        .expect("idle connections end at once")
        .unwrap()
        .unwrap();
}

async fn get_path(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), path: &str) -> String {
    request(
        stream,
        &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    )
    .await
}
