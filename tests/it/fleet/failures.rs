//! The server hangs, dies, restarts empty, or is full of garbage: what is known stays in force.

use evenkeel::{pool::Locality, stats::Stats};
use redis::cmd;

use super::*;

fn gauge(stats: &Stats) -> Option<f64> {
    let gauges = stats.snapshot().gauges;
    let found = gauges
        .iter()
        .find(|gauge| gauge.name == "evenkeel_fleet_store_up");
    found.map(|gauge| gauge.value)
}

#[tokio::test]
async fn a_start_without_the_server_is_bounded_and_what_was_missed_follows() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    server.kill();
    let began = Instant::now();
    let a = Instance::start(&server, "lb-1").await;
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(20),
        "{took:?}"
    );
    assert!(!a.handle.is_store_up());
    a.pool.start_maintenance("a").unwrap();
    server.restart();
    let b = Instance::start(&server, "lb-2").await;
    b.has_mode("a", "maintenance").await;
    assert!(a.handle.is_store_up() && b.handle.is_store_up());
    // One that hangs is no better than one that is away.
    server.hang();
    let c = Instance::start(&server, "lb-3").await;
    assert!(!c.handle.is_store_up());
    assert_eq!(c.mode("a"), "ready");
    server.go_on();
    c.has_mode("a", "maintenance").await;
}

#[tokio::test]
async fn orders_survive_a_server_that_hangs_dies_and_restarts_empty() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let a = Instance::start(&server, "lb-1").await;
    let b = Instance::start(&server, "lb-2").await;
    let stats = Stats::new(a.pool.clone());
    a.handle.add_gauge(&stats);
    assert_eq!(gauge(&stats), Some(1.0));
    a.pool.start_maintenance("a").unwrap();
    b.has_mode("a", "maintenance").await;
    server.hang();
    until(|| async { !a.handle.is_store_up() }, "it is noticed").await;
    assert_eq!(gauge(&stats), Some(0.0));
    // Given at both meanwhile: each holds where it was given.
    a.pool.update_weight("b", 5).unwrap();
    drop(b.pool.drain("b", Duration::from_secs(300)).unwrap());
    assert_eq!((a.mode("a"), b.mode("a")), ("maintenance", "maintenance"));
    assert_eq!((a.mode("b"), b.weight("b")), ("ready", 1));
    server.go_on();
    a.has_mode("b", "draining").await;
    until(|| async { b.weight("b") == 5 }, "it follows").await;
    until(|| async { a.handle.is_store_up() }, "it is noticed").await;
    assert_eq!(gauge(&stats), Some(1.0));
    let orders = |server: &RedisServer| server.run::<usize>(cmd("HLEN").arg("shop:orders"));
    assert_eq!(orders(&server), 3);
    server.kill();
    until(|| async { !b.handle.is_store_up() }, "it is noticed").await;
    b.pool.mark_ready("a").unwrap();
    server.restart();
    a.has_mode("a", "ready").await;
    until(|| async { orders(&server) == 3 }, "all are written back").await;
    let c = Instance::start(&server, "lb-3").await;
    assert_eq!(
        (c.mode("a"), c.mode("b"), c.weight("b")),
        ("ready", "draining", 5)
    );
    drop(a);
    assert_eq!(gauge(&stats), None, "the gauge ends with its instance");
}

#[tokio::test]
async fn garbage_in_every_key_loses_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let a = Instance::start(&server, "lb-1").await;
    let b = Instance::start(&server, "lb-2").await;
    a.pool.start_maintenance("a").unwrap();
    b.has_mode("a", "maintenance").await;
    for field in ["mode:a", "mode:b", "weight:a", "no subject", "mode:"] {
        server.run::<()>(cmd("HSET").arg(&["shop:orders", field, "\u{1}garbage"]));
    }
    // An order that passes shows that both have looked since.
    b.pool.update_weight("b", 3).unwrap();
    until(|| async { a.weight("b") == 3 }, "other orders pass").await;
    assert_eq!(
        (a.mode("a"), b.mode("a"), b.mode("b")),
        ("maintenance", "maintenance", "ready")
    );
    assert!(a.handle.is_store_up());
    let field =
        |server: &RedisServer| server.run::<Vec<u8>>(cmd("HGET").arg(&["shop:orders", "mode:a"]));
    assert_eq!(field(&server), b"\x01garbage", "left as it is");
    a.pool.mark_ready("a").unwrap();
    b.has_mode("a", "ready").await;
    // Another type.
    a.pool.start_maintenance("b").unwrap();
    b.has_mode("b", "maintenance").await;
    server.run::<()>(cmd("DEL").arg("shop:orders"));
    server.run::<()>(cmd("SET").arg(&["shop:orders", "garbage"]));
    until(
        || async { !a.handle.is_store_up() && !b.handle.is_store_up() },
        "refused",
    )
    .await;
    server.run::<()>(cmd("DEL").arg("shop:orders"));
    a.has_mode("b", "maintenance").await;
    let c = Instance::start(&server, "lb-3").await;
    c.has_mode("b", "maintenance").await;
}

#[tokio::test]
async fn a_store_with_too_many_orders_still_exchanges_those_for_the_members() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let zone = Locality::new("eu/1a").unwrap();
    let pool = || Pool::new(["a", "b"].map(|id| backend(id).locality(zone.clone()))).unwrap();
    let start = |name| Instance::of(pool(), store(&server), name, |fleet| fleet);
    let a = start("lb-1").await;
    a.pool.start_maintenance("b").unwrap();
    let fill = "for i = 1, 20001 do redis.call('HSET', KEYS[1], i, i) end";
    server.run::<()>(cmd("EVAL").arg(fill).arg(1).arg("shop:orders"));
    // An order from before that is in the store alone.
    let is_stored = || async { server.run::<bool>(cmd("HEXISTS").arg(&["shop:orders", "mode:b"])) };
    until(is_stored, "it is written").await;
    let b = start("lb-2").await;
    assert!(b.handle.is_store_up());
    assert_eq!(b.mode("b"), "maintenance");
    b.pool.update_weight("a", 7).unwrap();
    until(|| async { a.weight("a") == 7 }, "a new order passes").await;
    a.pool.evacuate(&Locality::new("eu").unwrap());
    until(
        || async { b.pool.evacuated().len() == 1 },
        "so does an evacuation",
    )
    .await;
    // A member that joins.
    b.pool.upsert(backend("later"));
    b.pool.start_maintenance("later").unwrap();
    a.pool.upsert(backend("later"));
    a.has_mode("later", "maintenance").await;
    server.run::<()>(cmd("DEL").arg("shop:orders"));
    let are_back = || async { server.run::<usize>(cmd("HLEN").arg("shop:orders")) == 4 };
    until(are_back, "all are written back").await;
}
