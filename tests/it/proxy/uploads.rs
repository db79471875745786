//! Both directions at once: answers that come before the request is whole.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use evenkeel::{Backend, ErrorKind, context::Selected, proxy::Proxy};
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tower::ServiceExt;

/// Plays one connection of a backend, from the request head on.
async fn backend<F, R>(play: F) -> (Backend, JoinHandle<()>)
where
    F: FnOnce(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that what is sent is seen to be read, or not.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let played = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        play(stream).await;
    });
    let backend = Backend::new("a", &format!("http://{address}")).unwrap();
    (backend, played)
}

fn post<B>(backend: &Backend, body: B) -> Request<B> {
    let mut request = Request::post("/").header("host", "a").body(body).unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    request
}

fn expecting(backend: &Backend) -> Request<Full<Bytes>> {
    let mut request = post(backend, Full::from("hello"));
    let yes = http::HeaderValue::from_static("100-continue");
    request.headers_mut().insert("expect", yes);
    request
}

#[tokio::test]
async fn a_body_that_waits_for_100_is_sent_when_the_answer_comes_without() {
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
        stream.write_all(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let answer = async {
        let response = Proxy::new().oneshot(expecting(&backend)).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let echoed = timeout(PATIENCE, answer)
        .await
        .expect("both sides must not wait");
    assert_eq!(echoed, "hello");
    played.await.unwrap();
}

#[tokio::test]
async fn a_body_that_waits_for_100_stays_here_when_the_answer_is_no() {
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let head = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(
            rest, b"",
            "no body, and the connection ends: it is owed one"
        );
    })
    .await;
    let response = Proxy::new().oneshot(expecting(&backend)).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(response);
    timeout(PATIENCE, played)
        .await
        .expect("it must be closed")
        .unwrap();
}

#[tokio::test]
async fn two_sides_that_both_fall_silent_are_timed_out() {
    let (backend, _played) = backend(async |mut stream: TcpStream| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
        stream.write_all(head).await.unwrap();
        let mut waste = Vec::new();
        drop(stream.read_to_end(&mut waste).await);
    })
    .await;
    let proxy = Proxy::new()
        .idle_timeout(Duration::from_millis(200))
        .unwrap();
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    sender
        .send_data(Bytes::from_static(b"a part"))
        .await
        .unwrap();
    let response = proxy.oneshot(post(&backend, body)).await.unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().ok(), Some(Bytes::from_static(b"hi")));
    let silent = timeout(PATIENCE, body.frame())
        .await
        .expect("a silence must end");
    let error = silent.unwrap().map(Frame::into_data).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ClientBodyTimeout,
        "a backend that has all that came is not to blame"
    );
    drop(sender);
}

#[tokio::test]
async fn a_response_that_its_client_broke_off_is_not_charged_to_the_backend() {
    for closes in [true, false] {
        let (backend, _played) = backend(async move |mut stream: TcpStream| {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
            stream.write_all(head).await.unwrap();
            let mut part = [0; 6];
            stream.read_exact(&mut part).await.unwrap();
            match closes {
                true => tokio::time::sleep(Duration::from_millis(100)).await,
                // It waits for the rest.
                false => std::future::pending().await,
            }
        })
        .await;
        let proxy = Proxy::new()
            .idle_timeout(Duration::from_millis(300))
            .unwrap();
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        sender
            .send_data(Bytes::from_static(b"a part"))
            .await
            .unwrap();
        let response = proxy.oneshot(post(&backend, body)).await.unwrap();
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().ok(), Some(Bytes::from_static(b"hi")));
        sender.abort(std::io::ErrorKind::ConnectionReset.into());
        let ended = timeout(PATIENCE, body.frame()).await.unwrap();
        let error = ended.unwrap().map(Frame::into_data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClientBody, "closes: {closes}");
    }
}

#[tokio::test]
async fn a_body_does_not_wait_if_the_backend_does_not_see_the_expectation() {
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let mut body = [0; 5];
        let read = timeout(Duration::from_millis(500), stream.read_exact(&mut body));
        read.await.expect("nothing to wait for").unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let mut request = expecting(&backend);
    let nominates = http::HeaderValue::from_static("expect");
    request.headers_mut().insert("connection", nominates);
    let response = Proxy::new().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    played.await.unwrap();
}

#[tokio::test]
async fn fields_that_connection_names_are_no_trailers_either() {
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            body.push(stream.read_u8().await.unwrap());
        }
        assert_eq!(body, b"2\r\nhi\r\n0\r\nx-there: 1\r\n\r\n");
        let answer = b"HTTP/1.1 200 OK\r\nconnection: x-hop, x-hop2\r\n\
            transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-hop: 1\r\nx-there: 1\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
    sender.send_data(Bytes::from_static(b"hi")).await.unwrap();
    let trailers = HeaderMap::from_iter(["x-hop", "x-there"].map(|name| {
        let name = http::HeaderName::from_static(name);
        (name, http::HeaderValue::from_static("1"))
    }));
    sender.send_trailers(trailers).await.unwrap();
    drop(sender);
    let mut request = post(&backend, body);
    let nominates = http::HeaderValue::from_static("x-hop");
    request.headers_mut().insert("connection", nominates);
    let response = Proxy::new().oneshot(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-there"]);
    played.await.unwrap();
}

#[tokio::test]
async fn only_100_releases_a_waiting_body() {
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let heads = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
            HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(heads).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "no request for the body came");
    })
    .await;
    let response = Proxy::new().oneshot(expecting(&backend)).await.unwrap();
    assert_eq!(response.status(), StatusCode::EXPECTATION_FAILED);
    drop(response);
    timeout(PATIENCE, played)
        .await
        .expect("it must be closed")
        .unwrap();
}

#[tokio::test]
async fn a_backend_that_reads_slowly_but_steadily_is_not_timed_out() {
    const SIZE: usize = 2 << 20;
    let (backend, played) = backend(async |mut stream: TcpStream| {
        let mut got = 0;
        let mut buf = vec![0; 16 << 10];
        while got < SIZE {
            got += stream.read(&mut buf).await.unwrap();
            // The pace of a slow link; the whole takes several idle time-outs.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head).await.unwrap();
    })
    .await;
    let proxy = Proxy::new()
        .idle_timeout(Duration::from_millis(900))
        .unwrap();
    let request = post(&backend, Full::from(vec![0; SIZE]));
    let response = timeout(PATIENCE, proxy.oneshot(request)).await.unwrap();
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    played.await.unwrap();
}

const PATIENCE: Duration = Duration::from_secs(30);
