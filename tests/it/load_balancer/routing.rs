//! Traffic follows health: tiers, places, panic, slow start, and what an operator orders.

use std::{future::IntoFuture, time::Duration};

use evenkeel::{
    LoadBalancer, Pool,
    health::HealthLayer,
    pool::{Drained, HealthStatus, Locality, PanicRouting, Routing},
};
use http::{StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::{
    quiet, sticky,
    world::{AT_ONCE, Conduct, Edge, Node, PATIENCE, Tally, checks, patiently, until},
};

/// Checks alone judge.
async fn checked(pool: &Pool) -> Edge {
    let health = HealthLayer::new(pool.clone()).no_outliers();
    let health = health.checks(checks()).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(health)
        .unwrap()
        .build();
    let edge = Edge::open(balancer).await;
    let members = pool.snapshot().backends().len();
    until(pool, "all up", |s| s.usable() == members).await;
    edge
}

fn at_once() -> Routing {
    Routing::new().slow_start(Duration::ZERO, 1.0).unwrap()
}

fn place(path: &str) -> Locality {
    Locality::new(path).unwrap()
}

#[track_caller]
fn is_near(share: f64, wanted: f64, tally: &Tally) {
    // Of 800 by chance, this is off by more than 4 standard deviations.
    assert!((share - wanted).abs() < 7.0, "{wanted} wanted: {tally:?}");
}

#[tokio::test]
async fn a_tier_that_lost_half_overflows_and_one_that_is_gone_is_replaced() {
    let first = Node::start_all(["a", "b", "c", "d"]).await;
    let second = Node::start_all(["x", "y"]).await;
    let preferred = first.iter().map(|node| node.backend().tier(0));
    let rest = second.iter().map(|node| node.backend().tier(1));
    let pool = Pool::new(preferred.chain(rest)).unwrap();
    pool.update_routing(at_once());
    let edge = checked(&pool).await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["a", "b", "c", "d"]);

    first[2].well(false);
    first[3].well(false);
    until(&pool, "half of a tier is down", |s| s.usable() == 4).await;
    let half = edge.load(4, 200).await;
    is_near(half.share(&["a", "b"]), 70.0, &half);
    is_near(half.share(&["x", "y"]), 30.0, &half);
    assert_eq!(half.answered_by(), ["a", "b", "x", "y"], "and nothing else");

    first[0].well(false);
    first[1].well(false);
    until(&pool, "a tier is down", |s| s.usable() == 2).await;
    let gone = edge.load(4, 20).await;
    assert_eq!((gone.of(&["x"]), gone.of(&["y"])), (40, 40), "{gone:?}");

    first.iter().for_each(|node| node.well(true));
    until(&pool, "all up", |s| s.usable() == 6).await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn traffic_stays_near_and_spills_as_far_as_it_must() {
    let near = Node::start_all(["n1", "n2", "n3", "n4"]).await;
    let beside = Node::start_all(["z1", "z2"]).await;
    let away = Node::start_all(["r1", "r2"]).await;
    let places = [
        (&near, "eu/eu-a"),
        (&beside, "eu/eu-b/r7"),
        (&away, "us/us-a"),
    ];
    let stands = |(nodes, path)| {
        let nodes: &Vec<Node> = nodes;
        nodes
            .iter()
            .map(move |node| node.backend().locality(place(path)))
    };
    let pool = Pool::new(places.into_iter().flat_map(stands)).unwrap();
    pool.update_routing(at_once().locality(place("eu/eu-a")));
    let edge = checked(&pool).await;
    assert_eq!(
        edge.load(4, 20).await.answered_by(),
        ["n1", "n2", "n3", "n4"]
    );

    near[0].well(false);
    near[1].well(false);
    until(&pool, "half of the zone is down", |s| s.usable() == 6).await;
    let half = edge.load(4, 200).await;
    is_near(half.share(&["n3", "n4"]), 70.0, &half);
    is_near(half.share(&["z1", "z2"]), 30.0, &half);
    assert_eq!(half.of(&["r1", "r2"]), 0, "not out of the region: {half:?}");

    near.iter().chain(&beside).for_each(|node| node.well(false));
    until(&pool, "the region is down", |s| s.usable() == 2).await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["r1", "r2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_evacuated_under_load_without_an_error() {
    const CLIENTS: usize = 6;
    let near = Node::start_all(["n1", "n2"]).await;
    let far = Node::start_all(["f1", "f2"]).await;
    let stands = |nodes: &[Node], path| -> Vec<_> {
        let stands = |node: &Node| node.backend().locality(place(path));
        nodes.iter().map(stands).collect()
    };
    let members = [stands(&near, "eu/eu-a/r1"), stands(&far, "eu/eu-b/r1")];
    let pool = Pool::new(members.into_iter().flatten()).unwrap();
    pool.update_routing(at_once().locality(place("eu/eu-a")));
    let balancer = LoadBalancer::builder(pool.clone())
        .sticky(sticky(&pool))
        .unwrap()
        .health(HealthLayer::new(pool.clone()).checks(checks()).unwrap())
        .unwrap()
        .build();
    let edge = Edge::open(balancer).await;
    until(&pool, "all up", |s| s.usable() == 4).await;
    let came = |nodes: &[Node]| nodes.iter().map(Node::requests).sum::<usize>();
    let mut client = edge.client().await;
    let (_, cookie) = client.session_on(&["n1", "n2"]).await;
    let busy = edge.keep_busy(CLIENTS).await;
    busy.more(100).await;
    assert_eq!(came(&far), 0, "all is near");

    assert_eq!(pool.evacuate(&place("eu/eu-a")), 2);
    let moved = client.get_with("/", header::COOKIE, &cookie).await;
    assert!(
        ["f1", "f2"].contains(&moved.body.as_str()),
        "{}",
        moved.body
    );
    let cookie = moved.cookie.expect("a new home");
    // What was on its way.
    patiently("end of what was in flight", || {
        let snapshot = pool.snapshot();
        let near = ["n1", "n2"].map(|id| snapshot.get(id).unwrap().in_flight());
        near == [0, 0]
    })
    .await;
    let before = came(&near);
    busy.more(200).await;
    let late = came(&near) - before;
    assert!(late <= CLIENTS, "{late} came after the evacuation");
    for node in &near {
        // Checks come and go.
        node.until_open(0).await;
    }

    pool.restore(&place("eu/eu-a"));
    for _ in 0..5 {
        let stays = client.get_with("/", header::COOKIE, &cookie).await;
        assert_eq!((&stays.body, stays.cookie), (&moved.body, None), "once");
    }
    busy.more(CLIENTS).await;
    let before = (came(&near), came(&far));
    busy.more(200).await;
    assert!(came(&near) >= before.0 + 200 - CLIENTS, "traffic is back");
    assert_eq!(came(&far), before.1, "all of it");
    let tally = busy.end().await;
    assert_eq!(
        tally.answered_by(),
        ["f1", "f2", "n1", "n2"],
        "no error: {tally:?}"
    );
}

#[tokio::test]
async fn in_a_panic_all_are_used_or_requests_fail_at_once() {
    let nodes = Node::start_all(["a", "b", "c", "d"]).await;
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    let use_all = PanicRouting::UseAll { below: 0.5 };
    pool.update_routing(at_once().panic(use_all).unwrap());
    let edge = checked(&pool).await;

    // They serve, whatever their checks say.
    nodes[0].well(false);
    nodes[1].well(false);
    until(&pool, "half are down", |s| s.usable() == 2).await;
    assert_eq!(
        edge.load(4, 20).await.answered_by(),
        ["c", "d"],
        "not below half"
    );
    nodes[2].well(false);
    until(&pool, "a panic", |s| s.in_panic_mode()).await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["a", "b", "c", "d"]);
    nodes[3].well(false);
    until(&pool, "all down", |s| {
        s.backends()
            .iter()
            .all(|b| b.active_health() == HealthStatus::Unhealthy)
    })
    .await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["a", "b", "c", "d"]);

    pool.update_routing(at_once());
    let began = Instant::now();
    let answer = edge.client().await.get("/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    // Well below what a request waits where there is hope.
    assert!(began.elapsed() < Duration::from_secs(4), "at once");
    assert_eq!(
        edge.load(4, 20).await.answered_by(),
        ["503"],
        "no backend is used"
    );
    nodes[1].well(true);
    until(&pool, "one is back", |s| s.usable() == 1).await;
    assert_eq!(edge.load(4, 20).await.answered_by(), ["b"]);
}

#[tokio::test]
async fn one_that_recovered_gets_its_share_little_by_little() {
    const RAMP: Duration = Duration::from_secs(2);
    const FROM: f64 = 0.05;
    const WINDOW: usize = 40;
    let nodes = Node::start_all(["a", "b"]).await;
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    pool.update_routing(Routing::new().slow_start(RAMP, FROM).unwrap());
    let edge = checked(&pool).await;
    let first = edge.load(1, WINDOW).await;
    assert_eq!(first.share(&["b"]), 50.0, "none at the start: {first:?}");
    nodes[1].well(false);
    until(&pool, "one is down", |s| s.usable() == 1).await;

    let began = Instant::now();
    nodes[1].well(true);
    until(&pool, "it is back", |s| s.usable() == 2).await;
    let warm = || pool.snapshot().groups()[0].weights() == [1_000, 1_000];
    let mut shares = Vec::new();
    while !warm() {
        assert!(began.elapsed() < PATIENCE, "it must get warm: {shares:?}");
        let window = edge.load(1, WINDOW).await;
        // It cannot be further than that by now.
        let gone = began.elapsed().as_secs_f64() / RAMP.as_secs_f64();
        let most = (FROM + (1.0 - FROM) * gone).min(1.0);
        let share = window.share(&["b"]);
        shares.push(share);
        let bound = 100.0 * most / (1.0 + most) + 100.0 * 2.0 / WINDOW as f64;
        assert!(share <= bound, "{share} of at most {bound}: {shares:?}");
    }
    assert!(shares.len() >= 4, "{shares:?}");
    let part = shares.len() / 3;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (low, high) = (mean(&shares[..part]), mean(&shares[shares.len() - part..]));
    assert!(low + 10.0 < high, "it grows: {shares:?}");
    let whole = edge.load(1, WINDOW).await;
    assert_eq!(whole.share(&["b"]), 50.0, "its whole share: {whole:?}");
}

#[tokio::test]
async fn a_drain_ends_with_the_last_body_and_keeps_sessions_until_then() {
    let nodes = Node::start_all(["a", "b"]).await;
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .sticky(sticky(&pool))
        .unwrap()
        .health(quiet(&pool))
        .unwrap()
        .build();
    let edge = Edge::open(balancer).await;
    let mut client = edge.client().await;
    let (_, cookie) = client.session_on(&["a"]).await;
    nodes[0].conduct(Conduct::HoldStreams);
    let mut other = edge.client().await;
    let streamed = other.begin("/stream", header::COOKIE, &cookie).await;
    let mut body = streamed.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame, "begun, ");
    let home = client.get_with("/", header::COOKIE, &cookie).await;
    assert_eq!(home.body, "a");
    // One connection streams, another is idle.
    nodes[0].until_open(2).await;

    let drain = tokio::spawn(pool.drain("a", PATIENCE).unwrap().into_future());
    nodes[0].until_open(1).await;
    assert_eq!(edge.load(2, 10).await.answered_by(), ["b"], "no new client");
    let home = client.get_with("/", header::COOKIE, &cookie).await;
    assert_eq!(
        (home.body.as_str(), home.cookie),
        ("a", None),
        "a session stays"
    );
    assert!(!drain.is_finished(), "a body is on its way");
    nodes[0].conduct(AT_ONCE);
    let rest = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
    assert_eq!(rest.to_bytes(), "ended", "what began must end");
    let drained = timeout(PATIENCE, drain).await.unwrap().unwrap();
    assert_eq!(drained, Drained::Empty);
    nodes[0].until_open(0).await;

    pool.mark_ready("a").unwrap();
    assert_eq!(edge.load(2, 10).await.answered_by(), ["a", "b"], "undone");
}
