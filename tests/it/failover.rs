//! Failover over real sockets, alone around a foreign service.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Error, ErrorKind,
    context::{Exchange, Outcome, Selected},
    failover::{FailoverLayer, ReplayBody},
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Origin, refused};

mod head_copies;
mod hedging;
mod policies;
mod scripted_stack;
#[cfg(feature = "proxy")]
mod sockets;
mod timeouts;

fn request(method: Method, body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
    *request.method_mut() = method;
    request
}

#[tokio::test]
async fn alone_around_a_foreign_service_that_fails_first() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let inner = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let first = counted.fetch_add(1, Relaxed) == 0;
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes())?;
            if first {
                let error = Error::new(ErrorKind::ResponseClosed).after_sending();
                return Err(BoxError::from(error.with_unsent(head)));
            }
            Ok(Response::new(body))
        }
    });
    let service = FailoverLayer::new().layer(inner);
    let response = service
        .oneshot(request(Method::PUT, "the same bytes"))
        .await
        .unwrap();
    assert_eq!(calls.load(Relaxed), 2);
    assert_eq!(response.into_body(), "the same bytes");
}

/// A stand-in for balance: goes down the list, and notes each attempt.
#[derive(Clone)]
struct InOrder<S> {
    inner: S,
    backends: Arc<[Backend]>,
}

impl<S, B> Service<Request<B>> for InOrder<S>
where
    S: Service<Request<B>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<S::Response, Error>> + Send + 'static>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(request.extensions_mut());
        let untried = self.backends.iter().find(|b| !exchange.has_tried(b));
        let Some(backend) = untried else {
            return Box::pin(async { Err(ErrorKind::NoBackend.into()) });
        };
        let attempt = exchange.begin_attempt(backend.clone());
        request.extensions_mut().insert(Selected(backend.clone()));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = answer.await;
            let outcome = match &result {
                Ok(_) => Outcome::Ok,
                Err(error) => Outcome::Failed(error.kind()),
            };
            exchange.end_attempt(attempt, outcome);
            result
        })
    }
}

fn backend(id: &str, url: &str) -> Backend {
    Backend::new(id, url).unwrap()
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn a_refused_post_goes_to_the_other_backend() {
    let origin = Origin::serve(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body))
    })
    .await;
    let service = FailoverLayer::new().layer(InOrder {
        inner: evenkeel::proxy::Proxy::new(),
        backends: [
            backend("dead", &format!("http://{}", refused())),
            backend("alive", &origin.url()),
        ]
        .into(),
    });
    let mut request = request(Method::POST, "payload");
    *request.uri_mut() = "http://service.example/path".parse().unwrap();
    let exchange = Exchange::of(request.extensions_mut());
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "payload", "the body must arrive whole");
    exchange.attempts(|attempts| {
        let seen: Vec<_> = attempts
            .iter()
            .map(|a| (a.backend.id(), a.outcome))
            .collect();
        let refused = Outcome::Failed(ErrorKind::Connect);
        assert_eq!(
            seen,
            [("dead", Some(refused)), ("alive", Some(Outcome::Ok))]
        );
    });
}

/// Reads a request and closes the connection.
#[cfg(feature = "proxy")]
async fn slams() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    use tokio::io::AsyncReadExt;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4_096];
            if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                counted.fetch_add(1, Relaxed);
            }
        }
    });
    (address, requests)
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn after_sending_only_what_is_idempotent_is_sent_again() {
    for (method, fails) in [
        (Method::GET, false),
        (Method::PUT, false),
        (Method::POST, true),
    ] {
        let (address, slammed) = slams().await;
        let origin = Origin::named("alive").await;
        let service = FailoverLayer::new().layer(InOrder {
            inner: evenkeel::proxy::Proxy::new(),
            backends: [
                backend("slams", &format!("http://{address}")),
                backend("alive", &origin.url()),
            ]
            .into(),
        });
        let mut request = request(method.clone(), "payload");
        *request.uri_mut() = "http://service.example/".parse().unwrap();
        let answer = service.oneshot(request).await;
        assert_eq!(slammed.load(Relaxed), 1, "{method} must be sent there once");
        assert_eq!(answer.is_err(), fails, "{method}");
        assert_eq!(origin.requests(), usize::from(!fails), "{method}");
    }
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn with_every_backend_dead_the_client_learns_why() {
    let service = FailoverLayer::new().layer(InOrder {
        inner: evenkeel::proxy::Proxy::new(),
        backends: [backend("dead", &format!("http://{}", refused()))].into(),
    });
    let mut request = request(Method::GET, "");
    *request.uri_mut() = "http://service.example/".parse().unwrap();
    let error = service.oneshot(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "not that none is left");
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn no_request_fails_when_one_of_three_backends_dies() {
    use std::time::Duration;

    use evenkeel::{Pool, balance::BalanceLayer, health::HealthLayer, proxy::Proxy};
    use tower::ServiceBuilder;

    let (a, b, c) = (
        Origin::named("a").await,
        Origin::named("b").await,
        Origin::named("c").await,
    );
    let pool = Pool::new([
        backend("a", &a.url()),
        backend("b", &b.url()),
        backend("c", &c.url()),
    ])
    .unwrap();
    let service = ServiceBuilder::new()
        .layer(FailoverLayer::new())
        .layer(BalanceLayer::new(pool.clone()))
        .layer(HealthLayer::new(pool.clone()))
        .service(Proxy::new());
    let mut clients = tokio::task::JoinSet::new();
    let answered = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (service, answered) = (service.clone(), answered.clone());
        clients.spawn(async move {
            loop {
                let mut request = request(Method::GET, "");
                *request.uri_mut() = "http://service.example/".parse().unwrap();
                let response = service.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
                answered.fetch_add(1, Relaxed);
            }
        });
    }
    let wait_until = async |what: &str, holds: &dyn Fn() -> bool| {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("{what}"));
    };
    let origins = [&a, &b, &c];
    wait_until("all three must take part", &|| {
        origins.iter().all(|origin| origin.requests() > 20)
    })
    .await;
    drop(b);
    wait_until("what fails for live traffic must be taken out", &|| {
        !pool.snapshot().get("b").unwrap().is_usable()
    })
    .await;
    let until = answered.load(Relaxed) + 100;
    wait_until("requests must go on", &|| answered.load(Relaxed) > until).await;
    while let Some(ended) = clients.try_join_next() {
        let () = ended.expect("no client may see a failure");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_could_be_hedged_and_was_answered_in_time_allocates_nothing() {
    use std::{future::poll_fn, task::Poll};

    type Sent = Request<ReplayBody<Full<Bytes>>>;
    // Waits once, as for a socket.
    let inner = service_fn(|_: Sent| {
        let mut waited = false;
        poll_fn(move |_| match std::mem::replace(&mut waited, true) {
            false => Poll::Pending,
            true => Poll::Ready(Ok::<_, Error>(Response::new(()))),
        })
    });
    let layer = FailoverLayer::new().hedge(evenkeel::failover::Hedge::new());
    let mut service = layer
        .timeout(std::time::Duration::from_secs(30))
        .unwrap()
        .layer(inner);
    for round in 0..600 {
        let mut request = request(Method::GET, "");
        Exchange::of(request.extensions_mut());
        let mut waits = false;
        let mut answered = false;
        let info = allocation_counter::measure(|| {
            let mut call = std::pin::pin!(service.call(request));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            waits = call.as_mut().poll(&mut cx).is_pending();
            answered = matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(_)));
        });
        assert!(waits && answered);
        // The wheel takes the place back; once it has turned twice, it has grown as it will.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert!(
            round < 590 || info.count_total == 0,
            "round {round}: {}",
            info.count_total
        );
    }
}

#[test]
fn a_request_without_a_body_allocates_nothing_and_one_with_a_body_twice() {
    type Sent = Request<ReplayBody<Full<Bytes>>>;
    let inner = service_fn(|_: Sent| std::future::ready(Ok::<_, Error>(Response::new(()))));
    let mut service = FailoverLayer::new().layer(inner);
    for (body, allocations) in [("", 0), ("some", 2)] {
        let request = request(Method::PUT, body);
        let mut answer = None;
        let info = allocation_counter::measure(|| {
            let mut call = std::pin::pin!(service.call(request));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            answer = Some(call.as_mut().poll(&mut cx));
        });
        assert!(matches!(answer, Some(std::task::Poll::Ready(Ok(_)))));
        assert_eq!(info.count_total, allocations, "with the body {body:?}");
    }
}
