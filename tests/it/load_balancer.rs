//! The stack as a whole: its order, what it costs, and what wrong orders do.

mod cost;
mod drain;
mod extensions;
mod routing;
mod strategies;
mod trials;
mod tunnels;
mod world;

use std::convert::Infallible;

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    balance::BalanceLayer,
    context::Exchange,
    failover::FailoverLayer,
    health::HealthLayer,
    proxy::Proxy,
    respond::RespondLayer,
    sticky::{Keys, StickyLayer},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service, ServiceExt};
use tracing::instrument::WithSubscriber;

use crate::support::{Act, Origin, Scripted, Written, refused};

fn pool(urls: &[String]) -> Pool {
    let ids = ["a", "b", "c", "d"];
    Pool::new(
        ids.iter()
            .zip(urls)
            .map(|(id, url)| Backend::new(*id, url).unwrap()),
    )
    .unwrap()
}

fn sticky(pool: &Pool) -> StickyLayer {
    StickyLayer::new(pool.clone(), Keys::new([7; 32]))
}

fn quiet(pool: &Pool) -> HealthLayer {
    HealthLayer::new(pool.clone()).no_checks().no_outliers()
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("/")
        .header("host", "a")
        .body(Empty::new())
        .unwrap()
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn as_a_client_it_balances_sticks_and_fails_over() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let dead = format!("http://{}", refused());
    let pool = pool(&[a.url(), b.url(), dead]);
    let balancer = LoadBalancer::builder(pool.clone())
        .sticky(sticky(&pool))
        .unwrap()
        .health(quiet(&pool))
        .unwrap()
        .build();
    let mut seen = std::collections::BTreeSet::new();
    let mut cookie = String::new();
    for _ in 0..9 {
        let response = balancer.clone().oneshot(get()).await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::OK,
            "the dead backend is failed over"
        );
        cookie = response.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .into();
        seen.insert(text(response).await);
    }
    assert_eq!(seen.len(), 2);
    let mut kept = std::collections::BTreeSet::new();
    for _ in 0..9 {
        let mut request = get();
        request
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
        let response = balancer.clone().oneshot(request).await.unwrap();
        assert!(!response.headers().contains_key("set-cookie"));
        kept.insert(text(response).await);
    }
    assert_eq!(kept.len(), 1, "a session stays on its node");
}

#[tokio::test]
async fn a_connection_that_was_given_up_is_replaced_without_another_attempt() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const LATE: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // Whether each request is the first attempt of its own, or follows one at a dead backend.
    for attempts in [1, 2] {
        let mut acts = vec![Act::Send(OK); 9];
        acts.extend([Act::SendAndClose(LATE), Act::Send(OK)]);
        let origin = Scripted::play(acts).await;
        let live = Backend::new("live", &format!("http://{}", origin.address)).unwrap();
        let dead = Backend::new("dead", &format!("http://{}", refused())).unwrap();
        let pool = Pool::new(match attempts {
            1 => vec![live],
            _ => vec![live.tier(1), dead],
        })
        .unwrap();
        let failover = FailoverLayer::new().max_attempts(attempts).unwrap();
        let mut balancer = LoadBalancer::builder(pool.clone())
            .health(quiet(&pool))
            .unwrap()
            .failover(failover)
            .build();
        // One service for all, which remembers what it found with the backend.
        for nth in 0..10 {
            let request = get();
            let response = balancer.call(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{nth} of {attempts}");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!(origin.connections(), 2);
        let dead = pool.snapshot().get("dead").map_or(0, Backend::requests);
        assert_eq!(dead, 10 * u64::from(attempts - 1));
    }
}

#[tokio::test]
async fn a_program_sends_requests_of_any_body_and_none_before_a_check_passed() {
    let origin = Origin::named("a").await;
    let mut balancer = LoadBalancer::new(pool(&[origin.url()]));
    let response = balancer.send(get()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(origin.requests() >= 2, "a check, and the request");
    let request = Request::post("/").header("host", "a");
    let request = request.body(Full::<Bytes>::from("x")).unwrap();
    // A future that other threads may run.
    let sending = tokio::spawn(async move { balancer.send(request).await });
    assert_eq!(text(sending.await.unwrap()).await, "a");
}

#[test]
fn a_layer_for_another_pool_is_refused_by_name() {
    let urls = [format!("http://{}", refused())];
    // Equal members do not make it the same pool; a clone is the same.
    let (own, other) = (pool(&urls), pool(&urls));
    let builder = || LoadBalancer::builder(own.clone());
    for (made, field) in [
        (builder().sticky(sticky(&other)), "sticky"),
        (
            builder().balance(BalanceLayer::new(other.clone())),
            "balance",
        ),
        (builder().health(quiet(&other)), "health"),
    ] {
        assert_eq!(made.unwrap_err().field(), field);
    }
    let fine = builder()
        .sticky(sticky(&own))
        .and_then(|builder| builder.balance(BalanceLayer::new(own.clone())))
        .and_then(|builder| builder.health(quiet(&own)));
    assert!(fine.is_ok());
}

#[tokio::test]
async fn all_down_is_503_with_retry_after() {
    let pool = pool(&[format!("http://{}", refused())]);
    pool.start_maintenance("a").unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(quiet(&pool))
        .unwrap()
        .build();
    let response = balancer.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn under_nest_the_backend_sees_the_stripped_path_and_the_log_the_original() {
    let origin = Scripted::play(vec![Act::Send(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    )])
    .await;
    let pool = pool(&[format!("http://{}", origin.address)]);
    let lines = Written::default();
    let sink = Lines::writer(lines.clone()).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(quiet(&pool))
        .unwrap()
        .access_log(AccessLogLayer::new(sink.clone()))
        .build();
    let app = axum::Router::new().nest_service("/api", balancer);
    let request = Request::get("/api/x?q=1")
        .header("host", "a")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = app.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert!(
        origin.last_head().starts_with("GET /x?q=1 HTTP/1.1\r\n"),
        "{}",
        origin.last_head()
    );
    assert!(sink.flush());
    let line: serde_json::Value = serde_json::from_slice(&lines.take()).unwrap();
    assert_eq!(line["path"], "/api/x");
}

/// Runs `test` and returns what it warned about.
async fn warnings<F: Future>(test: F) -> String {
    let lines = Written::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    test.with_subscriber(subscriber).await;
    String::from_utf8(lines.take()).unwrap()
}

#[tokio::test]
async fn a_log_below_respond_warns() {
    let pool = pool(&[format!("http://{}", refused())]);
    let sink = Lines::writer(std::io::sink()).unwrap();
    let core = BalanceLayer::new(pool).layer(Proxy::new());
    let wrong = RespondLayer::new().layer(AccessLogLayer::new(sink).layer(core));
    let said = warnings(async {
        for _ in 0..3 {
            let response = wrong.clone().oneshot(get()).await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        }
    })
    .await;
    assert_eq!(
        said.matches("put RespondLayer below it").count(),
        1,
        "{said}"
    );
}

#[tokio::test]
async fn respond_below_sticky_is_harmless() {
    let dead = pool(&[format!("http://{}", refused())]);
    let core = RespondLayer::new().layer(BalanceLayer::new(dead.clone()).layer(Proxy::new()));
    let response = sticky(&dead).layer(core).oneshot(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(
        !response.headers().contains_key("set-cookie"),
        "a failure is no session"
    );
}

#[tokio::test]
async fn sticky_below_failover_warns_and_moves_the_session() {
    let b = Origin::named("b").await;
    let pool = pool(&[format!("http://{}", refused()), b.url()]);
    let core = sticky(&pool).layer(BalanceLayer::new(pool.clone()).layer(Proxy::new()));
    let wrong = FailoverLayer::new().layer(core);
    let said = warnings(async {
        for _ in 0..4 {
            let response = wrong.clone().oneshot(get()).await.unwrap();
            assert!(response.headers().contains_key("set-cookie"));
            assert_eq!(text(response).await, "b");
        }
    })
    .await;
    assert_eq!(said.matches("place it above both").count(), 1, "{said}");
}

#[tokio::test]
async fn failover_below_balance_tries_the_same_backend() {
    let b = Origin::named("b").await;
    let pool = pool(&[format!("http://{}", refused()), b.url()]);
    let wrong = BalanceLayer::new(pool).layer(FailoverLayer::new().layer(Proxy::new()));
    let mut failed = 0;
    for _ in 0..4 {
        failed += usize::from(wrong.clone().oneshot(get()).await.is_err());
    }
    assert_eq!(
        failed, 2,
        "every request that was picked for the dead backend fails"
    );
}

#[tokio::test]
async fn balance_below_health_judges_nothing() {
    let pool = pool(&[
        format!("http://{}", refused()),
        format!("http://{}", refused()),
    ]);
    let layer = HealthLayer::new(pool.clone()).no_checks();
    let wrong = layer.layer(BalanceLayer::new(pool.clone()).layer(Proxy::new()));
    for _ in 0..20 {
        let error = wrong.clone().oneshot(get()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
    }
    assert_eq!(pool.snapshot().usable(), 2);
}

/// An inner service that answers at once, so that what is counted is the layers'.
fn answer() -> impl Service<
    Request<evenkeel::failover::ReplayBody<evenkeel::access_log::RequestBody<Empty<Bytes>>>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    tower::service_fn(|request: Request<_>| {
        drop(request);
        std::future::ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    })
}

#[test]
fn all_layers_together_cost_two_allocations_over_the_selected_note() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let pool = pool(&["http://127.0.0.1:1".into(), "http://127.0.0.1:2".into()]);
        let sink = Lines::writer(std::io::sink()).unwrap();
        let core = BalanceLayer::new(pool.clone()).layer(quiet(&pool).layer(answer()));
        let core = sticky(&pool).layer(FailoverLayer::new().layer(core));
        let stack = AccessLogLayer::new(sink).layer(RespondLayer::new().layer(core));
        let mut stack = stack;
        let first = stack.ready().await.unwrap().call(get()).await.unwrap();
        let cookie = first.headers()["set-cookie"].clone();
        // As hyper makes them: shared bytes, and extensions that are there already.
        let request = || {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = http::Uri::from_static("/");
            request
                .headers_mut()
                .insert("host", http::HeaderValue::from_static("a"));
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            request
                .headers_mut()
                .insert("cookie", pair.parse().unwrap());
            request
                .extensions_mut()
                .insert(evenkeel::context::ConnInfo::new(
                    evenkeel::context::Peer::Unknown,
                    evenkeel::context::Peer::Unknown,
                ));
            request
        };
        for _ in 0..100 {
            drop(stack.call(request()).await);
        }
        let mut least = u64::MAX;
        for _ in 0..20 {
            let request = request();
            let counted = allocation_counter::measure(|| {
                let mut call = std::pin::pin!(stack.call(request));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                let std::task::Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
                    panic!("the inner service answers at once");
                };
                let mut body = std::pin::pin!(response.into_body());
                while let std::task::Poll::Ready(Some(frame)) =
                    http_body::Body::poll_frame(body.as_mut(), &mut cx)
                {
                    frame.unwrap();
                }
            });
            least = least.min(counted.count_total);
        }
        // The Exchange, its place in the extensions, and the Selected note that a bare Proxy
        // would be given.
        assert_eq!(least, 3, "more than Exchange and Selected was allocated");
        let _ = Exchange::new();
    });
}
