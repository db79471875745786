//! Backends that are names: their addresses move, and the resolver fails.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, Pool,
    connect::{Connector, Resolve, ResolveError, ResolveFuture},
    context::Selected,
    health::{Checks, HttpCheck, Prober},
    pool::{HealthStatus, Protocol},
    proxy::Proxy,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;

use crate::support::Origin;

#[derive(Clone, Copy, Debug)]
enum Says {
    Address([u8; 4]),
    Denies,
    Fails,
    Hangs,
}

/// A resolver with scripted answers.
#[derive(Clone, Debug)]
struct Script(Arc<watch::Sender<(Says, usize)>>);

impl Script {
    fn new(says: Says) -> Self {
        Self(Arc::new(watch::Sender::new((says, 0))))
    }

    fn say(&self, says: Says) {
        self.0.send_modify(|(now, _)| *now = says);
    }

    /// Waits until it was asked so often.
    async fn asked(&self, times: usize) {
        let mut seen = self.0.subscribe();
        let asked = seen.wait_for(|(_, asked)| *asked >= times);
        timeout(PATIENCE, asked).await.unwrap().unwrap();
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, host: &'a str) -> ResolveFuture<'a> {
        assert_eq!(host, "app.test");
        self.0.send_modify(|(_, asked)| *asked += 1);
        let (says, _) = *self.0.borrow();
        Box::pin(async move {
            match says {
                Says::Address(ip) => Ok(vec![(ip, 0).into()]),
                Says::Denies => Err(ResolveError::NotFound),
                Says::Fails => Err(ResolveError::Failed("SERVFAIL".into())),
                Says::Hangs => std::future::pending().await,
            }
        })
    }
}

const ONE: [u8; 4] = [127, 0, 0, 1];
const TWO: [u8; 4] = [127, 0, 0, 2];

/// Two backends on one port, and their name.
async fn pair() -> (Origin, Origin, Backend) {
    let on = |listener, name: &'static str| {
        Origin::serve_on(listener, move |_| async move {
            Response::new(Full::new(Bytes::from_static(name.as_bytes())))
        })
    };
    loop {
        let one = TcpListener::bind(SocketAddr::from((ONE, 0))).await.unwrap();
        let port = one.local_addr().unwrap().port();
        // Another test may have the port there.
        if let Ok(two) = TcpListener::bind(SocketAddr::from((TWO, port))).await {
            let backend = Backend::new("app", &format!("http://app.test:{port}")).unwrap();
            return (on(one, "one"), on(two, "two"), backend);
        }
    }
}

async fn ask(proxy: &Proxy, backend: &Backend) -> String {
    let mut request = Request::get("/")
        .header("host", "t")
        .body(Empty::<Bytes>::new())
        .unwrap();
    request.extensions_mut().insert(Selected(backend.clone()));
    let response = proxy.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn connector(script: &Script) -> Connector {
    Connector::new().resolver(script.clone())
}

#[tokio::test]
async fn connections_follow_a_name_that_moves() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (one, two, backend) = pair().await;
        let backend = backend.protocol(protocol);
        let script = Script::new(Says::Address(ONE));
        let connector = connector(&script);
        let proxy = Proxy::new().connector(connector.clone());
        assert_eq!(ask(&proxy, &backend).await, "one");
        script.say(Says::Address(TWO));
        let moved = Instant::now();
        // What checks do: a connection of their own each time, for which the name is looked up.
        // Sooner than idle connections are looked through.
        timeout(Duration::from_secs(12), async {
            while ask(&proxy, &backend).await == "one" {
                connector.connect(&backend).await.unwrap();
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("requests must follow");
        let took = moved.elapsed();
        assert!(
            took > Duration::from_secs(1),
            "several answers, not one: {took:?}"
        );
        assert_eq!(ask(&proxy, &backend).await, "two");
        assert_eq!(one.connections(), 1, "{protocol:?}");
        assert!(two.connections() >= 8, "new connections went there at once");
    }
}

#[tokio::test]
async fn last_good_addresses_stay_in_use() {
    let (_one, _two, backend) = pair().await;
    for says in [Says::Denies, Says::Fails, Says::Hangs] {
        let script = Script::new(Says::Address(ONE));
        let connector = connector(&script);
        connector.connect(&backend).await.unwrap();
        script.say(says);
        let began = Instant::now();
        for _ in 0..8 {
            let connected = connector.connect(&backend).await;
            assert!(connected.is_ok(), "{says:?}: {connected:?}");
        }
        // The first waits for a resolver that hangs, and no other does.
        assert!(began.elapsed() < Duration::from_secs(1), "{says:?}");
    }
}

#[tokio::test]
async fn without_a_good_address_a_resolver_that_fails_is_not_the_backend() {
    let (one, _two, backend) = pair().await;
    for (says, kind) in [
        (Says::Denies, ErrorKind::Connect),
        (Says::Fails, ErrorKind::Local),
        (Says::Hangs, ErrorKind::Local),
    ] {
        let connector = connector(&Script::new(says));
        let connector = connector.timeout(Duration::from_millis(200)).unwrap();
        let error = connector.connect(&backend).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{says:?}: {error}");
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
            request.headers_mut().insert("host", "t".parse().unwrap());
            let backend = backend.clone().protocol(protocol);
            request.extensions_mut().insert(Selected(backend));
            let proxy = Proxy::new().connector(connector.clone());
            let error = proxy.oneshot(request).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{says:?} {protocol:?}: {error}");
        }
    }
    assert_eq!(one.connections(), 0);
}

#[tokio::test]
async fn checks_outlast_the_resolver() {
    let (one, _two, backend) = pair().await;
    let script = Script::new(Says::Fails);
    let check = HttpCheck::new().connector(connector(&script));
    let checks = Checks::new()
        .interval(Duration::from_millis(200))
        .changing_interval(Duration::from_millis(20))
        .timeout(Duration::from_millis(190))
        .fall(1)
        .with_check(check);
    let pool = Pool::new([backend]).unwrap();
    let _prober = Prober::start(&pool, checks).unwrap();
    let health = || pool.snapshot().backends()[0].active_health();
    script.asked(5).await;
    assert_eq!(health(), HealthStatus::Unknown, "no check could be made");
    script.say(Says::Address(ONE));
    let healthy = async {
        while health() != HealthStatus::Healthy {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, healthy).await.unwrap();
    for outage in [Says::Fails, Says::Denies, Says::Hangs] {
        script.say(outage);
        let before = one.requests();
        let checked = async {
            while one.requests() < before + 4 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, checked).await.expect("checks go on");
        assert_eq!(health(), HealthStatus::Healthy, "{outage:?}");
    }
}

#[tokio::test]
async fn a_connection_in_use_has_a_largest_age() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let origin = Origin::named("a").await;
        let backend = Backend::new("a", &origin.url()).unwrap().protocol(protocol);
        let ages = Proxy::new()
            .max_connection_age(Duration::from_secs(1))
            .unwrap();
        let stays = Proxy::new();
        let began = Instant::now();
        let busy = async {
            // One more than what `stays` has, and one for the next age.
            while origin.connections() < 4 {
                assert_eq!(ask(&ages, &backend).await, "a");
                assert_eq!(ask(&stays, &backend).await, "a");
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, busy)
            .await
            .expect("the connection must be replaced");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(2), "{protocol:?}: {took:?}");
    }
    for wrong in [Duration::from_millis(999), Duration::from_secs(86_401)] {
        let error = Proxy::new().max_connection_age(wrong).unwrap_err();
        assert_eq!(error.field(), "max_connection_age");
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
