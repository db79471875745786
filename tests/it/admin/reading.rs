//! What the API shows: the page, the JSON, and what a program adds.

use std::{convert::Infallible, time::Duration};

use axum::Router;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    admin::Admin,
    endpoints::{EndpointsLayer, Readiness},
    health::{Checks, HealthLayer},
    metrics::{MetricsLayer, MetricsService},
    pool::{HealthStatus, Locality, Measurement, Reason},
    stats::Stats,
};
use http::Response;
use http_body_util::Full;
use tokio::{net::TcpListener, time::timeout};
use tower::{Layer, service_fn};

use super::{Answer, LIMIT, Served, certificates, get, pool};
use crate::support::Origin;

#[tokio::test]
async fn the_page_is_complete_without_its_script() {
    let pool = Pool::new([
        Backend::new("a", "https://app.internal:8443/shop")
            .unwrap()
            .tier(1)
            .locality(Locality::new("eu/1a").unwrap()),
        Backend::new("b", "http://b").unwrap(),
    ])
    .unwrap();
    let b = pool.snapshot().get("b").unwrap().clone();
    let refused = Reason::new("L4CON", "connection refused");
    pool.measure(&b, Measurement::new(HealthStatus::Unhealthy, refused));
    let served = Served::start(Admin::new(pool).name("lb-1")).await;
    let page = get(served.address, "/status").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let (before_script, _) = page.text.split_once("<script>").unwrap();
    for shown in [
        "lb-1",
        "https://app.internal:8443/shop",
        "tier 1, eu/1a",
        ">down<",
        "L4CON: connection refused",
        "unknown → unhealthy",
        "Read-only",
        "<noscript>",
    ] {
        assert!(before_script.contains(shown), "{shown}: {before_script}");
    }
    assert!(!page.text.contains("http://cdn") && !page.text.contains("src=\""));
}

#[tokio::test]
async fn the_json_has_the_documented_shape() {
    let pool = pool(&["a"]);
    let stats = Stats::new(pool.clone());
    let certificates = certificates(&[("a.test", 20)]);
    certificates.show_in(&stats.certificates(), "127.0.0.1:443");
    let admin = Admin::new(pool).name("lb-1").stats(stats).unwrap();
    let served = Served::start(admin).await;
    let answer = get(served.address, "/status.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let status = answer.json();
    let names = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    // The table of the room's documentation.
    let documented = documented_fields();
    for (prefix, value) in [
        ("", &status),
        ("pool.", &status["pool"]),
        ("backends[].", &status["backends"][0]),
        ("certificates[].", &status["certificates"][0]),
    ] {
        for name in names(value) {
            let name = format!("{prefix}{name}");
            assert!(documented.contains(&name), "{name} is not documented");
        }
        for name in documented
            .iter()
            .filter_map(|name| name.strip_prefix(prefix))
        {
            let is_own = !name.contains('.') && !name.contains("[]");
            assert!(
                !is_own || value.get(name).is_some(),
                "{prefix}{name} is not there"
            );
        }
    }
    assert_eq!(status["name"], "lb-1");
    let time = status["time"].as_str().unwrap();
    assert_eq!(
        (time.len(), &time[10..11], &time[23..]),
        (24, "T", "Z"),
        "{time}"
    );
}

#[tokio::test]
async fn certificates_are_rows_with_the_colour_of_their_age() {
    let pool = pool(&["a"]);
    let stats = Stats::new(pool.clone());
    let admin = Admin::new(pool).stats(stats.clone()).unwrap();
    let served = Served::start(admin).await;
    let page = get(served.address, "/status").await.text;
    let section = "<section id=\"certificates-section\" aria-labelledby=\"certificates-title\"";
    assert!(
        page.contains(&format!("{section} hidden>")),
        "without any it is hidden"
    );

    let certificates = certificates(&[("far.test", 60), ("warn.test", 20), ("error.test", 3)]);
    certificates.show_in(&stats.certificates(), "127.0.0.1:443");
    let page = get(served.address, "/status").await.text;
    assert!(page.contains(&format!("{section}>")));
    for (class, name, badge, left) in [
        ("valid", "far.test", "valid", "59 d 23 h left"),
        ("warn", "warn.test", "expires soon", "19 d 23 h left"),
        ("error", "error.test", "expires very soon", "2 d 23 h left"),
    ] {
        let rows = page.split("<tr role=\"row\" class=\"").skip(1);
        let mut rows = rows.filter(|row| row.contains(&format!(">{name}<")));
        let row = rows.next().unwrap_or_else(|| panic!("{name}: {page}"));
        for part in [
            class,
            badge,
            left,
            "ECDSA",
            "127.0.0.1:443",
            "CN=an authority for tests",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(row.starts_with(class), "{row}");
    }
    let status = get(served.address, "/status.json").await.json();
    let rows = status["certificates"].as_array().unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["name"].as_str(),
                row["days_left"].as_i64(),
                row["expiry"].as_str(),
            )
        })
        .collect();
    let wanted = [
        (Some("error.test"), Some(2), Some("error")),
        (Some("warn.test"), Some(19), Some("warn")),
        (Some("far.test"), Some(59), Some("valid")),
    ];
    assert_eq!(shown, wanted, "the first to expire first");
    assert_eq!(status["certificates_total"], 3);

    // A page of a hundred is enough.
    let names: Vec<_> = (0..120).map(|n| (format!("n{n}.test"), 90)).collect();
    let names: Vec<_> = names
        .iter()
        .map(|(name, days)| (name.as_str(), *days))
        .collect();
    let many = super::certificates(&names);
    many.show_in(&stats.certificates(), "127.0.0.1:444");
    let status = get(served.address, "/status.json").await.json();
    assert_eq!(status["certificates"].as_array().unwrap().len(), 100);
    assert_eq!(status["certificates_total"], 123);
    let page = get(served.address, "/status").await.text;
    assert!(page.contains("the 100 of 123 that expire first"));
}

fn documented_fields() -> Vec<String> {
    let docs = include_str!("../../../src/admin/mod.rs");
    let (_, table) = docs.split_once("//! | field | what |").unwrap();
    let lines = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("//! |"));
    let cells = lines.filter_map(|line| line.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn live_ready_and_metrics_stand_beside_the_page() {
    let pool = pool(&["a"]);
    let metrics = service_fn(|request: http::Request<()>| async move {
        let agent = request.headers().contains_key("host");
        Ok::<_, Infallible>(Response::new(Full::from(format!("up 1 {agent}\n"))))
    });
    let admin = Admin::new(pool.clone()).metrics(metrics);
    let both = EndpointsLayer::new(Readiness::new(pool)).layer(admin);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { evenkeel::serve(listener, both).await });
    for (path, status, text) in [
        ("/live", 200, "{\"live\":true}"),
        ("/ready", 200, "\"ready\":true"),
        ("/metrics", 200, "up 1 true\n"),
        ("/status", 200, "href=\"metrics\""),
        ("/other", 404, "not_found"),
    ] {
        let answer = get(address, path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text.contains(text), "{path}: {}", answer.text);
    }
    serving.abort();
    let served = Served::start(Admin::new(self::pool(&["a"]))).await;
    assert_eq!(get(served.address, "/metrics").await.status, 404);
    assert!(
        !get(served.address, "/status")
            .await
            .text
            .contains("href=\"metrics\"")
    );
}

#[tokio::test]
async fn an_axum_router_can_nest_it() {
    let app = Router::new().nest_service("/lb", Admin::new(pool(&["a"])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    assert_eq!(
        get(address, "/lb/status.json").await.json()["pool"]["usable"],
        1
    );
    assert_eq!(get(address, "/lb/status").await.status, 200);
    assert_eq!(get(address, "/status").await.status, 404);
    serving.abort();
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let served = Served::start(Admin::new(pool(&["a"]))).await;
    let head = super::request("HEAD", "/status", &[], "");
    let answer = super::ask(served.address, head).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""));
    let length: usize = answer.header("content-length").parse().unwrap();
    assert!(length > 10_000, "{length}");
}

/// Asks until the state is as wanted.
async fn until(served: &Served, is_wanted: impl Fn(&serde_json::Value) -> bool) -> Answer {
    let asking = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            let answer = get(served.address, "/status.json").await;
            if is_wanted(&answer.json()) {
                return answer;
            }
        }
    };
    timeout(LIMIT, asking).await.unwrap()
}

#[tokio::test]
async fn checks_traffic_and_latency_show() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let backends = [("a", &a), ("b", &b)].map(|(id, at)| Backend::new(id, &at.url()).unwrap());
    let pool = Pool::new(backends).unwrap();
    let stats = Stats::new(pool.clone());
    let checks = Checks::new().interval(Duration::from_millis(50));
    let checks = checks.timeout(Duration::from_millis(40));
    let health = HealthLayer::new(pool.clone()).checks(checks).unwrap();
    let mut balancer = LoadBalancer::builder(pool.clone())
        .metrics(MetricsLayer::new(stats.clone()))
        .unwrap()
        .health(health)
        .unwrap()
        .build();
    let admin = Admin::new(pool.clone()).stats(stats.clone()).unwrap();
    let served = Served::start(admin.metrics(MetricsService::new(stats.clone()))).await;
    for _ in 0..20 {
        let request = http::Request::new(Full::<bytes::Bytes>::default());
        let response = balancer.send(request).await;
        assert_eq!(response.status(), 200);
        drop(http_body_util::BodyExt::collect(response.into_body()).await);
    }
    let answer = until(&served, |status| {
        let pool = &status["pool"];
        pool["p99_ms"].as_f64().is_some() && pool["requests_per_second"].as_f64() > Some(0.0)
    })
    .await
    .json();
    assert_eq!(answer["pool"]["requests"], 20);
    assert_eq!(answer["pool"]["error_share"], 0.0);
    let first = &answer["backends"][0];
    assert_eq!(
        (&first["requests"], &first["share"]),
        (&10.into(), &0.5.into()),
        "{first}"
    );
    assert_eq!(first["latency_of"], "requests");
    let points = first["latency_ms"].as_array().unwrap();
    assert!(
        points.iter().any(|point| point.as_f64() > Some(0.0)),
        "{points:?}"
    );
    let check = &first["last_check"];
    assert_eq!(
        (&check["passed"], &check["status"]),
        (&true.into(), &200.into()),
        "{check}"
    );
    let metrics = get(served.address, "/metrics").await.text;
    assert!(metrics.contains("evenkeel_backend"), "{metrics}");

    // Each check is shown, not only those that change something.
    let earlier = check["time"].clone();
    until(&served, |status| {
        status["backends"][0]["last_check"]["time"] != earlier
    })
    .await;
    drop(b);
    let down = until(&served, |status| status["backends"][1]["state"] == "down")
        .await
        .json();
    let gone = &down["backends"][1];
    assert_eq!(gone["reason"]["code"], "L4CON", "{gone}");
    assert_eq!(gone["last_check"]["passed"], false);
    assert_eq!(down["changes"][0]["to"], "unhealthy", "{down}");
    assert_eq!(down["pool"]["usable"], 1);
}

#[test]
fn numbers_of_another_pool_are_refused() {
    let other = Stats::new(pool(&["a"]));
    let error = Admin::new(pool(&["a"])).stats(other).unwrap_err();
    assert_eq!(error.field(), "stats");
    let error = Admin::new(pool(&["a"])).max_viewers(0).unwrap_err();
    assert_eq!(error.field(), "max_viewers");
}
