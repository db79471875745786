use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, Error, ErrorKind,
    context::{ConnInfo, Peer, Selected, TrustedPeers},
    pool::Protocol,
    proxy::{Body, ForwardedFields, Proxy},
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::ServiceExt;

use crate::support::{Act, Origin, Scripted, refused};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn backend(address: SocketAddr) -> Backend {
    Backend::new("a", &format!("http://{address}")).unwrap()
}

fn to<B>(backend: &Backend, mut request: Request<B>) -> Request<B> {
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

fn get(backend: &Backend, path: &str) -> Request<Full<Bytes>> {
    to(
        backend,
        Request::get(path)
            .header("host", "shop.example")
            .body(Full::default())
            .unwrap(),
    )
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn send(proxy: &Proxy, request: Request<Full<Bytes>>) -> Result<Response<Body>, Error> {
    proxy.clone().oneshot(request).await
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let origin = Origin::named("a").await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for _ in 0..10 {
        let response = send(&proxy, get(&backend, "/")).await.unwrap();
        assert_eq!(response.headers()["x-backend"], "a");
        assert_eq!(text(response).await, "a");
    }
    assert_eq!((origin.requests(), origin.connections()), (10, 1));
}

#[tokio::test]
async fn the_head_names_the_client_and_the_target() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = Backend::new("a", &format!("http://{}/base/", origin.address)).unwrap();
    let mut request = get(&backend, "/p?q=1");
    let headers = request.headers_mut();
    for (name, value) in [
        ("connection", "x-hop, keep-alive"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "x"),
        ("te", "trailers, gzip"),
        ("upgrade", "h2c"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=6.6.6.6"),
        ("accept", "*/*"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    let conn = ConnInfo::new(Peer::Tcp("192.0.2.9:1234".parse().unwrap()), Peer::Unknown);
    request.extensions_mut().insert(conn);
    send(&Proxy::new(), request).await.unwrap();
    assert_eq!(
        origin.last_head(),
        "GET /base/p?q=1 HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\n\
         x-forwarded-for: 192.0.2.9\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: shop.example\r\nvia: 1.1 evenkeel\r\n\
         connection: te\r\nte: trailers\r\n\r\n"
    );
}

#[tokio::test]
async fn fields_of_a_trusted_peer_pass_with_its_address_added() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = backend(origin.address);
    let proxy = Proxy::new()
        .trusted_peers(TrustedPeers::new(["192.0.2.0/24"]).unwrap())
        .forwarded(ForwardedFields::Both);
    let mut request = get(&backend, "/");
    for (name, value) in [
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=9.9.9.9"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let conn = ConnInfo::new(Peer::Tcp("192.0.2.9:1234".parse().unwrap()), Peer::Unknown);
    request.extensions_mut().insert(conn);
    send(&proxy, request).await.unwrap();
    let head = origin.last_head();
    for line in [
        "x-forwarded-for: 9.9.9.9, 192.0.2.9\r\n",
        "x-forwarded-proto: https\r\n",
        "forwarded: for=9.9.9.9, for=192.0.2.9;host=\"shop.example\";proto=http\r\n",
    ] {
        assert!(head.contains(line), "{line} must be in {head}");
    }
}

#[tokio::test]
async fn a_stale_connection_is_replaced_unnoticed() {
    let origin = Scripted::play(vec![Act::SendAndClose(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for _ in 0..5 {
        for method in [Method::GET, Method::POST] {
            let mut request = get(&backend, "/");
            *request.method_mut() = method;
            let response = send(&proxy, request).await.unwrap();
            assert_eq!(text(response).await, "ok");
            // The close must have arrived; that is the moment this is about.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(origin.connections(), 10);
}

#[tokio::test]
async fn a_connection_that_closes_under_a_get_is_replaced() {
    // Answers once and closes without a word at the second request.
    let origin = Scripted::play(vec![Act::Send(OK), Act::SendAndClose(b""), Act::Send(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    assert_eq!(
        text(send(&proxy, get(&backend, "/")).await.unwrap()).await,
        "ok"
    );
    assert_eq!(
        text(send(&proxy, get(&backend, "/")).await.unwrap()).await,
        "ok"
    );
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_is_never_sent_twice() {
    let origin = Scripted::play(vec![Act::Send(OK), Act::SendAndClose(b""), Act::Send(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    send(&proxy, get(&backend, "/")).await.unwrap();
    let mut request = get(&backend, "/");
    *request.method_mut() = Method::POST;
    let mut error = send(&proxy, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseClosed);
    assert!(error.is_after_sending());
    let parts = error.take_unsent().expect("the head must come back");
    assert_eq!(parts.headers["host"], "shop.example");
    assert_eq!(origin.heads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn each_failure_has_its_kind() {
    let short = Duration::from_millis(50);
    let proxy = Proxy::new()
        .response_timeout(short)
        .unwrap()
        .idle_timeout(short)
        .unwrap();
    let refused = backend(refused());
    let error = send(&proxy, get(&refused, "/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(!error.is_after_sending());

    let hung = Scripted::play(vec![Act::Hang]).await;
    let error = send(&proxy, get(&backend(hung.address), "/"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseHeadTimeout);

    let slow = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx",
    )])
    .await;
    let response = send(&proxy, get(&backend(slow.address), "/"))
        .await
        .unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseBodyTimeout);

    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let error = send(&proxy, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRouted);

    let mut request = get(&refused, "/");
    *request.method_mut() = Method::CONNECT;
    let error = send(&proxy, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MethodRefused);
}

#[tokio::test]
async fn an_ambiguous_request_is_refused() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = backend(origin.address);
    let cases: [&[(&str, &str)]; 6] = [
        &[("host", "a"), ("host", "a")],
        &[("host", "a b")],
        &[("host", "user@a")],
        &[
            ("host", "a"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
        ],
        &[
            ("host", "a"),
            ("content-length", "3"),
            ("content-length", "3"),
        ],
        &[("host", "a"), ("content-length", "7")],
    ];
    for case in cases {
        let mut builder = Request::post("/");
        for (name, value) in case {
            builder = builder.header(*name, *value);
        }
        let request = to(&backend, builder.body(Full::from("abc")).unwrap());
        let error = send(&Proxy::new(), request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest, "{case:?}");
        assert!(error.is_client());
    }
    assert!(
        origin.heads.lock().unwrap().is_empty(),
        "nothing may have been sent"
    );
}

#[tokio::test]
async fn bodies_go_both_ways_in_every_framing() {
    let origin = Origin::serve(|request| async move {
        let sent = request.headers().get("content-length").is_some();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Full::new(body));
        response
            .headers_mut()
            .insert("x-sized", sent.to_string().parse().unwrap());
        response
    })
    .await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for size in [0, 1, 8_192, 100_000, 3_000_000] {
        let data = Bytes::from(vec![b'x'; size]);
        let request = Request::post("/").body(Full::new(data.clone())).unwrap();
        let response = proxy.clone().oneshot(to(&backend, request)).await.unwrap();
        assert_eq!(response.headers()["x-sized"], "true");
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            data
        );

        let frames: Vec<Result<_, std::io::Error>> = data
            .chunks(10_000)
            .map(|c| Ok(http_body::Frame::data(data.slice_ref(c))))
            .collect();
        let body = StreamBody::new(tokio_stream(frames));
        let request = Request::post("/").body(body).unwrap();
        let response = proxy.clone().oneshot(to(&backend, request)).await.unwrap();
        assert_eq!(
            response.headers()["x-sized"],
            "false",
            "an unknown length goes in chunks"
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            data
        );
    }
    assert_eq!(origin.connections(), 1);
}

fn tokio_stream<T: Unpin>(items: Vec<T>) -> impl futures_core::Stream<Item = T> + Unpin {
    struct Iter<T>(std::vec::IntoIter<T>);
    impl<T> futures_core::Stream for Iter<T>
    where
        T: Unpin,
    {
        type Item = T;
        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            std::task::Poll::Ready(self.get_mut().0.next())
        }
    }
    Iter(items.into_iter())
}

#[tokio::test]
async fn a_client_body_that_breaks_is_the_clients_fault() {
    let origin = Scripted::play(vec![Act::Hang]).await;
    let items = vec![
        Ok(http_body::Frame::data(Bytes::from("abc"))),
        Err(std::io::Error::other("gone")),
    ];
    let request = Request::post("/")
        .body(StreamBody::new(tokio_stream(items)))
        .unwrap();
    let error = Proxy::new()
        .oneshot(to(&backend(origin.address), request))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ClientBody);
    assert!(error.is_client());
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let origin = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )])
    .await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    for _ in 0..2 {
        let response = send(&proxy, get(&backend, "/")).await.unwrap();
        assert!(!response.headers().contains_key("link"));
        assert_eq!(text(response).await, "ok");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn head_and_close_delimited_and_trailers() {
    let origin = Scripted::play(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"),
        Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"),
        Act::SendAndClose(b"HTTP/1.0 200 OK\r\n\r\nold"),
    ])
    .await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    let mut request = get(&backend, "/");
    *request.method_mut() = Method::HEAD;
    let response = send(&proxy, request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "12345");
    assert!(http_body::Body::is_end_stream(response.body()));

    let response = send(&proxy, get(&backend, "/")).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
    assert_eq!(collected.to_bytes(), "ok");

    let response = send(&proxy, get(&backend, "/")).await.unwrap();
    assert_eq!(text(response).await, "old");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let origin = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n",
    )])
    .await;
    let (sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
    let request = Request::post("/").body(body).unwrap();
    let response = Proxy::new()
        .oneshot(to(&backend(origin.address), request))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(sender);
}

#[tokio::test]
async fn expect_continue_waits_for_the_backend() {
    let origin = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n",
    )])
    .await;
    let polled = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = polled.clone();
    let body = StreamBody::new(tokio_stream(vec![Ok::<_, std::io::Error>(
        http_body::Frame::data(Bytes::from("abc")),
    )]))
    .map_frame(move |frame| {
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
        frame
    });
    let request = Request::post("/")
        .header("expect", "100-continue")
        .body(body)
        .unwrap();
    let response = Proxy::new()
        .oneshot(to(&backend(origin.address), request))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::EXPECTATION_FAILED);
    assert!(
        !polled.load(std::sync::atomic::Ordering::SeqCst),
        "the body must not be asked for"
    );
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let origin = Origin::serve(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.uri().authority().unwrap(), "shop.example");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body))
    })
    .await;
    let backend = backend(origin.address).protocol(Protocol::Http2);
    let proxy = Proxy::new();
    let mut running = tokio::task::JoinSet::new();
    for i in 0..20 {
        let mut request = get(&backend, "/");
        *request.method_mut() = Method::POST;
        *request.body_mut() = Full::from(i.to_string());
        let proxy = proxy.clone();
        running.spawn(async move { (i, text(send(&proxy, request).await.unwrap()).await) });
    }
    while let Some(result) = running.join_next().await {
        let (i, body) = result.unwrap();
        assert_eq!(body, i.to_string());
    }
    assert_eq!(origin.connections(), 1, "one connection carries all");
}

#[tokio::test]
async fn connections_that_are_authenticated_are_not_shared() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let (proxy, backend) = (Proxy::new(), backend(origin.address));
    let clients = [1, 2].map(|i| {
        ConnInfo::new(
            Peer::Tcp(SocketAddr::from(([192, 0, 2, i], 1))),
            Peer::Unknown,
        )
    });
    for round in 0..2 {
        for client in &clients {
            let mut request = get(&backend, "/");
            if round == 0 {
                request
                    .headers_mut()
                    .insert("authorization", "NTLM abc".parse().unwrap());
            }
            request.extensions_mut().insert(client.clone());
            send(&proxy, request).await.unwrap();
        }
    }
    assert_eq!(origin.connections(), 2, "one each, used again by its owner");
    let request = get(&backend, "/");
    send(&proxy, request).await.unwrap();
    assert_eq!(origin.connections(), 3, "no other client may get it");
}

#[tokio::test]
async fn idle_connections_end_with_their_time_and_on_drain() {
    let origin = Origin::named("a").await;
    let pool = evenkeel::Pool::new([backend(origin.address)]).unwrap();
    let proxy = Proxy::new()
        .idle_timeout(Duration::from_millis(300))
        .unwrap();
    let member = pool.snapshot().backends()[0].clone();
    send(&proxy, get(&member, "/")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    send(&proxy, get(&member, "/")).await.unwrap();
    assert_eq!(origin.connections(), 2);
    pool.drain("a", Duration::from_secs(1)).unwrap();
    send(&proxy, get(&member, "/")).await.unwrap();
    assert_eq!(origin.connections(), 3, "a drain closes what is idle");
}
