use std::{convert::Infallible, future::IntoFuture, net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, ErrorKind, Pool,
    balance::BalanceLayer,
    chaos::{ChaosLayer, Fault, Invariants},
    context::{Exchange, Outcome, Selected},
    failover::FailoverLayer,
    health::HealthLayer,
    proxy::Proxy,
    respond::RespondLayer,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, time::Instant};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::Origin;

type Answer = Response<Full<Bytes>>;

/// A service that responds with a kilobyte of the id of the selected backend.
async fn foreign(request: Request<Full<Bytes>>) -> Result<Answer, Infallible> {
    let selected = request.extensions().get::<Selected>();
    let id = selected.map_or("x", |Selected(backend)| backend.id());
    Ok(Response::new(Full::from(id.repeat(1_000))))
}

fn request() -> Request<Full<Bytes>> {
    Request::new(Full::default())
}

fn alone(
    fault: Fault,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<evenkeel::chaos::ResponseBody<Full<Bytes>>>,
    Error = evenkeel::Error,
> + Clone {
    ChaosLayer::new(1)
        .with_fault(fault)
        .layer(service_fn(foreign))
}

#[tokio::test(start_paused = true)]
async fn around_a_service_of_another_crate_it_delays() {
    let began = Instant::now();
    let slow = alone(Fault::latency(Duration::from_secs(3)));
    let response = slow.oneshot(request()).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 3, "the answer comes later");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 1_000, "and is whole");
}

#[tokio::test(start_paused = true)]
async fn an_abort_gives_the_request_back() {
    for (kind, seen) in [
        (ErrorKind::Connect, false),
        (ErrorKind::ResponseClosed, true),
    ] {
        let mut error = alone(Fault::abort(kind))
            .oneshot(request())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.is_after_sending(), seen, "{kind}");
        assert!(
            error.take_unsent().is_some(),
            "another attempt needs the head"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_injected_without_calling_the_backend() {
    let service = alone(Fault::status(StatusCode::SERVICE_UNAVAILABLE));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_hang_lasts_until_the_caller_gives_up() {
    let hung = alone(Fault::hang()).oneshot(request());
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, hung).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_body_breaks_off_ends_early_or_trickles() {
    let response = alone(Fault::reset(100)).oneshot(request()).await.unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(
        first.len(),
        100,
        "what comes before the reset comes through"
    );
    let error: BoxError = body.frame().await.unwrap().unwrap_err();
    let error = evenkeel::Error::from_boxed(error);
    assert_eq!(error.kind(), ErrorKind::ResponseBody);
    assert!(body.frame().await.is_none(), "nothing follows");

    let response = alone(Fault::truncate(100))
        .oneshot(request())
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 100, "it ends as if it were whole");

    let began = Instant::now();
    let slow = alone(Fault::bandwidth(100).unwrap());
    let response = slow.oneshot(request()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 1_000, "all of it comes");
    assert_eq!(began.elapsed().as_secs(), 10, "at the pace that was set");
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_sequence_of_faults() {
    let run = |seed| async move {
        let fault = Fault::abort(ErrorKind::Connect).share(0.5).unwrap();
        let layer = ChaosLayer::new(seed).with_fault(fault);
        let service = layer.layer(service_fn(foreign));
        let mut outcomes = Vec::new();
        for _ in 0..64 {
            outcomes.push(service.clone().oneshot(request()).await.is_ok());
        }
        outcomes
    };
    let (one, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(one, again, "the same seed meets the same requests");
    assert_ne!(one, other, "another one meets others");
}

#[tokio::test(start_paused = true)]
async fn failover_hides_a_backend_that_is_switched_off_and_on() {
    let pool = Pool::new(["a", "b"].map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap()));
    let pool = pool.unwrap();
    let chaos = ChaosLayer::new(1);
    let switch = chaos.handle();
    let invariants = Invariants::new(&pool);
    let stack = RespondLayer::new().layer(FailoverLayer::new().layer(
        BalanceLayer::new(pool.clone()).layer(chaos.layer(service_fn(|request: Request<_>| {
            let selected = request.extensions().get::<Selected>();
            let id = selected.map_or(String::new(), |s| s.0.id().to_owned());
            async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(id))) }
        }))),
    ));
    for down in ["a", "b"] {
        switch.set([Fault::abort(ErrorKind::Connect).backend(down)]);
        for _ in 0..2 {
            let mut request = request();
            let exchange = Exchange::of(request.extensions_mut());
            let number = invariants.begin(&exchange);
            let response = stack.clone().oneshot(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            invariants.end(number);
            assert_ne!(body, down, "the other backend answers");
            let failed = |o: &Option<Outcome>| matches!(o, Some(Outcome::Failed(_)));
            let failures =
                exchange.attempts(|all| all.iter().filter(|a| failed(&a.outcome)).count());
            assert!(failures <= 1, "one more attempt is enough");
        }
    }
    switch.clear();
    assert_eq!(
        invariants.check(&pool),
        Ok(()),
        "no request is lost, no lease held"
    );
}

/// Sends a request over a socket; returns the status and the number of bytes of the body.
async fn send(address: SocketAddr, marked: bool) -> Result<(StatusCode, usize), BoxError> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::get(format!("http://{address}/"));
    if marked {
        request = request.header("x-chaos", "1");
    }
    let response = client.request(request.body(Full::default())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, body.len()))
}

#[tokio::test]
async fn over_sockets_failover_hides_faults_before_the_response_head_only() {
    const LONG: usize = 100_000;
    let long = |_| async { Response::new(Full::from(vec![b'x'; LONG])) };
    let (a, b) = (Origin::serve(long).await, Origin::serve(long).await);
    let member = |id, origin: &Origin| Backend::new(id, &origin.url()).unwrap();
    let pool = Pool::new([member("a", &a), member("b", &b)]).unwrap();
    let invariants = Invariants::new(&pool);
    let chaos = ChaosLayer::new(1);
    let switch = chaos.handle();
    let health = HealthLayer::new(pool.clone()).no_checks().no_outliers();
    let balance = BalanceLayer::new(pool.clone()).layer(health.layer(chaos.layer(Proxy::new())));
    let stack = RespondLayer::new().layer(FailoverLayer::new().layer(balance));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = evenkeel::serve(listener, invariants.layer(stack)).into_future();
    let served = tokio::spawn(served);

    // Hidden: the other backend answers, whatever happens to the first.
    for kind in [
        ErrorKind::Connect,
        ErrorKind::ConnectTimeout,
        ErrorKind::ResponseClosed,
        ErrorKind::ResponseHeadTimeout,
    ] {
        let before = a.requests();
        switch.set([Fault::abort(kind).backend("a")]);
        // Within the budget of retries.
        for _ in 0..5 {
            assert_eq!(
                send(address, false).await.unwrap(),
                (StatusCode::OK, LONG),
                "{kind}"
            );
        }
        assert_eq!(
            a.requests(),
            before,
            "{kind}: the backend must receive nothing"
        );
    }
    // Not hidden: the client has the head already. Restricted by a header to marked requests.
    let (name, value) = (
        HeaderName::from_static("x-chaos"),
        HeaderValue::from_static("1"),
    );
    let marked = |fault: Fault| fault.header(name.clone(), value.clone());
    switch.set([marked(Fault::reset(1_000))]);
    for _ in 0..4 {
        assert!(
            send(address, true).await.is_err(),
            "a broken body must be an error"
        );
        assert_eq!(send(address, false).await.unwrap(), (StatusCode::OK, LONG));
    }
    switch.set([marked(Fault::status(StatusCode::BAD_GATEWAY))]);
    assert_eq!(
        send(address, true).await.unwrap(),
        (StatusCode::BAD_GATEWAY, 0)
    );
    let began = Instant::now();
    switch.set([marked(Fault::bandwidth(200_000).unwrap())]);
    assert_eq!(send(address, true).await.unwrap(), (StatusCode::OK, LONG));
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "half a second's worth"
    );
    // A client that gives up on a hang is charged to no backend, and leaves no lease behind.
    switch.set([marked(Fault::hang())]);
    let hung = tokio::time::timeout(Duration::from_millis(100), send(address, true));
    assert!(hung.await.is_err());
    switch.clear();
    assert_eq!(send(address, true).await.unwrap(), (StatusCode::OK, LONG));

    let settled = async {
        while invariants.check(&pool).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(30), settled).await;
    assert!(settled.is_ok(), "{:?}", invariants.check(&pool));
    served.abort();
}
