//! Balance alone around a foreign service, on a paused clock.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Error, ErrorKind, Pool,
    balance::{BalanceLayer, LeastRequests},
    context::{Exchange, Outcome, Selected, StickyVerdict, Tunnel},
    pool::{HealthStatus, Measurement, Reason},
};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{sync::mpsc, time::Instant};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

fn backend(id: &str) -> Backend {
    Backend::new(id, "http://127.0.0.1:1").unwrap()
}

fn pool(ids: &[&str]) -> Pool {
    Pool::new(ids.iter().map(|id| backend(id))).unwrap()
}

fn request(exchange: &Exchange) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(exchange.clone());
    request
}

fn outcomes(exchange: &Exchange) -> Vec<Option<Outcome>> {
    exchange.attempts(|all| all.iter().map(|a| a.outcome).collect())
}

fn in_flight(pool: &Pool) -> u32 {
    pool.snapshot()
        .backends()
        .iter()
        .map(Backend::in_flight)
        .sum()
}

/// A body fed from outside.
struct Fed {
    frames: mpsc::UnboundedReceiver<Result<Bytes, Error>>,
    last: bool,
}

type Feed = mpsc::UnboundedSender<Result<Bytes, Error>>;

impl Fed {
    fn new() -> (Feed, Self) {
        let (feed, frames) = mpsc::unbounded_channel();
        let last = false;
        (feed, Self { frames, last })
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let next = std::task::ready!(self.frames.poll_recv(cx));
        self.last = self.frames.is_closed() && self.frames.is_empty();
        Poll::Ready(next.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.last
    }
}

#[tokio::test]
async fn alone_it_spreads_requests_over_a_foreign_service() {
    let pool = pool(&["a", "b", "c"]);
    let mut service =
        BalanceLayer::new(pool.clone()).layer(service_fn(|request: Request<()>| async move {
            let Selected(backend) = request.extensions().get().unwrap();
            let id = backend.id().to_owned();
            assert_eq!(
                backend.in_flight(),
                1,
                "the request must count as in flight"
            );
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(id))))
        }));
    let mut counts = HashMap::new();
    for _ in 0..30 {
        let response = service.ready().await.unwrap().call(Request::new(())).await;
        let body = response.unwrap().into_body().collect().await.unwrap();
        *counts.entry(body.to_bytes()).or_insert(0) += 1;
        assert_eq!(in_flight(&pool), 0, "a body that ended must free its slot");
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|&count| count == 10), "{counts:?}");
}

#[tokio::test]
async fn the_decision_is_recorded() {
    let pool = pool(&["a", "b"]);
    let exchange = Exchange::new();
    BalanceLayer::new(pool)
        .strategy(LeastRequests::new())
        .layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }))
        .oneshot(request(&exchange))
        .await
        .unwrap();
    assert_eq!(exchange.decision(), Some(("least-requests", 2)));
    assert_eq!(
        outcomes(&exchange),
        [Some(Outcome::Ok)],
        "ended at the head"
    );
    assert!(exchange.answered_by().is_some());
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_is_over() {
    enum End {
        Closed,
        Dropped,
        Failed,
        LastFrame,
    }
    for (end, expected) in [
        (End::Closed, Outcome::Ok),
        (End::Dropped, Outcome::Cancelled),
        (End::Failed, Outcome::Failed(ErrorKind::ResponseBody)),
        (End::LastFrame, Outcome::Ok),
    ] {
        let pool = pool(&["a"]);
        let exchange = Exchange::new();
        let (feed, body) = Fed::new();
        let (mut service, mut handle) = mock::pair::<Request<()>, Response<Fed>>();
        handle.allow(1);
        let balance = BalanceLayer::new(pool.clone()).layer(service.ready().await.unwrap().clone());
        let call = tokio::spawn(balance.oneshot(request(&exchange)));
        let (_, send) = handle.next_request().await.unwrap();
        send.send_response(Response::new(body));
        let mut body = call.await.unwrap().unwrap().into_body();
        feed.send(Ok(Bytes::from_static(b"one"))).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(in_flight(&pool), 1, "a body that goes on is in flight");
        assert_eq!(outcomes(&exchange), [None]);
        match end {
            End::Closed => {
                drop(feed);
                assert!(body.frame().await.is_none());
            }
            End::Dropped => drop(body),
            End::Failed => {
                let error = Error::new(ErrorKind::ResponseBody);
                feed.send(Err(error)).unwrap();
                assert!(body.frame().await.unwrap().is_err());
            }
            End::LastFrame => {
                feed.send(Ok(Bytes::from_static(b"two"))).unwrap();
                drop(feed);
                assert!(body.frame().await.unwrap().is_ok());
                assert!(body.is_end_stream(), "hyper asks no more then");
            }
        }
        assert_eq!(in_flight(&pool), 0, "the slot must be free: {expected:?}");
        assert_eq!(outcomes(&exchange), [Some(expected)]);
    }
}

#[tokio::test]
async fn an_error_ends_the_attempt_and_passes_through() {
    let pool = pool(&["a", "b"]);
    let exchange = Exchange::new();
    let service = BalanceLayer::new(pool.clone()).layer(service_fn(|request: Request<()>| async {
        let (head, ()) = request.into_parts();
        let error = Error::new(ErrorKind::Connect).with_unsent(head);
        Err::<Response<Empty<Bytes>>, _>(BoxError::from(error))
    }));
    let mut error = service.oneshot(request(&exchange)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.take_unsent().is_some(), "the head must be given back");
    let failed = Some(Outcome::Failed(ErrorKind::Connect));
    assert_eq!(outcomes(&exchange), [failed]);
    assert!(exchange.answered_by().is_none());
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test]
async fn a_dropped_future_is_a_cancelled_attempt() {
    let pool = pool(&["a"]);
    let exchange = Exchange::new();
    let mut service = BalanceLayer::new(pool.clone()).layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let future = service.ready().await.unwrap().call(request(&exchange));
    assert_eq!(in_flight(&pool), 1);
    drop(future);
    assert_eq!(in_flight(&pool), 0);
    assert_eq!(outcomes(&exchange), [Some(Outcome::Cancelled)]);
}

#[tokio::test]
async fn a_tunnel_is_in_flight_until_it_closes() {
    let pool = pool(&["a"]);
    let exchange = Exchange::new();
    let tunnel = Tunnel::new();
    let opened = tunnel.clone();
    let response = BalanceLayer::new(pool.clone())
        .layer(service_fn(move |_: Request<()>| {
            let mut response = Response::new(Empty::<Bytes>::new());
            response.extensions_mut().insert(opened.clone());
            async { Ok::<_, Infallible>(response) }
        }))
        .oneshot(request(&exchange))
        .await
        .unwrap();
    drop(response);
    assert_eq!(in_flight(&pool), 1, "the head's end is not the tunnel's");
    tunnel.close();
    assert_eq!(in_flight(&pool), 0);
    assert_eq!(outcomes(&exchange), [Some(Outcome::Ok)]);
}

#[tokio::test]
async fn a_retry_goes_to_another_backend_until_all_were_tried() {
    let pool = pool(&["a", "b", "c"]);
    let exchange = Exchange::new();
    let mut service = BalanceLayer::new(pool).layer(service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(Error::new(ErrorKind::Connect))
    }));
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let call = service.ready().await.unwrap().call(request(&exchange));
        kinds.push(call.await.unwrap_err().kind());
    }
    let connect = ErrorKind::Connect;
    assert_eq!(kinds, [connect, connect, connect, ErrorKind::NoBackend]);
    exchange.attempts(|all| {
        let mut ids: Vec<_> = all.iter().map(|a| a.backend.id()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a", "b", "c"], "each must be tried once");
    });
}

#[tokio::test]
async fn after_two_failures_in_a_region_the_next_attempt_goes_to_another() {
    use evenkeel::pool::Locality;
    let member = |id: &str, place| backend(id).locality(Locality::new(place).unwrap());
    // Many in a region and one overseas: chance alone would not find it.
    let near = (0..40).map(|n| member(&format!("near{n}"), "eu/eu-1/r1"));
    let zone = (0..20).map(|n| member(&format!("zone{n}"), "eu/eu-2/r1"));
    let pool = Pool::new(near.chain(zone).chain([member("far", "us/us-1/r1")])).unwrap();
    let service = BalanceLayer::new(pool).layer(service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(Error::new(ErrorKind::Connect))
    }));
    for _ in 0..20 {
        let exchange = Exchange::new();
        for _ in 0..4 {
            let call = service.clone().oneshot(request(&exchange));
            call.await.unwrap_err();
        }
        let ids: Vec<String> =
            exchange.attempts(|all| all.iter().map(|a| a.backend.id().to_owned()).collect());
        let far = ids.iter().position(|id| id == "far");
        assert!(
            far.is_some_and(|at| at <= 2),
            "the third at the latest: {ids:?}"
        );
        // And then to another zone, where there is no other region left.
        let zones: Vec<bool> = ids.iter().map(|id| id.starts_with("zone")).collect();
        if !zones[0] && !zones[1] && far == Some(2) {
            assert!(zones[3], "{ids:?}");
        }
    }
}

async fn sent(pool: &Pool, exchange: &Exchange) -> Option<StickyVerdict> {
    BalanceLayer::new(pool.clone())
        .layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }))
        .oneshot(request(exchange))
        .await
        .unwrap();
    exchange.sticky_verdict()
}

#[tokio::test]
async fn the_backend_asked_for_gets_the_request_if_it_can() {
    let a = backend("a").max_in_flight(1).unwrap();
    let pool = Pool::new([a, backend("b")]).unwrap();
    let asked = pool.snapshot().get("a").unwrap().clone();
    let asking = || {
        let exchange = Exchange::new();
        exchange.set_affinity(asked.clone());
        exchange
    };
    let went = |exchange: &Exchange| exchange.backend().unwrap().id().to_owned();

    for _ in 0..4 {
        let exchange = asking();
        assert_eq!(sent(&pool, &exchange).await, Some(StickyVerdict::Valid));
        assert_eq!(went(&exchange), "a");
    }

    let exchange = asking();
    let busy = evenkeel::pool::Lease::acquire(&asked);
    let verdict = sent(&pool, &exchange).await;
    assert_eq!(verdict, Some(StickyVerdict::OverCapacity));
    assert_eq!(went(&exchange), "b");
    drop(busy);

    pool.drain("a", Duration::from_secs(60)).unwrap();
    let exchange = asking();
    assert_eq!(sent(&pool, &exchange).await, Some(StickyVerdict::Draining));
    assert_eq!(
        went(&exchange),
        "a",
        "a draining backend keeps its sessions"
    );

    pool.start_maintenance("a").unwrap();
    let exchange = asking();
    assert_eq!(sent(&pool, &exchange).await, Some(StickyVerdict::Down));
    assert_eq!(went(&exchange), "b");

    pool.mark_ready("a").unwrap();
    let exchange = asking();
    let first = exchange.begin_attempt(asked.clone());
    exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
    assert_eq!(sent(&pool, &exchange).await, Some(StickyVerdict::Down));
    assert_eq!(went(&exchange), "b", "what was tried is not tried again");

    let unlinked = Exchange::new();
    unlinked.set_affinity(backend("a"));
    let verdict = sent(&pool, &unlinked).await;
    assert_eq!(verdict, None, "another pool's backend is not this one's");
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_backend_it_fails_at_once() {
    let pool = pool(&["a"]);
    pool.start_maintenance("a").unwrap();
    let exchange = Exchange::new();
    let began = Instant::now();
    let error = BalanceLayer::new(pool)
        .layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }))
        .oneshot(request(&exchange))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoBackend);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(exchange.backend().is_none(), "no attempt was made");
}

/// Backend `a` takes one request at a time.
fn narrow() -> Pool {
    Pool::new([backend("a").max_in_flight(1).unwrap()]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_room_in_their_order() {
    let (service, mut handle) = mock::pair::<Request<u32>, Response<Full<Bytes>>>();
    handle.allow(10);
    let pool = narrow();
    let balance = BalanceLayer::new(pool.clone()).layer(service);
    let calls: Vec<_> = (0..4)
        .map(|number| {
            let call = balance.clone().oneshot(Request::new(number));
            tokio::spawn(async move { call.await.map(drop).map_err(|e| e.kind()) })
        })
        .collect();
    for number in 0..4 {
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(
            *request.body(),
            number,
            "the first to wait is the first to go"
        );
        assert_eq!(in_flight(&pool), 1, "no more than the cap may be in flight");
        tokio::time::sleep(Duration::from_millis(500)).await;
        send.send_response(Response::new(Full::default()));
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_request_does_not_overtake_waiting_ones() {
    let (service, mut handle) = mock::pair::<Request<&str>, Response<Full<Bytes>>>();
    handle.allow(10);
    let pool = narrow();
    let mut balance = BalanceLayer::new(pool.clone()).layer(service);
    let busy = evenkeel::pool::Lease::acquire(&pool.snapshot().backends()[0]);
    let waiting = tokio::spawn(balance.clone().oneshot(Request::new("waiting")));
    tokio::task::yield_now().await;
    // The slot is free, and the waiter, woken, did not have its turn on the thread yet.
    drop(busy);
    let newcomer = balance
        .ready()
        .await
        .unwrap()
        .call(Request::new("newcomer"));
    let newcomer = tokio::spawn(newcomer);
    for expected in ["waiting", "newcomer"] {
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(*request.body(), expected);
        send.send_response(Response::new(Full::default()));
    }
    assert!(waiting.await.unwrap().is_ok());
    assert!(newcomer.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gives_up_waiting_passes_its_turn_on() {
    let pool = narrow();
    let busy = evenkeel::pool::Lease::acquire(&pool.snapshot().backends()[0]);
    let balance = BalanceLayer::new(pool.clone()).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let calls = [(); 3].map(|()| tokio::spawn(balance.clone().oneshot(Request::new(()))));
    tokio::task::yield_now().await;
    let [first, second, third] = calls;
    first.abort();
    second.abort();
    tokio::task::yield_now().await;
    drop(busy);
    let began = Instant::now();
    assert!(third.await.unwrap().is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test]
async fn a_request_costs_one_allocation_beside_the_record() {
    let pool = pool(&["a", "b"]);
    let mut service = BalanceLayer::new(pool).layer(service_fn(|_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    let exchange = Exchange::new();
    let mut first = Some(request(&exchange));
    // The layers above made the record.
    let info = allocation_counter::measure(|| {
        let mut call = std::pin::pin!(service.call(first.take().unwrap()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_ready());
    });
    assert_eq!(info.count_total, 1, "Selected, and nothing else");
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_number_and_time() {
    let pool = narrow();
    let busy = evenkeel::pool::Lease::acquire(&pool.snapshot().backends()[0]);
    let balance = BalanceLayer::new(pool.clone())
        .queue_size(2)
        .queue_timeout(Duration::from_secs(3))
        .layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let began = Instant::now();
    let call = || {
        let call = balance.clone().oneshot(Request::new(()));
        tokio::spawn(async move { call.await.map(drop) })
    };
    let waiting = [call(), call()];
    tokio::task::yield_now().await;
    let error = call().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.retry_after().is_some());
    assert_eq!(began.elapsed(), Duration::ZERO, "it must not wait");
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueTimeout);
        assert!(error.retry_after().is_some());
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }
    let next = call();
    tokio::task::yield_now().await;
    drop(busy);
    assert!(
        next.await.unwrap().is_ok(),
        "places in the queue must come back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_another_backend_without_a_turn_in_line() {
    let caps = ["a", "b"].map(|id| backend(id).max_in_flight(1).unwrap());
    let pool = Pool::new(caps).unwrap();
    let snapshot = pool.snapshot();
    let [a, b] = [&snapshot.backends()[0], &snapshot.backends()[1]];
    let mut busy = [a, b].map(evenkeel::pool::Lease::acquire);
    let balance =
        BalanceLayer::new(pool.clone()).layer(service_fn(|request: Request<()>| async move {
            let Selected(backend) = request.extensions().get().unwrap();
            let id = backend.id().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(id))))
        }));
    let retry = Exchange::new();
    let first = retry.begin_attempt(a.clone());
    retry.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
    let retried = tokio::spawn(balance.clone().oneshot(request(&retry)));
    tokio::task::yield_now().await;
    let other = tokio::spawn(balance.oneshot(Request::new(())));
    tokio::task::yield_now().await;
    let began = Instant::now();
    busy[0] = None;
    let other = other.await.unwrap().unwrap();
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "the slot wakes a request that can use it"
    );
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes(), "a");
    busy[1] = None;
    let retried = retried.await.unwrap().unwrap();
    assert_eq!(retried.into_body().collect().await.unwrap().to_bytes(), "b");
}

#[tokio::test(start_paused = true)]
async fn held_backends_are_waited_for() {
    let ok = || Reason::new("L7OK", "");
    for (health, expected) in [
        (Some(HealthStatus::Healthy), Ok(())),
        (Some(HealthStatus::Unhealthy), Err(ErrorKind::NoBackend)),
        (None, Err(ErrorKind::QueueTimeout)),
    ] {
        let pool = pool(&["a"]);
        let guard = pool.attach_prober();
        let balance = BalanceLayer::new(pool.clone()).layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let began = Instant::now();
        let call = tokio::spawn(balance.oneshot(Request::new(())));
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(!call.is_finished(), "a held backend is waited for");
        let member = pool.snapshot().backends()[0].clone();
        if let Some(health) = health {
            pool.measure(&member, Measurement::new(health, ok()).streak(1));
        }
        let result = call.await.unwrap().map(drop).map_err(|e| e.kind());
        assert_eq!(result, expected);
        let waited = began.elapsed().as_secs();
        assert_eq!(waited, if health.is_some() { 7 } else { 10 });
        drop(guard);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    let caps = ["a", "b"].map(|id| backend(id).max_in_flight(1).unwrap());
    let pool = Pool::new(caps).unwrap();
    let balance = BalanceLayer::new(pool.clone())
        .queue_size(10_000)
        .queue_timeout(Duration::from_secs(60))
        .layer(service_fn(|_: Request<()>| async {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let calls: Vec<_> = (0..2_000)
        .map(|_| {
            let call = balance.clone().oneshot(Request::new(()));
            tokio::spawn(async move { call.await.map(drop).map_err(|e| e.kind()) })
        })
        .collect();
    // A lost wake-up would leave one waiting for its time-out.
    let all = async {
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(
        in_time.is_ok(),
        "a waiter must not sleep beside a free slot"
    );
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test(start_paused = true)]
async fn leases_balance_whatever_happens() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let caps = ["a", "b", "c"].map(|id| backend(id).max_in_flight(2).unwrap());
        let pool = Pool::new(caps).unwrap();
        let (service, mut handle) = mock::pair::<Request<()>, Response<Fed>>();
        handle.allow(1_000);
        let balance = BalanceLayer::new(pool.clone())
            .queue_timeout(Duration::from_millis(700))
            .layer(service);
        let mut exchanges = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..30 {
            let exchange = Exchange::new();
            let call = balance.clone().oneshot(request(&exchange));
            exchanges.push(exchange);
            let patience = Duration::from_millis(random.u64(..2_000));
            calls.push(tokio::spawn(async move {
                let read = async {
                    let body = call.await?.into_body();
                    body.collect().await.map(drop)
                };
                let _ = tokio::time::timeout(patience, read).await;
            }));
        }
        let server = tokio::spawn(async move {
            while let Some((_request, send)) = handle.next_request().await {
                match random.u8(..4) {
                    0 => send.send_error(Error::new(ErrorKind::ResponseClosed)),
                    1 => drop(send),
                    2 => {
                        let (feed, body) = Fed::new();
                        send.send_response(Response::new(body));
                        let _ = feed.send(Err(Error::new(ErrorKind::ResponseBody)));
                    }
                    _ => {
                        let (feed, body) = Fed::new();
                        send.send_response(Response::new(body));
                        let pause = Duration::from_millis(random.u64(..300));
                        tokio::spawn(async move {
                            tokio::time::sleep(pause).await;
                            let _ = feed.send(Ok(Bytes::from_static(b"x")));
                        });
                    }
                }
                assert!(_request.extensions().get::<Selected>().is_some());
            }
        });
        for call in calls {
            call.await.unwrap();
        }
        drop(balance);
        server.await.unwrap();
        assert_eq!(
            in_flight(&pool),
            0,
            "seed {seed}: every lease must come back"
        );
        for exchange in exchanges {
            let ended = outcomes(&exchange).iter().all(Option::is_some);
            assert!(ended, "seed {seed}: every attempt must end");
        }
    }
}

#[test]
fn layer_and_service_fit_axum_and_threads() {
    fn fits<T: Clone + Send + Sync + 'static>(_: &T) {}
    let layer = BalanceLayer::new(pool(&["a"]));
    fits(&layer);
    fits(&layer.layer(()));
    let _ = format!("{layer:?}");
    // One strategy and one queue for all the services that a layer makes.
    let _ = (layer.clone().layer(()), layer.layer(()));
}

#[cfg(feature = "sticky")]
#[tokio::test]
async fn below_sticky_a_session_stays_and_moves_once() {
    use evenkeel::sticky::{Keys, StickyLayer};
    use http::header::{COOKIE, SET_COOKIE};

    let pool = pool(&["a", "b", "c"]);
    // Backend `a` refuses connections while it is said to be down.
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refuses = down.clone();
    let balance = BalanceLayer::new(pool.clone()).layer(service_fn(move |r: Request<()>| {
        let Selected(backend) = r.extensions().get().unwrap();
        let id = backend.id().to_owned();
        let refused = id == "a" && refuses.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            if refused {
                return Err(Error::new(ErrorKind::Connect));
            }
            Ok(Response::new(Full::new(Bytes::from(id))))
        }
    }));
    // A retry between the two, as failover is.
    let retried = service_fn(move |request: Request<()>| {
        let balance = balance.clone();
        async move {
            match balance.clone().oneshot(request.clone()).await {
                Err(error) if error.is_connect() => balance.oneshot(request).await,
                result => result,
            }
        }
    });
    let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32])).layer(retried);
    let visit = async |cookie: Option<&http::HeaderValue>| {
        let exchange = Exchange::new();
        let mut request = request(&exchange);
        if let Some(cookie) = cookie {
            request.headers_mut().insert(COOKIE, cookie.clone());
        }
        let response = sticky.clone().oneshot(request).await.unwrap();
        let cookie = response.headers().get(SET_COOKIE).map(|value| {
            let pair = value.to_str().unwrap().split(';').next().unwrap();
            http::HeaderValue::from_str(pair).unwrap()
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (body, cookie, exchange.sticky_verdict())
    };

    let (first, cookie, verdict) = visit(None).await;
    assert_eq!(
        (&first[..], verdict),
        (&b"a"[..], Some(StickyVerdict::None))
    );
    for _ in 0..5 {
        let (body, again, verdict) = visit(cookie.as_ref()).await;
        assert_eq!(
            (&body[..], verdict),
            (&b"a"[..], Some(StickyVerdict::Valid))
        );
        assert!(again.is_none(), "the cookie is set once");
    }

    down.store(true, std::sync::atomic::Ordering::Relaxed);
    let (body, moved, verdict) = visit(cookie.as_ref()).await;
    assert_ne!(&body[..], b"a");
    assert_eq!(verdict, Some(StickyVerdict::Down));
    assert!(
        moved.is_some(),
        "the cookie names the backend that answered"
    );
    let (stays, again, verdict) = visit(moved.as_ref()).await;
    assert_eq!((stays, verdict), (body, Some(StickyVerdict::Valid)));
    assert!(again.is_none(), "a session moves once");
}

#[cfg(feature = "sticky")]
#[tokio::test]
async fn above_sticky_the_request_is_served_nevertheless() {
    use evenkeel::sticky::{Keys, StickyLayer};

    let pool = pool(&["a"]);
    let inner = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32])).layer(inner);
    let exchange = Exchange::new();
    let wrong = BalanceLayer::new(pool).layer(sticky);
    assert!(wrong.oneshot(request(&exchange)).await.is_ok());
    assert_eq!(outcomes(&exchange), [Some(Outcome::Ok)]);
}

/// Answers with the id of the backend that was picked.
fn names() -> impl Service<
    Request<()>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>,
> + Clone
+ Send
+ 'static {
    service_fn(|request: Request<()>| {
        let Selected(backend) = request.extensions().get().unwrap();
        let id = backend.id().to_owned();
        std::future::ready(Ok(Response::new(Full::new(Bytes::from(id)))))
    })
}

fn down() -> Measurement {
    Measurement::new(HealthStatus::Unhealthy, Reason::new("L4CON", "refused")).streak(2)
}

#[tokio::test]
async fn a_half_open_backend_is_tried_by_one_repeatable_request_at_a_time() {
    let pool = pool(&["a", "b"]);
    let a = pool.snapshot().get("a").unwrap().clone();
    let b = pool.snapshot().get("b").unwrap().clone();
    let balance = BalanceLayer::new(pool.clone()).layer(names());
    let send = |method: http::Method, exchange: &Exchange| {
        let mut request = request(exchange);
        *request.method_mut() = method;
        balance.clone().oneshot(request)
    };
    let body = async |response: Response<_>| {
        let collected: Bytes = BodyExt::collect(response.into_body())
            .await
            .map(|b: http_body_util::Collected<Bytes>| b.to_bytes())
            .unwrap();
        collected
    };
    pool.eject(&a, Reason::new("L7STS", "503"), 5, 0.5);
    let get = || send(http::Method::GET, &Exchange::new());
    assert_eq!(body(get().await.unwrap()).await, "b", "open: no trial");
    assert!(pool.begin_trial(&a));
    let post = send(http::Method::POST, &Exchange::new()).await.unwrap();
    assert_eq!(body(post).await, "b", "what cannot be repeated is no trial");
    let retry = Exchange::new();
    let first = retry.begin_attempt(Backend::new("gone", "http://x").unwrap());
    retry.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
    let again = send(http::Method::GET, &retry).await.unwrap();
    assert_eq!(body(again).await, "b", "nor is a second try");
    let elsewhere = Exchange::new();
    elsewhere.set_affinity(b);
    let sticky = send(http::Method::GET, &elsewhere).await.unwrap();
    assert_eq!(
        body(sticky).await,
        "b",
        "no trial for a session of another backend"
    );
    let trial = get().await.unwrap();
    assert_eq!(a.in_flight(), 1, "this one is");
    assert_eq!(body(get().await.unwrap()).await, "b", "one at a time");
    assert_eq!(body(trial).await, "a");
    let own = Exchange::new();
    own.set_affinity(a.clone());
    let trial = send(http::Method::GET, &own).await.unwrap();
    assert_eq!(body(trial).await, "a", "its own session may, too");
    assert_eq!(own.sticky_verdict(), Some(StickyVerdict::Valid));
    assert!(pool.end_trial(&a));
    assert_eq!(body(get().await.unwrap()).await, "b");
}

#[tokio::test]
async fn a_session_leaves_an_evacuated_locality_and_a_panic_is_recorded() {
    use evenkeel::pool::{Locality, PanicRouting, Routing};

    let placed = |id, place| backend(id).locality(Locality::new(place).unwrap());
    let pool = Pool::new([
        placed("a", "eu/1"),
        placed("b", "eu/2"),
        placed("c", "us/1"),
    ])
    .unwrap();
    let a = pool.snapshot().get("a").unwrap().clone();
    let balance = BalanceLayer::new(pool.clone()).layer(names());
    let visit = async || {
        let exchange = Exchange::new();
        exchange.set_affinity(a.clone());
        let result = balance.clone().oneshot(request(&exchange)).await;
        let id = exchange.backend().map(|b| b.id().to_owned());
        (result.map(drop).map_err(|e| e.kind()), id, exchange)
    };
    assert_eq!(visit().await.1.as_deref(), Some("a"));
    let region = Locality::new("eu").unwrap();
    pool.evacuate(&region);
    let (_, id, exchange) = visit().await;
    assert_eq!(id.as_deref(), Some("c"));
    assert_eq!(exchange.sticky_verdict(), Some(StickyVerdict::Down));
    pool.restore(&region);
    assert_eq!(visit().await.1.as_deref(), Some("a"));

    let all = pool.snapshot().backends().to_vec();
    for backend in &all {
        pool.measure(backend, down());
    }
    assert_eq!(visit().await.0, Err(ErrorKind::NoBackend), "fail fast");
    let panic = PanicRouting::UseAll { below: 0.3 };
    pool.update_routing(Routing::new().panic(panic).unwrap());
    let (result, id, exchange) = visit().await;
    assert_eq!((result, id.as_deref()), (Ok(()), Some("a")));
    assert_eq!(exchange.decision(), Some(("panic", 3)));
}

#[tokio::test]
async fn the_tiers_share_as_their_health_says() {
    let tier = |id: String, tier| backend(&id).tier(tier);
    let first = (0..4).map(|n| tier(format!("first{n}"), 0));
    let pool = Pool::new(first.chain([tier("second".into(), 1)])).unwrap();
    let balance = BalanceLayer::new(pool.clone()).layer(names());
    let to_second = async || {
        let mut count = 0;
        for _ in 0..2_000 {
            let exchange = Exchange::new();
            balance.clone().oneshot(request(&exchange)).await.unwrap();
            count += usize::from(exchange.backend().unwrap().id() == "second");
        }
        count
    };
    let members = pool.snapshot().backends().to_vec();
    assert_eq!(to_second().await, 0);
    pool.measure(&members[0], down());
    assert_eq!(to_second().await, 0, "three of four are enough");
    pool.measure(&members[1], down());
    let half = to_second().await;
    assert!((500..700).contains(&half), "30 % of 2,000: {half}");
    pool.measure(&members[2], down());
    let quarter = to_second().await;
    assert!(
        (1_200..1_400).contains(&quarter),
        "65 % of 2,000: {quarter}"
    );
    pool.measure(&members[3], down());
    assert_eq!(to_second().await, 2_000);
}
