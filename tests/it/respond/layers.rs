//! What layers of other crates fail with has a status and an outcome of its own.

use std::{
    future::{IntoFuture, pending},
    task::{Context, Poll},
};

use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    health::HealthLayer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{
    buffer::BufferLayer, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};
use tower_http::limit::RequestBodyLimitLayer;

use super::*;
use crate::support::{Origin, Written};

type Answer = Response<Full<Bytes>>;

async fn hangs(_: Request<()>) -> Result<Answer, BoxError> {
    pending().await
}

/// Sends a request; returns the status of the response, the failure that it is the answer for, and
/// `Retry-After`.
async fn outcome<S, B>(service: S) -> (u16, Option<ErrorKind>, Option<String>)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let mut request = Request::new(());
    let exchange = Exchange::of(request.extensions_mut());
    let response = service.oneshot(request).await.unwrap();
    let after = response.headers().get("retry-after");
    let after = after.map(|after| after.to_str().unwrap().to_owned());
    (response.status().as_u16(), exchange.failure(), after)
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_that_passed_is_504() {
    let limited = TimeoutLayer::new(Duration::from_secs(1)).layer(service_fn(hangs));
    let respond = RespondLayer::new();
    let wanted = (504, Some(ErrorKind::Timeout), None);
    assert_eq!(outcome(respond.layer(limited.clone())).await, wanted);
    // Below a layer of this crate, which says only that it was a foreign one.
    let pool = Pool::new([]).unwrap();
    let below = HealthLayer::new(pool).no_checks().layer(limited);
    assert_eq!(outcome(respond.layer(below)).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn load_that_is_shed_is_503() {
    let shed = LoadShedLayer::new();
    let limit = ConcurrencyLimitLayer::new(1);
    let service = RespondLayer::new().layer(shed.layer(limit.layer(service_fn(hangs))));
    let mut busy = service.clone();
    let first = busy.ready().await.unwrap().call(Request::new(()));
    let wanted = (503, Some(ErrorKind::LoadShed), Some("1".to_owned()));
    assert_eq!(outcome(service.clone()).await, wanted);
    drop(first);
    let limited = TimeoutLayer::new(Duration::from_secs(1)).layer(service);
    let error = limited.oneshot(Request::new(())).await;
    assert!(error.is_err(), "there is room again: the service was asked");
}

/// Is never ready.
#[derive(Clone)]
struct Closed;

impl Service<Request<()>> for Closed {
    type Response = Answer;
    type Error = Error;
    type Future = std::future::Ready<Result<Answer, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Err(Error::new(ErrorKind::NoBackend)))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test]
async fn what_a_service_that_is_not_ready_says_is_kept() {
    let respond = RespondLayer::new();
    let wanted = (503, Some(ErrorKind::NoBackend), None);
    assert_eq!(outcome(respond.layer(Closed)).await, wanted);
    // A buffer shares the error among its callers.
    let buffered = BufferLayer::new(1).layer(Closed);
    let answered = outcome(respond.layer(buffered)).await;
    assert_eq!(answered, wanted);
}

#[tokio::test]
async fn a_user_adds_to_what_is_known() {
    let full = service_fn(async |_: Request<()>| {
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err::<Answer, _>(error)
    });
    let respond = RespondLayer::new();
    assert_eq!(outcome(respond.clone().layer(full)).await.0, 502);
    let respond = respond.classify(|error| {
        let error = error.downcast_ref::<std::io::Error>()?;
        (error.kind() == std::io::ErrorKind::StorageFull).then_some(ErrorKind::Overloaded)
    });
    let wanted = (503, Some(ErrorKind::Overloaded), None);
    assert_eq!(outcome(respond.clone().layer(full)).await, wanted);
    let respond = respond.body("text/html", |_| Bytes::new()).unwrap();
    let answered = outcome(respond.layer(full)).await;
    assert_eq!(answered, wanted, "the page and the kinds are set apart");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_its_length_is_declared_or_not() {
    let origin = Origin::serve(async |request| {
        let _ = request.into_body().collect().await;
        Response::new(Full::from("read"))
    })
    .await;
    let pool = Pool::new([Backend::new("a", &origin.url()).unwrap()]).unwrap();
    let lines = Written::default();
    let sink = Lines::writer(lines.clone()).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool.clone()).no_checks())
        .unwrap()
        .access_log(AccessLogLayer::new(sink.clone()))
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = RequestBodyLimitLayer::new(8).layer(balancer);
    let serving = tokio::spawn(evenkeel::serve(listener, service).into_future());
    let send = async |head: &str, body: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let chunked = "transfer-encoding: chunked";
    let answer = send(chunked, "4\r\n1234\r\n0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = send(chunked, "9\r\n123456789\r\n0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("413 Payload Too Large\n"), "{answer}");
    // The layer answers by itself.
    let answer = send("content-length: 9", "123456789").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    serving.abort();
    assert!(sink.flush());
    let text = String::from_utf8(lines.take()).unwrap();
    let said: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line: serde_json::Value| (line["status"].clone(), line["outcome"].clone()))
        .collect();
    let wanted = [(200, "ok"), (413, "body_too_large")];
    assert_eq!(said, wanted.map(|(s, o)| (s.into(), o.into())), "{text}");
    assert!(pool.snapshot().usable() == 1, "no backend is charged");
}
