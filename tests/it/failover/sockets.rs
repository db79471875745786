//! Hung and refusing backends over real sockets, through the whole stack.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, LoadBalancer, Pool,
    context::{ConnInfo, Exchange, Outcome, Peer},
    failover::{Budget, FailoverLayer, Hedge},
    health::HealthLayer,
    pool::Locality,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use super::policies::NoPayments;
use crate::support::{Origin, refused};

/// Takes connections and requests and never answers, as a stopped process does; counts what came,
/// and what was closed.
struct Hung {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Hung {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let [connections, requests, closed] = [0; 3].map(|n| Arc::new(AtomicUsize::new(n)));
        let (accepted, came, went) = (connections.clone(), requests.clone(), closed.clone());
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Relaxed);
                let (came, went) = (came.clone(), went.clone());
                running.spawn(async move {
                    let mut buffer = [0; 4_096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        let heads = buffer[..read].windows(4).filter(|w| *w == b"\r\n\r\n");
                        came.fetch_add(heads.count(), Relaxed);
                    }
                    went.fetch_add(1, Relaxed);
                });
            }
        });
        Self {
            url,
            connections,
            requests,
            closed,
            task,
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn request(method: Method, body: &'static str) -> (Request<Full<Bytes>>, Exchange) {
    let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
    *request.method_mut() = method;
    *request.uri_mut() = "http://service.example/path".parse().unwrap();
    let exchange = Exchange::of(request.extensions_mut());
    (request, exchange)
}

fn pool(urls: &[(&str, &str)]) -> Pool {
    Pool::new(urls.iter().map(|(id, url)| Backend::new(*id, url).unwrap())).unwrap()
}

fn balancer(pool: &Pool, layer: FailoverLayer) -> LoadBalancer {
    LoadBalancer::builder(pool.clone())
        .failover(layer)
        .health(HealthLayer::new(pool.clone()).no_checks().no_outliers())
        .unwrap()
        .build()
}

fn hedging() -> FailoverLayer {
    FailoverLayer::new()
        .hedge(Hedge::new())
        .budget(Budget::new(1.0, 100.0).unwrap())
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

async fn a_hung_backend_costs_no_client_more_than_the_delay() {
    let hung = Hung::new().await;
    let (b, c) = (Origin::named("b").await, Origin::named("c").await);
    let pool = pool(&[("hung", &hung.url), ("b", &b.url()), ("c", &c.url())]);
    let balancer = balancer(&pool, hedging());
    let (mut clients, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let balancer = balancer.clone();
        let mut client = Box::pin(async move {
            let (request, exchange) = request(Method::GET, "");
            let began = Instant::now();
            let response = balancer.oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
            let ends = exchange.attempts(|all| {
                let end = |a: &evenkeel::context::Attempt| {
                    let outcome = a.outcome.expect("an open attempt");
                    (a.backend.id() == "hung", outcome)
                };
                all.iter().map(end).collect::<Vec<_>>()
            });
            (began.elapsed(), ends)
        });
        // Picks at its first poll. No hedge can begin before all have: that would take a turn.
        let mut cx = Context::from_waker(Waker::noop());
        match client.as_mut().poll(&mut cx) {
            Poll::Pending => clients.push(client),
            Poll::Ready(end) => ended.push(end),
        }
    }
    let clients: tokio::task::JoinSet<_> = clients.into_iter().collect();
    ended.extend(clients.join_all().await);
    let (mut hedged, mut needless) = (0, 0);
    for (took, ends) in ended {
        // Generous, as the machine may be busy; without a hedge it is 15 s.
        assert!(took < Duration::from_secs(3), "{took:?}");
        let answers = ends.iter().filter(|(_, end)| *end == Outcome::Ok);
        assert!(answers.eq([&(false, Outcome::Ok)]), "one answers: {ends:?}");
        match ends[0] {
            (true, outcome) => {
                assert_eq!(outcome, Outcome::Hedged, "{ends:?}");
                hedged += 1;
            }
            // On a busy machine a good one may take long: its hedge may be what hangs.
            (false, _) => {
                assert!(!ends.contains(&(true, Outcome::Hedged)), "{ends:?}");
                needless += ends.iter().filter(|(hung, _)| *hung).count();
            }
        }
    }
    assert_eq!(hedged, 20, "each third request");
    let backends = ["hung", "b", "c"].map(|id| pool.snapshot().get(id).unwrap().clone());
    for backend in &backends {
        assert_eq!(
            backend.in_flight(),
            0,
            "{}: every lease comes back",
            backend.id()
        );
    }
    // Where a machine is very busy, the hedge may win before the request is written.
    eventually("a loser's connection must be closed", || {
        let closed = hung.closed.load(Relaxed);
        closed >= hedged && closed == hung.connections.load(Relaxed)
    })
    .await;
    let came = hung.connections.load(Relaxed);
    assert!(
        came <= hedged + needless,
        "{came} came to what hangs, {hedged} first and {needless} as hedges"
    );
}

#[tokio::test]
async fn a_hung_backend_costs_no_client_more_than_the_delay_on_one_thread() {
    a_hung_backend_costs_no_client_more_than_the_delay().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_hung_backend_costs_no_client_more_than_the_delay_on_many_threads() {
    a_hung_backend_costs_no_client_more_than_the_delay().await;
}

#[tokio::test]
async fn a_post_that_may_have_been_read_is_never_sent_again() {
    for (method, body, sent) in [
        (Method::POST, "", 1),
        (Method::POST, "payload", 1),
        (Method::PATCH, "payload", 1),
        (Method::PUT, "payload", 2),
    ] {
        let (one, two) = (Hung::new().await, Hung::new().await);
        let pool = pool(&[("one", &one.url), ("two", &two.url)]);
        let layer = hedging()
            .per_try_timeout(Duration::from_millis(150))
            .unwrap();
        let balancer = balancer(&pool, layer);
        let (request, exchange) = request(method.clone(), body);
        let response = balancer.oneshot(request).await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::GATEWAY_TIMEOUT,
            "{method} {body:?}"
        );
        let attempts = exchange.attempts(<[_]>::len);
        assert_eq!(attempts, sent, "{method} {body:?}: {exchange:?}");
        eventually("what was sent must arrive", || {
            one.requests.load(Relaxed) + two.requests.load(Relaxed) == sent
        })
        .await;
        for id in ["one", "two"] {
            assert_eq!(pool.snapshot().get(id).unwrap().in_flight(), 0, "{method}");
        }
    }
}

#[tokio::test]
async fn a_payment_is_sent_once_though_its_backend_answers_503_or_hangs() {
    let busy = Origin::serve(|_| async {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let hung = Hung::new().await;
    let good = Origin::named("good").await;
    for (path, url, wanted) in [
        ("pay", busy.url(), StatusCode::SERVICE_UNAVAILABLE),
        ("order", busy.url(), StatusCode::OK),
        ("pay", hung.url.clone(), StatusCode::GATEWAY_TIMEOUT),
        ("order", hung.url.clone(), StatusCode::OK),
    ] {
        // The tiers make the other one the first.
        let first = Backend::new("first", &url).unwrap();
        let second = Backend::new("second", &good.url()).unwrap().tier(1);
        let pool = Pool::new([first, second]).unwrap();
        let layer = hedging().retry_statuses([503]).unwrap();
        let layer = layer.timeout(Duration::from_millis(500)).unwrap();
        let balancer = balancer(&pool, layer.with_policy(NoPayments::default()));
        let (mut request, exchange) = request(Method::GET, "");
        *request.uri_mut() = format!("http://service.example/{path}").parse().unwrap();
        let response = balancer.oneshot(request).await.unwrap();
        assert_eq!(response.status(), wanted, "{path} to {url}");
        let sent = if wanted == StatusCode::OK { 2 } else { 1 };
        assert_eq!(exchange.attempts(<[_]>::len), sent, "{path} to {url}");
    }
    assert_eq!(good.requests(), 2, "no payment came there");
}

#[tokio::test]
async fn a_backend_whose_attempts_time_out_is_ejected() {
    let hung = Hung::new().await;
    let origin = Origin::named("b").await;
    let pool = pool(&[("hung", &hung.url), ("b", &origin.url())]);
    let each = Duration::from_millis(50);
    let budget = Budget::new(1.0, 100.0).unwrap();
    let layer = FailoverLayer::new().budget(budget);
    let balancer = LoadBalancer::builder(pool.clone())
        .failover(layer.per_try_timeout(each).unwrap())
        .health(HealthLayer::new(pool.clone()).no_checks())
        .unwrap()
        .build();
    for _ in 0..40 {
        let (request, _) = request(Method::GET, "");
        let response = balancer.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert!(!pool.snapshot().get("hung").unwrap().is_usable());
    assert_eq!(hung.requests.load(Relaxed), 5, "five in a row are enough");
}

#[tokio::test]
async fn a_client_hang_up_cancels_both_attempts() {
    let (one, two) = (Hung::new().await, Hung::new().await);
    let pool = pool(&[("one", &one.url), ("two", &two.url)]);
    let balancer = balancer(&pool, hedging());
    let (request, exchange) = request(Method::GET, "");
    let call = tokio::spawn(balancer.oneshot(request));
    eventually("both must be asked", || {
        one.requests.load(Relaxed) == 1 && two.requests.load(Relaxed) == 1
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let ends = exchange.attempts(|all| all.iter().map(|a| a.outcome).collect::<Vec<_>>());
    assert_eq!(
        ends,
        [Some(Outcome::Cancelled); 2],
        "the backends are not to blame"
    );
    for id in ["one", "two"] {
        assert_eq!(pool.snapshot().get(id).unwrap().in_flight(), 0, "{id}");
    }
    eventually("both connections must be closed", || {
        one.closed.load(Relaxed) == 1 && two.closed.load(Relaxed) == 1
    })
    .await;
}

#[tokio::test]
async fn a_region_that_is_dead_costs_the_budget_nothing_and_no_request_fails() {
    let (e, f) = (Origin::named("e").await, Origin::named("f").await);
    let dead: Vec<_> = (0..4).map(|_| format!("http://{}", refused())).collect();
    // Two racks of one zone, another zone, another region, which is left.
    let backends = [
        ("a", &dead[0], "eu/eu-1/r1"),
        ("b", &dead[1], "eu/eu-1/r1"),
        ("c", &dead[2], "eu/eu-1/r2"),
        ("d", &dead[3], "eu/eu-2/r1"),
        ("e", &e.url(), "us/us-1/r1"),
        ("f", &f.url(), "us/us-1/r1"),
    ]
    .map(|(id, url, place)| {
        let backend = Backend::new(id, url).unwrap();
        backend.locality(Locality::new(place).unwrap())
    });
    // No check takes the dead backends out, and the budget is empty.
    let pool = Pool::new(backends).unwrap();
    let layer = FailoverLayer::new().max_attempts(3).unwrap();
    let layer = layer.budget(Budget::new(0.0, 0.0).unwrap());
    let balancer = balancer(&pool, layer);
    let mut failed = 0;
    for nth in 0..120 {
        let (method, body) = match nth % 2 {
            0 => (Method::GET, ""),
            _ => (Method::POST, "payload"),
        };
        let (request, exchange) = request(method.clone(), body);
        let response = balancer.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{method} {nth}: {exchange:?}");
        response.into_body().collect().await.unwrap();
        failed += exchange.attempts(|all| {
            let refused = Some(Outcome::Failed(ErrorKind::Connect));
            assert!(all.len() <= 3, "{exchange:?}");
            all.iter().filter(|a| a.outcome == refused).count()
        });
    }
    assert!(failed >= 80, "four of six are dead: {failed}");
    assert_eq!(e.requests() + f.requests(), 120, "each came once");
}

#[tokio::test]
async fn concurrent_requests_of_a_client_move_to_one_backend_when_its_own_is_dead() {
    let mut origins = Vec::new();
    for id in ["c", "d", "e", "f"] {
        origins.push((id, Origin::named(id).await));
    }
    let dead = ["a", "b"].map(|id| (id, format!("http://{}", refused())));
    let alive = origins.iter().map(|(id, origin)| (*id, origin.url()));
    let backends = dead.into_iter().chain(alive);
    let pool = Pool::new(backends.map(|(id, url)| Backend::new(id, &url).unwrap())).unwrap();
    let layer = FailoverLayer::new().max_attempts(3).unwrap();
    let balancer = balancer(&pool, layer);
    let own = pool.snapshot().get("a").unwrap().clone();
    let mut homes = std::collections::BTreeSet::new();
    for _ in 0..30 {
        // As HTTP/2 has it: all on one connection.
        let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (mut request, exchange) = request(Method::GET, "");
            exchange.set_affinity(own.clone());
            request.extensions_mut().insert(conn.clone());
            let balancer = balancer.clone();
            clients.spawn(async move {
                let response = balancer.oneshot(request).await.unwrap();
                assert_eq!(response.status(), 200, "{exchange:?}");
                exchange.answered_by().unwrap().id().to_owned()
            });
        }
        let all = clients.join_all().await;
        assert!(all.iter().all(|home| *home == all[0]), "{all:?}");
        homes.extend(all);
    }
    assert!(homes.len() >= 3, "clients spread: {homes:?}");
}

/// Answers each request with 503 and this `Retry-After`.
async fn busy(seconds: &'static str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            running.spawn(async move {
                let mut buffer = [0; 4_096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let answer = format!(
                        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {seconds}\r\n\
                         content-length: 4\r\n\r\nbusy"
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (url, task)
}

#[tokio::test]
async fn a_backend_that_sends_retry_after_is_passed_over_and_obeyed_where_there_is_no_other() {
    let (url, task) = busy("7").await;
    let origin = Origin::named("b").await;
    let layer = || FailoverLayer::new().retry_statuses([503]).unwrap();
    let both = pool(&[("busy", &url), ("b", &origin.url())]);
    let balancer_of_both = balancer(&both, layer());
    for _ in 0..4 {
        let (request, _) = request(Method::GET, "");
        let response = balancer_of_both.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    let alone = pool(&[("busy", &url)]);
    let (request, exchange) = request(Method::GET, "");
    let response = balancer(&alone, layer()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.headers()["retry-after"],
        "7",
        "the client learns of it"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "busy", "it is the backend's own answer");
    let ends = exchange.attempts(|all| all.iter().map(|a| a.outcome).collect::<Vec<_>>());
    assert_eq!(ends, [Some(Outcome::Ok)]);
    for pool in [&both, &alone] {
        assert_eq!(pool.snapshot().get("busy").unwrap().in_flight(), 0);
    }
    task.abort();
}

/// An HTTP/2 backend that ends each request with these frames, and counts them.
#[cfg(feature = "http2")]
async fn frames(ending: Vec<u8>) -> (Backend, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let task = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (counted, ending) = (counted.clone(), ending.clone());
            running.spawn(async move {
                // The preface; then SETTINGS of ours, and theirs acknowledged.
                let _ = stream.read_exact(&mut [0; 24]).await;
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
                let _ = stream.write_all(&settings).await;
                let mut head = [0; 9];
                while stream.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut payload = vec![0; length as usize];
                    if stream.read_exact(&mut payload).await.is_err() {
                        return;
                    }
                    const HEADERS: u8 = 1;
                    if head[3] == HEADERS {
                        counted.fetch_add(1, Relaxed);
                        let _ = stream.write_all(&ending).await;
                        let is_reset = ending[3] == 3;
                        if !is_reset {
                            return;
                        }
                    }
                }
            });
        }
    });
    let backend = Backend::new("first", &url).unwrap();
    (
        backend.protocol(evenkeel::pool::Protocol::Http2),
        requests,
        task,
    )
}

#[cfg(feature = "http2")]
fn reset(reason: u8) -> Vec<u8> {
    vec![0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, reason]
}

#[cfg(feature = "http2")]
fn go_away(last: u8) -> Vec<u8> {
    vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn over_http2_a_post_is_sent_again_only_where_the_backend_did_not_process_it() {
    const CANCEL: u8 = 8;
    const INTERNAL_ERROR: u8 = 2;
    const REFUSED_STREAM: u8 = 7;
    // What the first backend does, how often it sees the request, and whether the second does.
    for (what, ending, seen, again) in [
        ("a refused stream", reset(REFUSED_STREAM), 1, true),
        // The proxy makes one new connection to it first: a backend that ends one may be well.
        ("a GOAWAY that names none", go_away(0), 2, true),
        ("a GOAWAY that names it", go_away(1), 1, false),
        ("a cancelled stream", reset(CANCEL), 1, false),
        ("an internal error", reset(INTERNAL_ERROR), 1, false),
    ] {
        for method in [Method::POST, Method::GET] {
            let (first, requests, task) = frames(ending.clone()).await;
            let origin = Origin::named("second").await;
            let second = Backend::new("second", &origin.url()).unwrap();
            let pool = Pool::new([first, second]).unwrap();
            let (request, exchange) = request(method.clone(), "");
            let response = balancer(&pool, FailoverLayer::new())
                .oneshot(request)
                .await
                .unwrap();
            let wanted = match again || method == Method::GET {
                true => StatusCode::OK,
                false => StatusCode::BAD_GATEWAY,
            };
            assert_eq!(
                response.status(),
                wanted,
                "{method} after {what}: {exchange:?}"
            );
            assert_eq!(requests.load(Relaxed), seen, "{method} after {what}");
            assert_eq!(
                origin.requests(),
                usize::from(wanted == 200),
                "{method} after {what}"
            );
            task.abort();
        }
    }
}
