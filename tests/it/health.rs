//! Health over real sockets.

mod combined;
#[cfg(all(feature = "proxy", feature = "http2"))]
mod grpc;
mod http;
mod tcp;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, Pool,
    context::Selected,
    health::{
        CheckFuture, CheckReport, Checks, HealthCheck, HealthLayer, HttpCheck, Prober, Target,
        TcpCheck,
    },
    pool::{Circuit, EventKind, Events, HealthStatus, Protocol, Source, Transition},
};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{Instant, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Origin, refused};

const LONG: Duration = Duration::from_secs(30);

fn backend(id: &str, address: SocketAddr) -> Backend {
    Backend::new(id, &format!("http://{address}")).unwrap()
}

/// Soon, with a time-out that a machine under load does not reach.
fn fast() -> Checks {
    Checks::new()
        .interval(Duration::from_secs(1))
        .changing_interval(Duration::from_millis(20))
        .timeout(Duration::from_millis(900))
}

async fn check(check: &impl HealthCheck, backend: Backend) -> CheckReport {
    let target = Target::new(backend, Instant::now() + LONG);
    check.check(&target).await
}

async fn transition(events: &mut Events, id: &str, to: HealthStatus) -> Transition {
    let wait = async {
        loop {
            let event = events.next().await.unwrap();
            if let EventKind::Health(transition) = event.kind
                && event.backend.id() == id
                && transition.to == to
            {
                return transition;
            }
        }
    };
    timeout(LONG, wait).await.expect("health must change")
}

async fn half_open(events: &mut Events) {
    let wait = async {
        loop {
            let event = events.next().await.unwrap();
            if matches!(
                event.kind,
                EventKind::Circuit {
                    to: Circuit::HalfOpen,
                    ..
                }
            ) {
                return;
            }
        }
    };
    timeout(LONG, wait).await.expect("a trial must begin");
}

/// A backend whose health is a switch.
async fn switched() -> (Origin, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let answers = up.clone();
    let origin = Origin::serve(move |_| {
        let up = answers.load(Relaxed);
        async move {
            let mut response = Response::new(Full::new(Bytes::new()));
            if !up {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    })
    .await;
    (origin, up)
}

/// Answers each connection with these bytes once a request came, and closes it if `closes` is set.
async fn canned(answer: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                if !closes {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_backend_that_dies_is_out_and_comes_back() {
    let (a, up) = switched().await;
    let b = Origin::named("b").await;
    let pool = Pool::new([backend("a", a.address), backend("b", b.address)]).unwrap();
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, fast()).unwrap();
    transition(&mut events, "a", HealthStatus::Healthy).await;
    transition_if_needed(&mut events, &pool, "b").await;
    assert_eq!(pool.snapshot().usable(), 2);

    up.store(false, Relaxed);
    let down = transition(&mut events, "a", HealthStatus::Unhealthy).await;
    assert_eq!(
        (down.reason.code, &*down.reason.detail),
        ("L7STS", "GET /health answered 503")
    );
    assert_eq!((down.source, down.streak), (Source::Active, 2));
    assert!(down.latency.is_some());
    assert_eq!(pool.snapshot().usable(), 1);

    up.store(true, Relaxed);
    let back = transition(&mut events, "a", HealthStatus::Healthy).await;
    assert_eq!((back.reason.code, back.streak), ("L7OK", 2));

    drop(b);
    let down = transition(&mut events, "b", HealthStatus::Unhealthy).await;
    assert_eq!(down.reason.code, "L4CON", "the listener is closed");
}

async fn transition_if_needed(events: &mut Events, pool: &Pool, id: &str) {
    let healthy = || pool.snapshot().get(id).unwrap().health() == HealthStatus::Healthy;
    if !healthy() {
        transition(events, id, HealthStatus::Healthy).await;
    }
}

#[tokio::test]
async fn a_change_of_membership_brings_no_backend_up() {
    let a = Origin::named("a").await;
    let dead = refused();
    let pool = Pool::new([backend("a", a.address), backend("dead", dead)]).unwrap();
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, fast()).unwrap();
    transition(&mut events, "dead", HealthStatus::Unhealthy).await;
    for weight in 1..5 {
        pool.upsert(backend("dead", dead).weight(weight).unwrap());
        pool.replace([backend("dead", dead), backend("a", a.address)])
            .unwrap();
        assert_eq!(
            pool.snapshot().get("dead").unwrap().health(),
            HealthStatus::Unhealthy,
            "down is down until a check passes (invariant A)"
        );
        assert_eq!(pool.snapshot().usable(), 1);
    }
    // The same id at an address that answers.
    pool.upsert(backend("dead", a.address));
    assert_eq!(pool.snapshot().usable(), 1, "not even then");
    let up = transition(&mut events, "dead", HealthStatus::Healthy).await;
    assert_eq!(up.streak, 2, "it rises as any other");
}

#[tokio::test]
async fn a_hung_backend_is_timed_out_beside_the_others() {
    let hung = canned(Vec::new(), false).await;
    let a = Origin::named("a").await;
    let pool = Pool::new([backend("hung", hung), backend("a", a.address)]).unwrap();
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, fast()).unwrap();
    transition(&mut events, "a", HealthStatus::Healthy).await;
    let down = transition(&mut events, "hung", HealthStatus::Unhealthy).await;
    assert_eq!(down.reason.code, "L7TOUT");
    assert!(pool.snapshot().get("a").unwrap().is_usable());
}

#[tokio::test]
async fn answers_make_reports() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let big = format!("HTTP/1.1 200 OK\r\n\r\n{}", "y".repeat(100_000));
    // The answer, whether the connection is closed after it, and the report.
    let table: [(&str, bool, &str, bool); 24] = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            false,
            "L7OK",
            true,
        ),
        ("HTTP/1.0 200 OK\r\n\r\nok", true, "L7OK", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, "L7OK", true),
        (
            "HTTP/1.1 299 Odd\r\ncontent-length: 0\r\n\r\n",
            false,
            "L7OK",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            false,
            "L7OK",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
            "L7OK",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
            false,
            "L7OK",
            true,
        ),
        (&big, false, "L7OK", true),
        (
            "HTTP/1.1 301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            false,
            "L7STS",
            false,
        ),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            false,
            "L7STS",
            false,
        ),
        (
            "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
            false,
            "L7STS",
            false,
        ),
        (
            "HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno",
            false,
            "L7STS",
            false,
        ),
        ("", true, "L7RSP", false),
        ("HTTP/1.1 200", true, "L7RSP", false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
            true,
            "L7RSP",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok",
            false,
            "L7RSP",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
            false,
            "L7RSP",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            false,
            "L7RSP",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
            true,
            "L7RSP",
            false,
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", false, "L7RSP", false),
        ("HTTP/2.0 200 OK\r\n\r\n", false, "L7RSP", false),
        ("\x16\x03\x01\x02", false, "L7RSP", false),
        ("HTTP/1.1 2x0 OK\r\n\r\n", false, "L7RSP", false),
        (&long, false, "L7RSP", false),
    ];
    // Without a use for the body, the head decides.
    let whole = HttpCheck::new().body_matches(|_| true);
    for (answer, closes, code, passes) in table {
        let address = canned(answer.as_bytes().to_vec(), closes).await;
        let report = check(&whole, backend("a", address)).await;
        let start: String = answer.chars().take(80).collect();
        assert_eq!(report.reason().code, code, "{start:?} gives {report:?}");
        assert_eq!(report.is_pass(), passes, "{start:?} gives {report:?}");
    }
}

#[tokio::test]
async fn a_timeout_names_the_layer_that_hung() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok"] {
        let address = canned(answer.into(), false).await;
        let soon = Instant::now() + Duration::from_millis(100);
        let target = Target::new(backend("a", address), soon);
        let whole = HttpCheck::new().body_matches(|_| true);
        let report = whole.check(&target).await;
        assert_eq!(report.reason().code, "L7TOUT", "{answer:?}");
    }
    let report = check(&HttpCheck::new(), backend("a", refused())).await;
    assert_eq!(report.reason().code, "L4CON");
}

#[tokio::test]
async fn the_request_is_what_was_asked_for() {
    let origin = Origin::serve(|request| async move {
        let (head, _) = request.into_parts();
        let right = head.method == Method::OPTIONS
            && head.uri == "/base/up?deep=1"
            && head.headers[header::HOST] == "app.example"
            && head.headers[header::USER_AGENT]
                .to_str()
                .unwrap()
                .starts_with("evenkeel/")
            && head.headers["x-token"] == "t";
        let mut response = Response::new(Full::new(Bytes::from_static(b"body")));
        *response.status_mut() = match right {
            true => StatusCode::IM_A_TEAPOT,
            false => StatusCode::OK,
        };
        response
    })
    .await;
    let asked = HttpCheck::new()
        .method(Method::OPTIONS)
        .path("/up?deep=1")
        .unwrap()
        .host("app.example")
        .unwrap()
        .header("x-token".parse().unwrap(), HeaderValue::from_static("t"))
        .unwrap()
        .healthy([200..=200, 418..=418])
        .unwrap();
    let url = format!("{}/base/", origin.url());
    let report = check(&asked, Backend::new("a", &url).unwrap()).await;
    assert_eq!(
        (report.reason().code, &*report.reason().detail),
        ("L7OK", "OPTIONS /base/up answered 418")
    );
    assert_eq!(origin.connections(), 1);
    assert!(
        check(&asked, Backend::new("a", &url).unwrap())
            .await
            .is_pass()
    );
    assert_eq!(
        origin.connections(),
        2,
        "each check has a connection of its own"
    );

    #[cfg(all(feature = "proxy", feature = "http2"))]
    {
        let http2 = Backend::new("a", &url).unwrap().protocol(Protocol::Http2);
        let asked = HttpCheck::new().healthy([200..=200]).unwrap();
        let report = check(&asked, http2).await;
        assert_eq!(
            report.reason().code,
            "L7OK",
            "HTTP/2 with prior knowledge: {report:?}"
        );
    }
}

#[test]
fn settings_of_a_check_that_do_not_fit_are_refused_by_name() {
    let fields = [
        HttpCheck::new().path("health").unwrap_err(),
        HttpCheck::new().host("a b").unwrap_err(),
        HttpCheck::new().healthy([]).unwrap_err(),
        HttpCheck::new().healthy([100..=199]).unwrap_err(),
        HttpCheck::new()
            .header(header::CONNECTION, HeaderValue::from_static("x"))
            .unwrap_err(),
    ];
    let fields: Vec<_> = fields.iter().map(|error| error.field()).collect();
    let healthy = "health.healthy";
    assert_eq!(
        fields,
        [
            "health.path",
            "health.host",
            healthy,
            healthy,
            "health.header"
        ]
    );
}

#[tokio::test]
async fn a_connection_is_all_that_a_tcp_check_wants() {
    let hung = canned(Vec::new(), false).await;
    let report = check(&TcpCheck::new(), backend("a", hung)).await;
    assert_eq!(report, CheckReport::pass("L4OK", ""));
    let report = check(&TcpCheck::new(), backend("a", refused())).await;
    assert_eq!((report.is_pass(), report.reason().code), (false, "L4CON"));
    #[cfg(feature = "tls")]
    {
        let cleartext = Origin::named("a").await;
        let url = format!("https://{}", cleartext.address);
        let report = check(&TcpCheck::new(), Backend::new("a", &url).unwrap()).await;
        assert_eq!((report.is_pass(), report.reason().code), (false, "L6RSP"));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1_024]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let backend = Backend::new("a", "http://app.example")
        .unwrap()
        .unix_socket(path);
    let report = check(&HttpCheck::new(), backend).await;
    assert!(report.is_pass(), "{report:?}");
}

/// A check of one's own.
#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

impl HealthCheck for Counting {
    fn check<'a>(&'a self, _: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            self.0.fetch_add(1, Relaxed);
            CheckReport::pass("L7OK", "mine")
        })
    }
}

#[tokio::test]
async fn alone_around_a_foreign_service_it_ejects_and_readmits() {
    let checked = Arc::new(AtomicUsize::new(0));
    let (a, b) = (refused(), refused());
    let pool = Pool::new([backend("a", a), backend("b", b)]).unwrap();
    let mut events = pool.subscribe();
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let inner = service_fn(move |request: Request<()>| {
        let Selected(backend) = request.extensions().get::<Selected>().unwrap();
        let status = match backend.id() {
            "a" if !is_well.load(Relaxed) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::OK,
        };
        async move {
            let mut response = Response::new("untouched");
            *response.status_mut() = status;
            Ok::<_, BoxError>(response)
        }
    });
    let service = HealthLayer::new(pool.clone())
        .checks(fast().with_check(Counting(checked.clone())))
        .unwrap()
        .layer(inner);
    transition_if_needed(&mut events, &pool, "a").await;
    transition_if_needed(&mut events, &pool, "b").await;
    let ask = || async {
        let mut request = Request::new(());
        let a = pool.snapshot().get("a").unwrap().clone();
        request.extensions_mut().insert(Selected(a));
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.into_body().into_inner(), "untouched");
    };
    for _ in 0..5 {
        ask().await;
    }
    let down = transition(&mut events, "a", HealthStatus::Unhealthy).await;
    assert_eq!((down.source, down.streak), (Source::Passive, 5));
    let before = checked.load(Relaxed);
    half_open(&mut events).await;
    assert!(
        checked.load(Relaxed) >= before + 2,
        "checks that pass earn it a trial long before its time is over"
    );
    well.store(true, Relaxed);
    ask().await;
    let up = transition(&mut events, "a", HealthStatus::Healthy).await;
    assert_eq!((up.source, up.reason.code), (Source::Passive, "TRIAL"));
}

#[test]
fn a_request_that_goes_well_allocates_nothing() {
    let pool = Pool::new([backend("a", refused())]).unwrap();
    let inner =
        service_fn(|_: Request<()>| std::future::ready(Ok::<_, BoxError>(Response::new(()))));
    let mut service = HealthLayer::new(pool.clone()).no_checks().layer(inner);
    let mut allocations = Vec::new();
    for _ in 0..2 {
        let mut request = Request::new(());
        let a = pool.snapshot().get("a").unwrap().clone();
        request.extensions_mut().insert(Selected(a));
        let info = allocation_counter::measure(|| {
            let mut call = std::pin::pin!(tower::Service::call(&mut service, request));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_ready());
        });
        allocations.push(info.count_total);
    }
    assert_eq!(
        allocations[1], 0,
        "only the first request of a backend makes its record"
    );
}
