//! gRPC's health protocol, against a server that speaks it.

use std::convert::Infallible;

use ::http::HeaderMap;
use evenkeel::health::GrpcCheck;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// What the server says of each service.
#[derive(Clone, Copy)]
enum Says {
    /// A message, in frames of its own, and status 0.
    Serving(u8),
    /// Status alone, in the header: "trailers only".
    Status(&'static str),
    /// Status in trailers, without a message.
    Late(&'static str),
    NoGrpc,
}

async fn server(
    says: impl Fn(&str) -> Says + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let opened = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            opened.fetch_add(1, Relaxed);
            let says = says.clone();
            let service = hyper::service::service_fn(move |request| {
                let says = says.clone();
                async move { Ok::<_, Infallible>(respond(request, says).await) }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, connections)
}

type Frames = StreamBody<Stream>;
type Stream =
    std::pin::Pin<Box<dyn futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn respond(request: Request<Incoming>, says: impl Fn(&str) -> Says) -> Response<Frames> {
    let (head, body) = request.into_parts();
    let right = head.method == Method::POST
        && head.uri.path() == "/grpc.health.v1.Health/Check"
        && head.headers[header::CONTENT_TYPE] == "application/grpc"
        && head.headers[header::TE] == "trailers";
    assert!(right, "{head:?}");
    let message = body.collect().await.unwrap().to_bytes();
    assert_eq!(message[0], 0, "it is not compressed");
    let length = u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
    assert_eq!(length, message.len() - 5);
    let service = match &message[5..] {
        [] => "",
        [0x0a, size, name @ ..] => {
            assert_eq!(usize::from(*size), name.len());
            std::str::from_utf8(name).unwrap()
        }
        other => panic!("no HealthCheckRequest: {other:?}"),
    };
    let trailers = |status: &'static str| {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static(status));
        Frame::trailers(fields)
    };
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    let frames = match says(service) {
        Says::Serving(status) => vec![
            Frame::data(Bytes::from_static(&[0, 0, 0])),
            Frame::data(Bytes::from(vec![0, 2, 8, status])),
            trailers("0"),
        ],
        Says::Status(status) => {
            response = response.header("grpc-status", status);
            vec![]
        }
        Says::Late(status) => vec![trailers(status)],
        Says::NoGrpc => vec![Frame::data(Bytes::from_static(b"<html>"))],
    };
    let frames = tokio_stream_of(frames);
    response.body(StreamBody::new(frames)).unwrap()
}

fn tokio_stream_of(frames: Vec<Frame<Bytes>>) -> Stream {
    struct All(std::vec::IntoIter<Frame<Bytes>>);
    impl futures_core::Stream for All {
        type Item = Result<Frame<Bytes>, Infallible>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next().map(Ok))
        }
    }
    Box::pin(All(frames.into_iter()))
}

#[tokio::test]
async fn the_serving_status_decides() {
    let (address, _) = server(|service| match service {
        "" | "shop.Orders" => Says::Serving(1),
        "shop.Cart" => Says::Serving(2),
        "shop.New" => Says::Serving(0),
        "shop.Html" => Says::NoGrpc,
        "shop.Old" => Says::Late("12"),
        _ => Says::Status("5"),
    })
    .await;
    for (service, code, detail) in [
        ("", "L7OK", " answered SERVING"),
        ("shop.Orders", "L7OK", " answered SERVING"),
        ("shop.Cart", "L7STS", " answered NOT_SERVING"),
        ("shop.New", "L7STS", " answered UNKNOWN"),
        (
            "shop.Nowhere",
            "L7STS",
            " answered gRPC status 5 (NOT_FOUND)",
        ),
        (
            "shop.Old",
            "L7STS",
            " answered gRPC status 12 (UNIMPLEMENTED)",
        ),
        ("shop.Html", "L7RSP", ": there is no grpc-status"),
    ] {
        let asks = GrpcCheck::new().service(service).unwrap();
        let report = check(&asks, backend("a", address)).await;
        let reason = report.reason();
        let detail = format!("grpc.health.v1.Health/Check{detail}");
        assert_eq!(
            (reason.code, &*reason.detail),
            (code, &*detail),
            "{service}"
        );
        assert_eq!(report.is_pass(), code == "L7OK");
    }
}

#[tokio::test]
async fn a_kept_connection_is_let_go_with_a_failure() {
    let serving = Arc::new(AtomicBool::new(true));
    let answers = serving.clone();
    let (address, connections) = server(move |_| match answers.load(Relaxed) {
        true => Says::Serving(1),
        false => Says::Serving(2),
    })
    .await;
    let (asks, backend) = (GrpcCheck::new().pooled(), backend("a", address));
    for _ in 0..3 {
        assert!(check(&asks, backend.clone()).await.is_pass());
    }
    assert_eq!(connections.load(Relaxed), 1);
    serving.store(false, Relaxed);
    assert!(!check(&asks, backend.clone()).await.is_pass());
    serving.store(true, Relaxed);
    assert!(check(&asks, backend).await.is_pass());
    assert_eq!(connections.load(Relaxed), 2);
}

#[tokio::test]
async fn failures_name_the_layer_that_failed() {
    let report = check(&GrpcCheck::new(), backend("a", refused())).await;
    assert_eq!(report.reason().code, "L4CON");
    let http1 = canned(
        b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n".to_vec(),
        true,
    )
    .await;
    let report = check(&GrpcCheck::new(), backend("a", http1)).await;
    assert_eq!(report.reason().code, "L7RSP", "{report:?}");
    let hung = canned(Vec::new(), false).await;
    let target = Target::new(
        backend("a", hung),
        Instant::now() + Duration::from_millis(100),
    );
    let report = GrpcCheck::new().check(&target).await;
    assert_eq!(report.reason().code, "L7TOUT", "{report:?}");
}

/// How a connection goes on after its first answer.
#[derive(Clone, Copy, Debug)]
enum Then {
    Close,
    GoAway,
    Reset,
}

/// Answers the first request of each connection, well for both kinds of checks.
async fn once(then: Then) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let opened = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            opened.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                let serving = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
                body.send_data(serving, false).unwrap();
                let status = HeaderValue::from_static("0");
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]);
                body.send_trailers(trailers).unwrap();
                let Some(Ok((_, mut respond))) = connection.accept().await else {
                    return;
                };
                match then {
                    Then::Close => return,
                    Then::GoAway => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
                    Then::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                }
                while connection.accept().await.is_some() {}
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_kept_connection_that_ends_before_the_answer_is_no_failure() {
    for (then, fails) in [
        (Then::Close, false),
        (Then::GoAway, false),
        (Then::Reset, true),
    ] {
        let (address, connections) = once(then).await;
        let backend = backend("a", address).protocol(Protocol::Http2);
        let (grpc, http) = (GrpcCheck::new().pooled(), HttpCheck::new().pooled());
        for _ in 0..2 {
            let passes = [
                check(&grpc, backend.clone()).await,
                check(&http, backend.clone()).await,
            ];
            let first = connections.load(Relaxed) == 2;
            for report in passes {
                assert_eq!(report.is_pass(), first || !fails, "{then:?}: {report:?}");
            }
            if first && fails {
                // What follows goes over the connections that are kept.
                assert_eq!(check(&http, backend.clone()).await.reason().code, "L7RSP");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_decides_nothing_is_not_waited_for_over_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            open.push(respond.send_response(Response::new(()), false).unwrap());
            open.iter_mut().for_each(|body| {
                let _ = body.send_data(Bytes::from_static(b"he"), false);
            });
        }
    });
    let backend = backend("a", address).protocol(Protocol::Http2);
    let pooled = HttpCheck::new().pooled();
    for _ in 0..2 {
        let asked = timeout(LONG / 2, check(&pooled, backend.clone())).await;
        assert!(asked.expect("the head decides").is_pass());
    }
}

#[tokio::test]
async fn a_failure_is_its_status_whatever_its_body_does_over_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let response = Response::builder().status(503);
                    let response = response.header(header::CONTENT_TYPE, "application/json");
                    let head = response.body(()).unwrap();
                    open.push(respond.send_response(head, false).unwrap());
                }
            });
        }
    });
    let backend = backend("a", address).protocol(Protocol::Http2);
    let deadline = Instant::now() + Duration::from_secs(2);
    let target = Target::new(backend, deadline);
    for report in [
        GrpcCheck::new().check(&target).await,
        HttpCheck::new().check(&target).await,
    ] {
        assert_eq!(report.reason().code, "L7STS", "{report:?}");
        assert_eq!(report.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    }
    assert!(Instant::now() < deadline, "the prober still waits then");
}
