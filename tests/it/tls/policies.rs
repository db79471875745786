//! Policies by host name, and the requests that they refuse.
#![cfg(all(feature = "server", feature = "http1", feature = "http2"))]

use evenkeel::tls::{ClientAuth, ClientRoots, HostPolicy, MisdirectedLayer, TlsVersion};
use http::{Request, StatusCode};
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::support::pki::connect;

/// Two hosts with a policy of their own, beside `open.test`.
fn policies(authority: &Authority) -> TlsConfig {
    let names = ["open.test", "secret.test", "new.test", "x.new.test"];
    let auth = ClientAuth::required(ClientRoots::pem(authority.pem())).unwrap();
    let secret = HostPolicy::new().client_auth(auth);
    let new = HostPolicy::new().min_version(TlsVersion::V1_3);
    let new = new.alpn(["http/1.1"]).unwrap();
    config(&authority.issue(&names))
        .host("secret.test", secret)
        .unwrap()
        .host("*.NEW.test", new)
        .unwrap()
}

#[tokio::test]
async fn each_host_has_its_own_versions_protocols_and_client_certificates() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(policies(&authority))).await;
    for (name, version, ok) in [
        ("open.test", &TLS12, true),
        ("new.test", &TLS12, true),
        ("x.new.test", &TLS12, false),
        ("x.new.test", &TLS13, true),
        ("open.test", &TLS13, true),
    ] {
        let client = authority.client_of(&[version]);
        let connected = connect(server.address, client, name).await;
        assert_eq!(connected.is_ok(), ok, "{name} {version:?}");
        if let Ok(stream) = connected {
            let alpn = stream.get_ref().1.alpn_protocol();
            let wanted = if name == "x.new.test" {
                &b"http/1.1"[..]
            } else {
                b"h2"
            };
            assert_eq!(alpn, Some(wanted), "{name}");
        }
    }
    let client = authority.client_of(&[&TLS12]);
    assert!(
        connect(server.address, client, "secret.test")
            .await
            .is_err()
    );
    let client = http1(authority.client_with(&authority.issue(&["me"])));
    let mut stream = connect(server.address, client, "secret.test")
        .await
        .unwrap();
    assert!(get(&mut stream).await.contains("certificates=1"));

    let config = TlsConfig::new(Certificates::empty());
    for (name, words) in [("a b", "DNS name"), ("*.*.a", "DNS name"), ("", "DNS name")] {
        let error = config.clone().host(name, HostPolicy::new()).unwrap_err();
        assert!(error.message().contains(words), "{error}");
    }
    let config = config.host("a.test", HostPolicy::new()).unwrap();
    let error = config.host("A.test", HostPolicy::new()).unwrap_err();
    assert!(error.message().contains("already"), "{error}");
}

/// The hosts of requests over a connection with the server name `open.test`.
const HOSTS: [(&str, StatusCode); 6] = [
    ("open.test", StatusCode::OK),
    ("other.test", StatusCode::OK),
    ("new.test", StatusCode::OK),
    ("secret.test", StatusCode::MISDIRECTED_REQUEST),
    ("SECRET.test.:443", StatusCode::MISDIRECTED_REQUEST),
    ("x.new.test", StatusCode::MISDIRECTED_REQUEST),
];

async fn statuses_are_those_of_the_policies(address: SocketAddr, authority: &Authority) {
    for (host, status) in HOSTS {
        let client = http1(authority.client());
        let mut stream = connect(address, client, "open.test").await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let wanted = format!("HTTP/1.1 {} ", status.as_str());
        assert!(answer.starts_with(&wanted), "{host}: {answer}");
    }
    let stream = connect(address, authority.client(), "open.test")
        .await
        .unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let running = tokio::spawn(connection);
    for (host, status) in HOSTS {
        let uri = format!("https://{host}/");
        let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{host} over HTTP/2");
    }
    running.abort();
}

#[tokio::test]
async fn the_server_refuses_a_host_of_another_policy() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let app = service_fn(async |_: Request<evenkeel::server::Body>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("served"))))
    });
    let serve = evenkeel::serve(listener, app)
        .layer(TlsLayer::new(policies(&authority)))
        .events(Events(sender));
    let serving = tokio::spawn(serve.into_future());
    statuses_are_those_of_the_policies(address, &authority).await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    let event = event.unwrap().unwrap();
    assert_eq!(event.kind.as_str(), "bad_request");
    assert!(event.detail.contains("another TLS policy"), "{event:?}");

    // The host of an absolute target counts, and so does the field beside it.
    for (target, host, status) in [
        ("http://secret.test/", "open.test", "421"),
        ("http://open.test/", "secret.test", "421"),
        ("http://open.test/", "open.test", "200"),
    ] {
        let client = http1(authority.client());
        let mut stream = connect(address, client, "open.test").await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let wanted = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&wanted), "{target} {host}: {answer}");
    }
    // Where the server name is right, the request is served.
    let client = http1(authority.client_with(&authority.issue(&["me"])));
    let mut stream = connect(address, client, "secret.test").await.unwrap();
    let served = request(&mut stream, "GET / HTTP/1.1\r\nhost: secret.test\r\n\r\n").await;
    assert_eq!(served, "served");
    serving.abort();
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_layer_refuses_it_under_axum() {
    let authority = Authority::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let app = axum::Router::new()
        .route("/", axum::routing::get(async || "served"))
        .layer(MisdirectedLayer::new());
    let listener = TlsLayer::new(policies(&authority)).layer(tcp);
    let app = app.into_make_service_with_connect_info::<ConnInfo>();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    statuses_are_those_of_the_policies(address, &authority).await;
    serving.abort();
}
