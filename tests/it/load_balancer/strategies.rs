//! Strategies that follow what backends do: the hash of a key, and latency.

use std::{collections::BTreeMap, time::Duration};

use evenkeel::{
    LoadBalancer, Pool,
    balance::{BalanceLayer, ConsistentHash, HashKey, PeakEwma, Strategy},
    health::HealthLayer,
    pool::Routing,
};
use http::{HeaderName, StatusCode};
use tokio::time::Instant;

use super::{
    quiet,
    world::{Client, Conduct, Edge, Node, checks, until},
};

const USER: HeaderName = HeaderName::from_static("x-user");

async fn open(pool: &Pool, strategy: impl Strategy, health: HealthLayer) -> Edge {
    let balance = BalanceLayer::new(pool.clone()).strategy(strategy);
    let balancer = LoadBalancer::builder(pool.clone())
        .balance(balance)
        .unwrap()
        .health(health)
        .unwrap();
    Edge::open(balancer.build()).await
}

/// Returns where each user goes.
async fn homes(client: &mut Client) -> BTreeMap<u32, String> {
    let mut homes = BTreeMap::new();
    for user in 0..60 {
        let answer = client.get_with("/", USER, &format!("user-{user}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        homes.insert(user, answer.body);
    }
    homes
}

#[tokio::test]
async fn a_key_stays_on_its_backend_and_only_those_of_a_lost_one_move() {
    let nodes = Node::start_all(["a", "b", "c", "d"]).await;
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    pool.update_routing(Routing::new().slow_start(Duration::ZERO, 1.0).unwrap());
    let health = HealthLayer::new(pool.clone()).no_outliers();
    let health = health.checks(checks()).unwrap();
    let edge = open(&pool, ConsistentHash::new(HashKey::Header(USER)), health).await;
    until(&pool, "all up", |s| s.usable() == 4).await;
    let mut client = edge.client().await;
    let before = homes(&mut client).await;
    for node in &nodes {
        let own = before.values().filter(|home| *home == node.name).count();
        assert!(own >= 3, "{} has {own} of 60 keys", node.name);
    }
    assert_eq!(homes(&mut client).await, before, "the same again");
    assert_eq!(homes(&mut edge.client().await).await, before, "for all");

    nodes[1].well(false);
    until(&pool, "one is down", |s| s.usable() == 3).await;
    let without = homes(&mut client).await;
    for (user, home) in &before {
        match home.as_str() {
            "b" => assert_ne!(without[user], "b", "{user} has a new home"),
            _ => assert_eq!(&without[user], home, "{user} stays"),
        }
    }
    nodes[1].well(true);
    until(&pool, "it is back", |s| s.usable() == 4).await;
    assert_eq!(homes(&mut client).await, before, "as it was");

    let tally = edge.load(1, 40).await;
    for node in &nodes {
        assert_eq!(tally.of(&[node.name]), 10, "in turn: {tally:?}");
    }
}

#[tokio::test]
async fn a_slow_backend_gets_far_less_than_those_that_answer_soon() {
    let nodes = Node::start_all(["a", "b", "c", "slow"]).await;
    nodes[3].conduct(Conduct::Answer(Duration::from_millis(50)));
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    let edge = open(&pool, PeakEwma::new(), quiet(&pool)).await;
    let tally = edge.load(4, 200).await;
    let least = ["a", "b", "c"]
        .map(|name| tally.of(&[name]))
        .into_iter()
        .min();
    let slow = tally.of(&["slow"]);
    assert!(slow >= 1, "a request had to find out: {tally:?}");
    assert!(3 * slow < least.unwrap(), "{tally:?}");
}

#[tokio::test]
async fn a_backend_that_fails_fast_attracts_no_traffic() {
    let nodes = Node::start_all(["a", "b", "c", "ill"]).await;
    let while_it = Duration::from_millis(4);
    nodes
        .iter()
        .for_each(|node| node.conduct(Conduct::Answer(while_it)));
    let soon = Duration::from_millis(1);
    nodes[3].conduct(Conduct::Refuse(StatusCode::SERVICE_UNAVAILABLE, soon));
    let pool = Pool::new(nodes.iter().map(Node::backend)).unwrap();
    // Outliers are off: this is the strategy's doing alone.
    let edge = open(&pool, PeakEwma::new(), quiet(&pool)).await;
    let began = Instant::now();
    let mut sum = (0, 0);
    while sum.1 < 1_200 && (sum.1 < 400 || began.elapsed() < Duration::from_secs(2)) {
        let tally = edge.load(8, 25).await;
        sum = (sum.0 + tally.of(&["503"]), sum.1 + tally.all());
    }
    let (failed, all) = sum;
    assert!(failed >= 1, "a request had to find out");
    assert!(failed * 100 < all, "{failed} of {all}");
}
