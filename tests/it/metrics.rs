//! Metrics over real sockets: what each series counts, and that the sums add up.

mod bounds;
mod endpoint;
mod ends;
mod otlp;
mod prometheus;
mod table;

pub(crate) use otlp::Collector;

use std::{collections::BTreeMap, future::IntoFuture, net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    failover::{Budget, FailoverLayer, Hedge},
    health::{Checks, HealthLayer},
    load_balancer::Builder,
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
    sticky::{Keys, StickyLayer},
};
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::support::{Act, Origin, Scripted, refused};

/// A load balancer under `evenkeel::serve`, with metrics.
struct World {
    address: SocketAddr,
    pool: Pool,
    service: MetricsService,
    task: JoinHandle<std::io::Result<()>>,
}

impl World {
    /// Serves these backends, without checks unless `build` adds some.
    async fn new(
        backends: &[(&str, String)],
        build: impl FnOnce(Builder, Pool) -> Builder,
    ) -> Self {
        let backends = backends
            .iter()
            .map(|(id, url)| Backend::new(*id, url).unwrap());
        let pool = Pool::new(backends).unwrap();
        let stats = Stats::new(pool.clone());
        let layer = MetricsLayer::new(stats.clone());
        let builder = LoadBalancer::builder(pool.clone())
            .health(HealthLayer::new(pool.clone()).no_checks())
            .unwrap()
            .metrics(layer.clone())
            .unwrap();
        let balancer = build(builder, pool.clone()).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = evenkeel::serve(listener, balancer).events(layer);
        Self {
            address,
            pool,
            service: MetricsService::new(stats),
            task: tokio::spawn(serve.into_future()),
        }
    }

    /// Sends a GET on a connection of its own, and returns the response as text.
    async fn get(&self, path: &str) -> String {
        self.send(path, "").await
    }

    /// As [`get`](Self::get), with these header fields.
    async fn send(&self, path: &str, fields: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        let read = stream.read_to_end(&mut response);
        timeout(PATIENCE, read)
            .await
            .expect("the response ends")
            .unwrap();
        String::from_utf8(response).unwrap()
    }

    fn series(&self) -> Series {
        Series::parse(&self.service.text())
    }

    /// Waits until no request is in flight; returns the series then.
    async fn at_rest(&self) -> Series {
        let is_at_rest = |series: &Series| series.sum("evenkeel_requests_in_flight", &[]) == 0.0;
        self.until("the requests end", is_at_rest).await
    }

    async fn until(&self, what: &str, holds: impl Fn(&Series) -> bool) -> Series {
        let wait = async {
            loop {
                let series = self.series();
                if holds(&series) {
                    return series;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("{what}:\n{}", self.service.text()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The samples of a scrape, by name and labels as they are written.
#[derive(Clone, Debug, PartialEq)]
struct Series(BTreeMap<String, f64>);

impl Series {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// The value of one series; 0 if it is not there.
    fn get(&self, name: &str, labels: &str) -> f64 {
        let series = match labels {
            "" => name.to_owned(),
            labels => format!("{name}{{{labels}}}"),
        };
        self.0.get(&series).copied().unwrap_or_default()
    }

    /// The sum of the series of this name that have all these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let is_it = |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| series.contains(label))
        };
        self.0
            .iter()
            .filter(|(series, _)| is_it(series))
            .map(|(_, value)| value)
            .sum()
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Asserts that what was accepted is what ended and what is in flight.
    fn adds_up(&self) {
        let accepted = self.sum("evenkeel_requests_accepted_total", &[]);
        let ended = self.sum("evenkeel_requests_total", &[]);
        let in_flight = self.sum("evenkeel_requests_in_flight", &[]);
        assert_eq!(accepted, ended + in_flight, "{self:?}");
    }
}

fn keep(builder: Builder, _: Pool) -> Builder {
    builder
}

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_series_of_requests_move_with_retries_and_ejections() {
    let a = Origin::named("a").await;
    let dead = format!("http://{}", refused());
    let world = World::new(&[("a", a.url()), ("b", dead)], keep).await;
    for _ in 0..20 {
        assert!(world.get("/").await.starts_with("HTTP/1.1 200 "));
    }
    let series = world.at_rest().await;
    series.adds_up();
    let listener = format!("listener=\"{}\"", world.address);
    for (name, labels, value) in [
        ("evenkeel_requests_accepted_total", &*listener, 20.0),
        (
            "evenkeel_requests_total",
            &format!("{listener},status=\"2xx\""),
            20.0,
        ),
        (
            "evenkeel_requests_total",
            &format!("{listener},status=\"5xx\""),
            0.0,
        ),
        (
            "evenkeel_request_outcomes_total",
            &format!("{listener},outcome=\"ok\""),
            20.0,
        ),
        ("evenkeel_request_duration_seconds_count", &listener, 20.0),
        ("evenkeel_connections_opened_total", &listener, 20.0),
        (
            "evenkeel_backend_requests_total",
            "backend=\"a\",status=\"2xx\"",
            20.0,
        ),
        (
            "evenkeel_backend_requests_total",
            "backend=\"b\",status=\"2xx\"",
            0.0,
        ),
        (
            "evenkeel_backend_attempts_total",
            "backend=\"a\",outcome=\"ok\"",
            20.0,
        ),
        (
            "evenkeel_backend_attempts_total",
            "backend=\"b\",outcome=\"connect\"",
            5.0,
        ),
        ("evenkeel_backend_retries_total", "backend=\"a\"", 5.0),
        ("evenkeel_backend_hedges_total", "backend=\"a\"", 0.0),
        (
            "evenkeel_backend_request_duration_seconds_count",
            "backend=\"a\"",
            20.0,
        ),
        (
            "evenkeel_backend_time_to_first_byte_seconds_count",
            "backend=\"a\"",
            20.0,
        ),
        ("evenkeel_backend_usable", "backend=\"a\"", 1.0),
        ("evenkeel_backend_usable", "backend=\"b\"", 0.0),
        ("evenkeel_backend_ejections_total", "backend=\"b\"", 1.0),
        (
            "evenkeel_backend_health_transitions_total",
            "backend=\"b\"",
            1.0,
        ),
        (
            "evenkeel_backend_circuit",
            "backend=\"b\",circuit=\"open\"",
            1.0,
        ),
        (
            "evenkeel_backend_circuit",
            "backend=\"a\",circuit=\"closed\"",
            1.0,
        ),
        ("evenkeel_backend_mode", "backend=\"a\",mode=\"ready\"", 1.0),
        ("evenkeel_pool_backends", "", 2.0),
        ("evenkeel_pool_backends_usable", "", 1.0),
    ] {
        assert_eq!(
            series.get(name, labels),
            value,
            "{name}{{{labels}}}: {series:?}"
        );
    }
    assert!(
        series.get("evenkeel_retry_budget_left", "") > 29.0,
        "3 a second for 10 s"
    );
    assert!(series.get("evenkeel_request_duration_seconds_sum", &listener) > 0.0);
    // A connection of a client closes after its response.
    let closed = |series: &Series| series.get("evenkeel_connections_open", &listener) == 0.0;
    world.until("the connections close", closed).await;
}

#[tokio::test]
async fn several_balancers_have_one_sum_of_their_budgets_and_queues() {
    let pool = Pool::new([]).unwrap();
    let stats = Stats::new(pool.clone());
    let balancer = || {
        let layer = MetricsLayer::new(stats.clone());
        let builder = LoadBalancer::builder(pool.clone()).metrics(layer);
        builder.unwrap().build()
    };
    let gauges = || -> Vec<_> {
        let gauges = stats.snapshot().gauges;
        gauges.iter().map(|g| (g.name, g.value.round())).collect()
    };
    let (one, other) = (balancer(), balancer());
    let both = [
        ("evenkeel_retry_budget_left", 60.0),
        ("evenkeel_requests_waiting", 0.0),
    ];
    assert_eq!(gauges(), both, "3 a second for 10 s, twice");
    drop(one);
    assert_eq!(gauges()[0].1, 30.0, "one that is replaced does not count");
    drop(other);
    assert_eq!(gauges(), [], "they end with their balancers");
}

#[tokio::test]
async fn connections_to_a_backend_are_counted_while_they_live() {
    let a = Origin::named("a").await;
    let world = World::new(&[("a", a.url())], keep).await;
    for _ in 0..10 {
        world.get("/").await;
    }
    let label = "backend=\"a\"";
    let idle = |series: &Series| series.get("evenkeel_backend_connections_idle", label) == 1.0;
    let series = world.until("the connection is idle", idle).await;
    assert_eq!(
        series.get("evenkeel_backend_connections_opened_total", label),
        a.connections() as f64
    );
    assert_eq!(series.get("evenkeel_backend_connections_open", label), 1.0);
    world.pool.start_maintenance("a").unwrap();
    let series = world.series();
    assert_eq!(series.get("evenkeel_backend_connections_open", label), 0.0);
    assert_eq!(
        series.get(
            "evenkeel_backend_mode",
            "backend=\"a\",mode=\"maintenance\""
        ),
        1.0
    );
    assert_eq!(
        series.get("evenkeel_backend_mode", "backend=\"a\",mode=\"ready\""),
        0.0
    );
}

#[tokio::test]
async fn checks_are_counted_with_their_time() {
    let a = Origin::named("a").await;
    let dead = format!("http://{}", refused());
    let interval = Duration::from_millis(50);
    let world = World::new(&[("a", a.url()), ("b", dead)], |builder, pool| {
        let checks = Checks::new()
            .interval(interval)
            .changing_interval(interval)
            .timeout(interval / 2);
        builder
            .health(HealthLayer::new(pool).checks(checks).unwrap())
            .unwrap()
    })
    .await;
    let series = world
        .until("both are checked", |series| {
            let passed = series.get(
                "evenkeel_backend_checks_total",
                "backend=\"a\",result=\"passed\"",
            );
            let failed = series.get(
                "evenkeel_backend_checks_total",
                "backend=\"b\",result=\"failed\"",
            );
            let health = series.get(
                "evenkeel_backend_health",
                "backend=\"b\",health=\"unhealthy\"",
            );
            passed >= 3.0 && failed >= 3.0 && health == 1.0
        })
        .await;
    let checks = series.sum("evenkeel_backend_checks_total", &["backend=\"a\""]);
    let label = "backend=\"a\"";
    assert_eq!(
        series.get("evenkeel_backend_check_duration_seconds_count", label),
        checks
    );
    assert!(series.get("evenkeel_backend_check_duration_seconds_sum", label) > 0.0);
    assert_eq!(
        series.get(
            "evenkeel_backend_health",
            "backend=\"a\",health=\"healthy\""
        ),
        1.0
    );
    assert_eq!(
        series.get("evenkeel_backend_health_transitions_total", label),
        1.0
    );
    assert_eq!(
        series.get("evenkeel_backend_connections_opened_total", label),
        0.0,
        "a check is no connection of the proxy"
    );
}

#[tokio::test]
async fn a_hedge_is_no_retry() {
    let hung = Scripted::play(vec![Act::Hang]).await;
    let a = Origin::named("a").await;
    let hung = ("hung", format!("http://{}", hung.address));
    let world = World::new(&[hung, ("a", a.url())], |builder, _| {
        let budget = Budget::new(1.0, 100.0).unwrap();
        builder.failover(FailoverLayer::new().hedge(Hedge::new()).budget(budget))
    })
    .await;
    // In turn, hedges included: at least one begins at the backend that hangs.
    world.get("/").await;
    world.get("/").await;
    let series = world.at_rest().await;
    let hedges = series.get("evenkeel_backend_hedges_total", "backend=\"a\"");
    assert!(hedges >= 1.0, "{series:?}");
    assert_eq!(series.sum("evenkeel_backend_retries_total", &[]), 0.0);
    let lost = "backend=\"hung\",outcome=\"hedged\"";
    assert_eq!(series.get("evenkeel_backend_attempts_total", lost), hedges);
    let answered = "backend=\"a\",status=\"2xx\"";
    assert_eq!(series.get("evenkeel_backend_requests_total", answered), 2.0);
}

#[tokio::test]
async fn sessions_are_counted_where_a_cookie_is_set() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let world = World::new(&[("a", a.url()), ("b", b.url())], |builder, pool| {
        let sticky = StickyLayer::new(pool, Keys::new([7; 32]));
        builder.sticky(sticky).unwrap()
    })
    .await;
    let cookie = |response: &str| {
        let line = response
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "))?;
        Some(line.split(';').next().unwrap().to_owned())
    };
    let cookies: Vec<_> = [world.get("/").await, world.get("/").await]
        .iter()
        .map(|response| cookie(response).expect("a new session has a cookie"))
        .collect();
    for _ in 0..4 {
        let response = world
            .send("/", &format!("cookie: {}\r\n", cookies[0]))
            .await;
        assert!(cookie(&response).is_none(), "the session stays");
    }
    world.send("/", "cookie: PROXY_SERVER_ID=forged\r\n").await;
    let series = world.at_rest().await;
    assert_eq!(
        series.sum("evenkeel_backend_sticky_sessions_total", &[]),
        3.0
    );
    let of = |verdict: &str| {
        let label = format!("verdict=\"{verdict}\"");
        series.sum("evenkeel_backend_sticky_requests_total", &[&label])
    };
    assert_eq!((of("none"), of("valid"), of("invalid")), (2.0, 4.0, 1.0));
    let skew = series.get("evenkeel_sticky_skew", "");
    assert!(
        (1.4..=1.8).contains(&skew),
        "5 or 6 of 7 at one of two: {skew}"
    );
}

#[tokio::test]
async fn a_backend_that_leaves_takes_its_series_along() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let world = World::new(&[("a", a.url()), ("b", b.url())], keep).await;
    for _ in 0..4 {
        world.get("/").await;
    }
    let series = world.at_rest().await;
    assert_eq!(
        series.sum("evenkeel_backend_requests_total", &["backend=\"b\""]),
        2.0
    );
    world.pool.remove("b").unwrap();
    let series = world.series();
    let left: Vec<_> = series
        .names()
        .into_iter()
        .filter(|name| name.contains("\"b\""))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        series.sum("evenkeel_backend_requests_total", &["backend=\"a\""]),
        2.0
    );
    assert_eq!(
        series.sum("evenkeel_requests_total", &[]),
        4.0,
        "the listener's stay"
    );
}

#[test]
fn a_layer_for_another_pool_is_refused_by_name() {
    let pool = || Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let layer = MetricsLayer::new(Stats::new(pool()));
    let error = LoadBalancer::builder(pool()).metrics(layer).unwrap_err();
    assert!(error.to_string().contains("metrics"), "{error}");
}

/// Answers with the status that the path names, and an empty body.
async fn statuses() -> Origin {
    Origin::serve(|request| async move {
        let status = request.uri().path().trim_start_matches('/').parse::<u16>();
        Response::builder()
            .status(status.unwrap_or(200))
            .body(Full::new(Bytes::new()))
            .unwrap()
    })
    .await
}
