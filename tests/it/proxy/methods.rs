//! Methods that are refused, and requests that end at the proxy.

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, Pool,
    balance::BalanceLayer,
    context::{ConnInfo, Peer, Selected},
    proxy::{HostField, Proxy},
    respond::RespondLayer,
};
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, ServiceExt};

use crate::support::{Act, Scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn request(method: Method, fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri("/a?b")
        .body(Empty::new())
        .unwrap();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn origin() -> (Scripted, Backend) {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    (origin, backend)
}

#[tokio::test]
async fn trace_and_connect_are_answered_with_405_and_what_is_allowed() {
    let (origin, backend) = origin().await;
    for proxy in [Proxy::new(), Proxy::new().allow_trace(true)] {
        let pool = Pool::new([backend.clone()]).unwrap();
        let stack = RespondLayer::new().layer(BalanceLayer::new(pool).layer(proxy));
        let connect = stack.clone().oneshot(request(Method::CONNECT, &[])).await;
        let connect = connect.unwrap();
        assert_eq!(connect.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(connect.headers().contains_key("allow"));
        let trace = stack.oneshot(request(Method::TRACE, &[])).await.unwrap();
        match origin.connections() {
            0 => {
                assert_eq!(trace.status(), StatusCode::METHOD_NOT_ALLOWED);
                let allowed = trace.headers()["allow"].to_str().unwrap();
                assert!(allowed.contains("GET") && !allowed.contains("TRACE"));
            }
            _ => assert_eq!(trace.status(), StatusCode::OK),
        }
    }
    assert_eq!(
        origin.connections(),
        1,
        "it is forwarded where it is allowed"
    );
}

#[tokio::test]
async fn max_forwards_counts_for_options_and_trace() {
    let (origin, backend) = origin().await;
    let proxy = Proxy::new().allow_trace(true);
    let send = async |method: Method, count: &str, connection: &str| {
        let fields = [
            ("host", "a"),
            ("max-forwards", count),
            ("connection", connection),
            ("cookie", "secret"),
            ("x", "1"),
        ];
        let mut request = request(method, &fields);
        request.extensions_mut().insert(Selected(backend.clone()));
        proxy.clone().oneshot(request).await.unwrap()
    };
    let response = send(Method::OPTIONS, "0", "x").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["allow"],
        "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
    );
    let response = send(Method::TRACE, "0", "").await;
    assert_eq!(response.headers()["content-type"], "message/http");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        body.starts_with("TRACE /a?b HTTP/1.1\r\nhost: a\r\n"),
        "{body}"
    );
    assert!(
        body.contains("x: 1\r\n") && !body.contains("secret"),
        "{body}"
    );
    assert_eq!(origin.connections(), 0, "they end here");
    for (method, count, line) in [
        (Method::OPTIONS, "7", "max-forwards: 6\r\n"),
        (Method::TRACE, "1", "max-forwards: 0\r\n"),
        (Method::OPTIONS, "many", "max-forwards: many\r\n"),
        (Method::GET, "0", "max-forwards: 0\r\n"),
    ] {
        for connection in ["", "x"] {
            send(method.clone(), count, connection).await;
            let head = origin.last_head();
            assert!(head.contains(line), "{method} {count}: {head}");
            assert_eq!(head.matches("max-forwards").count(), 1, "{head}");
        }
    }
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let (origin, backend) = origin().await;
    let many = vec!["a"; 65].join(",");
    let most = vec!["a"; 64].join(",");
    let send = async |proxy: Proxy, fields: &[(&str, &str)]| {
        let mut request = request(Method::GET, fields);
        let extensions = request.extensions_mut();
        extensions.insert(Selected(backend.clone()));
        extensions.insert(ConnInfo::new(Peer::Unknown, Peer::Unknown));
        proxy.oneshot(request).await
    };
    for fields in [
        &[("host", "a"), ("connection", many.as_str())][..],
        &[("host", "")],
        &[("host", "a b")],
        &[("host", "a"), ("host", "a")],
        &[],
        &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
        &[
            ("host", "a"),
            ("transfer-encoding", "chunked"),
            ("content-length", "0"),
        ],
        &[
            ("host", "a"),
            ("content-length", "0"),
            ("content-length", "0"),
        ],
        &[("host", "a"), ("content-length", "+0")],
    ] {
        let error = send(Proxy::new(), fields).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest, "{fields:?}");
    }
    assert_eq!(origin.connections(), 0);
    let fields = [
        ("host", "a"),
        ("connection", most.as_str()),
        ("connection", ""),
    ];
    send(Proxy::new(), &fields).await.unwrap();
    // No host is needed where the backend gets its own.
    let own = Proxy::new().host(HostField::Backend);
    send(own, &[("host", "")]).await.unwrap();
    let fields = [
        ("host", "a"),
        ("connection", "host, content-type, cache-control, x-hop"),
        ("content-type", "text/plain"),
        ("cache-control", "no-store"),
        ("x-hop", "1"),
    ];
    send(Proxy::new(), &fields).await.unwrap();
    let head = origin.last_head();
    assert!(head.contains("\r\ncontent-type: text/plain\r\ncache-control: no-store\r\n"));
    assert!(
        head.contains("\r\nhost: a\r\n") && !head.contains("x-hop"),
        "{head}"
    );
}
