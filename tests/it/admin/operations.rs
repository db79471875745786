//! What may change the pool, and what a wrong order gets.

use std::time::Duration;

use evenkeel::{
    admin::{Admin, Denied, User},
    pool::Mode,
};
use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt;

use super::{LIMIT, Served, TOKEN, ask, order, pool, request};
use crate::support::Written;

fn mode(pool: &evenkeel::Pool, id: &str) -> Mode {
    pool.snapshot().get(id).unwrap().mode()
}

#[tokio::test]
async fn without_a_token_the_api_is_read_only() {
    let pool = pool(&["a"]);
    let served = Served::start(Admin::new(pool.clone())).await;
    for action in ["drain", "maintenance", "ready", "weight"] {
        let path = format!("/backends/a/{action}");
        let answer = order(served.address, &path, "weight=3").await;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert_eq!(answer.json()["error"], "read_only");
    }
    assert_eq!(mode(&pool, "a"), Mode::Ready);
    assert_eq!(pool.snapshot().get("a").unwrap().configured_weight(), 1);
    let status = super::get(served.address, "/status.json").await;
    assert_eq!(status.json()["writable"], false);
}

#[tokio::test]
async fn orders_need_the_token_and_do_what_they_say() {
    let pool = pool(&["a", "eu/1?"]);
    let admin = Admin::new(pool.clone()).token("ops", TOKEN).unwrap();
    let served = Served::start(admin).await;
    for authorization in [
        None,
        Some("Bearer another-token-of-16"),
        Some("Basic b3BzOg=="),
    ] {
        let field = authorization.map(|value| ("authorization", value));
        let wrong = request("POST", "/backends/a/maintenance", field.as_slice(), "");
        let answer = ask(served.address, wrong).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "));
        assert_eq!(answer.json()["error"], "unauthenticated");
    }
    assert_eq!(mode(&pool, "a"), Mode::Ready);

    let answer = order(served.address, "/backends/a/drain", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let backend = &answer.json()["backend"];
    assert_eq!(
        (&backend["mode"], &backend["state"]),
        (&"draining".into(), &"draining".into())
    );
    assert_eq!(backend["in_flight"], 0);
    let Mode::Draining { until } = mode(&pool, "a") else {
        panic!("{:?}", mode(&pool, "a"));
    };
    let left = until - Instant::now();
    assert!(left <= Duration::from_secs(300) && left > Duration::from_secs(300) - LIMIT);
    order(served.address, "/backends/a/drain", "deadline=2h").await;
    let Mode::Draining { until } = mode(&pool, "a") else {
        panic!("{:?}", mode(&pool, "a"));
    };
    assert!(until - Instant::now() > Duration::from_secs(7_100));

    order(served.address, "/backends/a/maintenance", "").await;
    assert_eq!(mode(&pool, "a"), Mode::Maintenance);
    order(served.address, "/backends/a/ready", "").await;
    assert_eq!(mode(&pool, "a"), Mode::Ready);
    let answer = order(served.address, "/backends/eu%2F1%3F/weight", "weight=7").await;
    assert_eq!(answer.json()["backend"]["weight"], 7);
    assert_eq!(pool.snapshot().get("eu/1?").unwrap().configured_weight(), 7);
    assert_eq!(answer.json()["backend"]["share"], 0.875, "7 of 8");

    let json = [
        ("authorization", "Bearer a-token-of-the-tests"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    let request = request("POST", "/backends/a/weight", &json, "{\"weight\": 1000}");
    assert_eq!(ask(served.address, request).await.status, 200);
    assert_eq!(pool.snapshot().get("a").unwrap().configured_weight(), 1_000);
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_order() {
    let pool = pool(&["a"]);
    let admin = Admin::new(pool.clone()).authorizer(|_| Ok(User::new("by certificate")));
    let served = Served::start(admin).await;
    for fields in [
        [("origin", "http://evil.example"), ("x-none", "")],
        [("origin", "null"), ("x-none", "")],
        [
            ("origin", "http://lb.example:9900"),
            ("sec-fetch-site", "cross-site"),
        ],
        [("x-none", ""), ("sec-fetch-site", "same-site")],
    ] {
        let answer = ask(
            served.address,
            request("POST", "/backends/a/maintenance", &fields, ""),
        )
        .await;
        assert_eq!(answer.status, 403, "{fields:?}: {answer:?}");
        assert_eq!(answer.json()["error"], "cross_origin");
        assert_eq!(mode(&pool, "a"), Mode::Ready);
    }
    let own = [
        ("origin", "http://lb.example:9900"),
        ("sec-fetch-site", "same-origin"),
    ];
    let answer = ask(
        served.address,
        request("POST", "/backends/a/maintenance", &own, ""),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_wrong_order_gets_what_is_wrong_and_changes_nothing() {
    let pool = pool(&["a"]);
    let admin = Admin::new(pool.clone()).token("ops", TOKEN).unwrap();
    let served = Served::start(admin).await;
    let generation = pool.snapshot().generation();
    for (path, form, status, error, field) in [
        ("/backends/b/drain", "", 404, "unknown_backend", None),
        (
            "/backends/b/weight",
            "weight=1",
            404,
            "unknown_backend",
            None,
        ),
        (
            "/backends/a/weight",
            "weight=1001",
            400,
            "bad_field",
            Some("weight"),
        ),
        (
            "/backends/a/weight",
            "weight=-1",
            400,
            "bad_field",
            Some("weight"),
        ),
        ("/backends/a/weight", "", 400, "bad_field", Some("weight")),
        (
            "/backends/a/drain",
            "deadline=soon",
            400,
            "bad_field",
            Some("deadline"),
        ),
        ("/backends/a/ready", "now=1", 400, "bad_field", Some("now")),
        ("/backends/a/drain", "deadline=%zz", 400, "bad_body", None),
        ("/backends/a/remove", "", 404, "not_found", None),
        ("/backends/a", "", 404, "not_found", None),
    ] {
        let answer = order(served.address, path, form).await;
        assert_eq!(answer.status, status, "{path} {form}: {answer:?}");
        let json = answer.json();
        assert_eq!(json["error"], error, "{path} {form}");
        assert_eq!(json["field"].as_str(), field, "{path} {form}");
        assert!(json["message"].as_str().is_some_and(|text| text.len() > 10));
    }
    let with = |media, body: &str| {
        let authorization = format!("Bearer {TOKEN}");
        let fields = [
            ("authorization", authorization.as_str()),
            ("content-type", media),
        ];
        request("POST", "/backends/a/weight", &fields, body)
    };
    let large = format!("weight={}", "1".repeat(5_000));
    for (media, body, status, error) in [
        ("text/plain", "weight=3", 415, "bad_media_type"),
        (
            "multipart/form-data; boundary=x",
            "weight=3",
            415,
            "bad_media_type",
        ),
        ("application/json", "{\"weight\":", 400, "bad_body"),
        (
            "application/x-www-form-urlencoded",
            &large,
            413,
            "body_too_large",
        ),
    ] {
        let answer = ask(served.address, with(media, body)).await;
        assert_eq!(answer.status, status, "{media}: {answer:?}");
        assert_eq!(answer.json()["error"], error, "{media}");
    }
    assert_eq!(pool.snapshot().generation(), generation);
}

#[tokio::test]
async fn wrong_methods_get_405_with_the_right_ones() {
    let admin = Admin::new(pool(&["a"])).token("ops", TOKEN).unwrap();
    let served = Served::start(admin).await;
    for (method, path, allowed) in [
        ("GET", "/backends/a/drain", "POST"),
        ("DELETE", "/backends/a/drain", "POST"),
        ("POST", "/status", "GET, HEAD"),
        ("PUT", "/status.json", "GET, HEAD"),
        ("HEAD", "/status/events", "GET"),
    ] {
        let answer = ask(served.address, request(method, path, &[], "")).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn the_authorizer_decides_by_the_head_and_each_order_is_logged_with_its_user() {
    let lines = Written::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(log);
    let _guard = tracing::subscriber::set_default(subscriber);
    let pool = pool(&["a"]);
    let admin = Admin::new(pool.clone()).authorizer(|head| {
        match head
            .headers
            .get("x-user")
            .and_then(|name| name.to_str().ok())
        {
            Some("anna") => Ok(User::new("anna")),
            Some(_) => Err(Denied::forbidden("anna alone may")),
            None => Err(Denied::unauthenticated("no name was given")),
        }
    });
    let served = Served::start(admin).await;
    let by = |user: &[(&str, &str)]| request("POST", "/backends/a/maintenance", user, "");
    for (user, status) in [
        (vec![], 401),
        (vec![("x-user", "bob")], 403),
        (vec![("x-user", "anna")], 200),
    ] {
        assert_eq!(
            ask(served.address, by(&user)).await.status,
            status,
            "{user:?}"
        );
    }
    assert_eq!(mode(&pool, "a"), Mode::Maintenance);
    let written = String::from_utf8(lines.take()).unwrap();
    let of_room: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["target"] == "evenkeel::admin")
        .collect();
    let done = of_room.last().unwrap();
    let fields = &done["fields"];
    assert_eq!(fields["message"], "an order was carried out", "{written}");
    assert_eq!(
        (&fields["user"], &fields["backend"]),
        (&"anna".into(), &"a".into())
    );
    assert_eq!(fields["order"], "maintenance");
    let peer = fields["peer"].as_str().unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    assert!(
        !written.contains("bob"),
        "a refused name is not shown: {written}"
    );
}
