//! How live traffic takes a backend out, and how one request at a time lets it back in.

use std::time::Duration;

use evenkeel::{
    Backend, LoadBalancer, Pool,
    health::{HealthLayer, Outliers},
    pool::{Circuit, Routing},
};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use tokio::time::sleep;
use tower::ServiceExt;

use super::world::{AT_ONCE, Conduct, Edge, Node, Tally, patiently, until};
use crate::support::refused;

/// Short, and long enough for what is held meanwhile to be seen.
const EJECTION: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_that_fails_is_out_until_one_of_its_trials_passes_and_no_client_sees_it() {
    let nodes = Node::start_all(["a", "b", "c"]).await;
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    pool.update_routing(Routing::new().slow_start(Duration::ZERO, 1.0).unwrap());
    let outliers = Outliers::new()
        .no_failure_rate()
        .ejection(EJECTION, EJECTION)
        .jitter(0.0);
    let health = HealthLayer::new(pool.clone()).no_checks();
    let health = health.outliers(outliers).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(health)
        .unwrap()
        .build();
    let edge = Edge::open(balancer).await;
    let ill = &nodes[0];
    let circuit = || pool.snapshot().get("a").unwrap().circuit();
    let until_circuit = |wanted| {
        let what = format!("the circuit is {wanted:?}");
        let pool = pool.clone();
        async move { until(&pool, &what, |s| s.get("a").unwrap().circuit() == wanted).await }
    };

    // Five failures in a row.
    ill.conduct(Conduct::HangUp);
    let mut client = edge.client().await;
    let mut tally = Tally::default();
    while circuit() == Circuit::Closed {
        assert!(tally.all() < 100, "it must be ejected: {tally:?}");
        tally.count(&client.get("/").await);
    }
    assert_eq!(
        tally.answered_by(),
        ["b", "c"],
        "others answered: {tally:?}"
    );
    assert_eq!(ill.requests(), 5, "{tally:?}");

    // The first trial hangs: there is no other beside it, however long it takes.
    ill.conduct(Conduct::Hold);
    let busy = edge.keep_busy(4).await;
    let held = ill.requests() + 1;
    patiently("trial", || ill.requests() == held).await;
    assert_eq!(circuit(), Circuit::HalfOpen);
    sleep(2 * EJECTION).await;
    busy.more(100).await;
    assert_eq!(ill.requests(), held, "one at a time");
    assert_eq!(circuit(), Circuit::HalfOpen, "nothing is known yet");

    // It fails: out again, for as long as before, and then the next one.
    ill.conduct(Conduct::HangUp);
    until_circuit(Circuit::Open).await;
    let failed = ill.requests();
    ill.conduct(Conduct::Hold);
    patiently("next trial", || ill.requests() > failed).await;
    busy.more(100).await;
    assert_eq!(ill.most_at_once(), 1, "one at a time");

    // It passes.
    ill.conduct(AT_ONCE);
    until_circuit(Circuit::Closed).await;
    let back = ill.requests();
    patiently("traffic for the backend that is back", || {
        ill.requests() > back + 50
    })
    .await;
    let tally = busy.end().await;
    assert_eq!(tally.answered_by(), ["a", "b", "c"], "no error: {tally:?}");
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_no_trial_of_a_backend() {
    let node = Node::start("b").await;
    let dead = Backend::new("a", &format!("http://{}", refused())).unwrap();
    let pool = Pool::new([dead, node.backend()]).unwrap();
    let outliers = Outliers::new()
        .no_failure_rate()
        .ejection(Duration::from_secs(2), Duration::from_secs(2))
        .jitter(0.0);
    let health = HealthLayer::new(pool.clone()).no_checks();
    let health = health.outliers(outliers).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(health)
        .unwrap()
        .build();
    let circuit = || pool.snapshot().get("a").unwrap().circuit();
    let ask = async |method: Method| {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "a")
            .header("max-forwards", "0")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        balancer.clone().oneshot(request).await.unwrap()
    };
    while circuit() == Circuit::Closed {
        ask(Method::GET).await;
    }
    until(&pool, "a trial is due", |s| {
        s.get("a").unwrap().circuit() == Circuit::HalfOpen
    })
    .await;
    let asked = node.requests();
    for _ in 0..3 {
        assert_eq!(ask(Method::OPTIONS).await.status(), StatusCode::OK);
    }
    assert_eq!(node.requests(), asked, "the proxy answered");
    assert_eq!(circuit(), Circuit::HalfOpen, "nothing was shown");
    assert_eq!(ask(Method::GET).await.status(), StatusCode::OK);
    assert_eq!(circuit(), Circuit::Open, "the trial was left for this one");
}
