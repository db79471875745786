//! Orders, secrets, hints and cookies of two instances, while the server answers.

use std::sync::{Arc, Mutex};

use evenkeel::{
    LoadBalancer,
    pool::{HealthStatus, Locality, Measurement, Mode, Reason},
    sticky::{Keys, StickyLayer},
};
use http::{Request, header};
use http_body_util::Empty;
use redis::cmd;

use super::*;
use crate::support::Origin;

#[tokio::test]
async fn an_order_at_one_instance_holds_at_the_other_within_a_second() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let a = Instance::start(&server, "lb-1").await;
    let b = Instance::start(&server, "lb-2").await;
    let mut times = Vec::new();
    for round in 1..=10 {
        let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        drop(from.pool.drain("a", Duration::from_secs(300)).unwrap());
        times.push(until(|| async { to.mode("a") == "draining" }, "a drains").await);
        to.pool.start_maintenance("a").unwrap();
        times.push(until(|| async { from.mode("a") == "maintenance" }, "maintenance").await);
        from.pool.mark_ready("a").unwrap();
        times.push(until(|| async { to.mode("a") == "ready" }, "a is ready").await);
        from.pool.update_weight("b", round).unwrap();
        times.push(until(|| async { to.weight("b") == round }, "the weight").await);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_secs(1), "{times:?}");
    assert_eq!((a.mode("b"), b.mode("b")), ("ready", "ready"));
    let deadline = |instance: &Instance| match instance.pool.snapshot().get("a").unwrap().mode() {
        Mode::Draining { until } => until - Instant::now(),
        other => panic!("{other:?}"),
    };
    drop(a.pool.drain("a", Duration::from_secs(300)).unwrap());
    b.has_mode("a", "draining").await;
    let difference = deadline(&a).abs_diff(deadline(&b));
    assert!(difference < Duration::from_millis(100), "{difference:?}");
}

#[tokio::test]
async fn polling_alone_finds_orders_within_a_second() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    // It may do everything but subscribe.
    server.run::<()>(cmd("ACL").arg(&[
        "SETUSER",
        "lb",
        "on",
        "nopass",
        "~*",
        "resetchannels",
        "+@all",
    ]));
    let url = format!("{}?user=lb&pass=x", server.url());
    let restricted = || RedisStore::new(&url).unwrap().prefix("shop").unwrap();
    let a = Instance::of(pool(), restricted(), "lb-1", |fleet| fleet).await;
    let b = Instance::of(pool(), restricted(), "lb-2", |fleet| fleet).await;
    let mut times = Vec::new();
    for _ in 0..4 {
        a.pool.start_maintenance("a").unwrap();
        times.push(until(|| async { b.mode("a") == "maintenance" }, "maintenance").await);
        b.pool.mark_ready("a").unwrap();
        times.push(until(|| async { a.mode("a") == "ready" }, "a is ready").await);
    }
    times.sort_unstable();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn an_instance_that_starts_follows_the_orders_in_force() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let a = Instance::start(&server, "lb-1").await;
    a.pool.upsert(backend("later"));
    a.pool.start_maintenance("later").unwrap();
    a.pool.start_maintenance("a").unwrap();
    drop(a.pool.drain("b", Duration::from_secs(60)).unwrap());
    a.pool.update_weight("b", 9).unwrap();
    let orders = || async { server.run::<usize>(cmd("HLEN").arg("shop:orders")) == 4 };
    until(orders, "all are written").await;
    let b = Instance::start(&server, "lb-2").await;
    // At once: readiness may be reported now.
    assert_eq!(
        (b.mode("a"), b.mode("b"), b.weight("b")),
        ("maintenance", "draining", 9)
    );
    assert!(b.handle.is_store_up());
    b.pool.upsert(backend("later"));
    b.has_mode("later", "maintenance").await;
    // The end of an instance undoes nothing, and its next process follows again.
    drop(a);
    b.pool.mark_ready("a").unwrap();
    let a = Instance::start(&server, "lb-1").await;
    a.has_mode("a", "ready").await;
    assert_eq!(a.mode("b"), "draining");
}

#[tokio::test]
async fn a_secret_is_made_once_shared_and_replaced() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    type Given = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;
    let every = Duration::from_secs(60);
    let share = |given: &Given| {
        let given = given.clone();
        move |fleet: Fleet| {
            let receive = move |secrets: &[&[u8]]| {
                let secrets = secrets.iter().map(|secret| secret.to_vec()).collect();
                given.lock().unwrap().push(secrets);
            };
            fleet.secret("tickets", every, receive).unwrap()
        }
    };
    let (first, second) = (Given::default(), Given::default());
    // Both at once: one of them makes it.
    let (a, b) = tokio::join!(
        Instance::start_with(&server, "lb-1", share(&first)),
        Instance::start_with(&server, "lb-2", share(&second)),
    );
    let last = |given: &Given| given.lock().unwrap().last().cloned().unwrap_or_default();
    assert_eq!(last(&first).len(), 1);
    assert_eq!(last(&first), last(&second));
    assert_eq!(last(&first)[0].len(), 32);
    // Unreadable: it stays in use, and the value stays as it is.
    let key = "shop:value:secrets/tickets";
    let stored: Vec<u8> = server.run(cmd("GET").arg(key));
    server.run::<()>(cmd("SET").arg(key).arg("garbage"));
    let third = Given::default();
    let c = Instance::start_with(&server, "lb-3", share(&third)).await;
    assert!(
        third.lock().unwrap().is_empty(),
        "it begins without a secret"
    );
    assert_eq!(server.run::<String>(cmd("GET").arg(key)), "garbage");
    server.run::<()>(cmd("SET").arg(key).arg(&stored));
    until(|| async { last(&third) == last(&first) }, "it follows").await;
    // Lost: it is written back.
    server.run::<()>(cmd("DEL").arg(key));
    let is_back = || async { server.run::<Option<Vec<u8>>>(cmd("GET").arg(key)).is_some() };
    until(is_back, "it is written back").await;
    assert_eq!(server.run::<Vec<u8>>(cmd("GET").arg(key)), stored);
    drop((a, b, c));
    // Of an earlier time: the next one is announced before it is used.
    let earlier = |ring: &[u8], entry: usize, millis: u64| {
        let mut ring = ring.to_vec();
        // Behind the head of the value.
        let time = &mut ring[5 + 40 * entry..13 + 40 * entry];
        let from = u64::from_be_bytes((&*time).try_into().unwrap());
        time.copy_from_slice(&(from - millis).to_be_bytes());
        server.run::<()>(cmd("SET").arg(key).arg(&ring));
    };
    earlier(&stored, 0, 100_000);
    let fourth = Given::default();
    let d = Instance::start_with(&server, "lb-4", share(&fourth)).await;
    until(|| async { last(&fourth).len() == 2 }, "another is made").await;
    let announced = last(&fourth);
    assert_eq!(
        announced[0],
        last(&first)[0],
        "the old one makes tickets still"
    );
    drop(d);
    let stored: Vec<u8> = server.run(cmd("GET").arg(key));
    assert_eq!(stored.len(), 85);
    earlier(&stored, 0, 30_000);
    let fifth = Given::default();
    let _e = Instance::start_with(&server, "lb-5", share(&fifth)).await;
    let turned = [announced[1].clone(), announced[0].clone()];
    let is_used = || async { last(&fifth) == turned };
    until(is_used, "the new one is used, and the old one accepted").await;
}

#[tokio::test]
async fn a_hint_keeps_a_backend_out_and_never_lets_one_in() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let hints = |fleet: Fleet| fleet.health_hints(true);
    let a = Instance::start_with(&server, "lb-1", hints).await;
    let measure = |pool: &Pool, id: &str, health| {
        let backend = pool.snapshot().get(id).unwrap().clone();
        pool.measure(&backend, Measurement::new(health, Reason::new("L7OK", "")));
    };
    measure(&a.pool, "a", HealthStatus::Unhealthy);
    measure(&a.pool, "b", HealthStatus::Healthy);
    let is_reported = || async { server.run::<bool>(cmd("HEXISTS").arg(&["shop:health", "lb-1"])) };
    until(is_reported, "it is reported").await;
    let b = Instance::start_with(&server, "lb-2", hints).await;
    let checks = b.pool.attach_prober();
    let health = |id: &str| b.pool.snapshot().get(id).unwrap().health();
    assert_eq!(
        (health("a"), health("b")),
        (HealthStatus::Unhealthy, HealthStatus::Unknown)
    );
    assert_eq!(b.pool.snapshot().usable(), 0, "a hint is no proof");
    measure(&b.pool, "a", HealthStatus::Healthy);
    measure(&b.pool, "b", HealthStatus::Unhealthy);
    assert_eq!(
        (health("a"), health("b")),
        (HealthStatus::Healthy, HealthStatus::Unhealthy)
    );
    drop(checks);
    drop(b.handle);
    server.run::<()>(cmd("HDEL").arg(&["shop:health", "lb-2"]));
    // Without the switch, nothing is taken over; garbage of another says nothing.
    server.run::<()>(cmd("HSET").arg(&["shop:health", "lb-9", "garbage"]));
    let c = Instance::start(&server, "lb-3").await;
    let d = Instance::start_with(&server, "lb-4", hints).await;
    let of = |instance: &Instance| instance.pool.snapshot().get("a").unwrap().health();
    assert_eq!(of(&c), HealthStatus::Unknown);
    assert_eq!(of(&d), HealthStatus::Unhealthy);
}

#[tokio::test]
async fn instances_with_the_same_keys_agree_on_cookies() {
    let (one, two) = (Origin::named("a").await, Origin::named("b").await);
    let balancer = || {
        let backends = [Backend::new("a", &one.url()), Backend::new("b", &two.url())];
        let pool = Pool::new(backends.map(Result::unwrap)).unwrap();
        let sticky = StickyLayer::new(pool.clone(), Keys::new([7; 32]));
        let builder = LoadBalancer::builder(pool.clone());
        (
            builder.sticky(sticky.insecure().unwrap()).unwrap().build(),
            pool,
        )
    };
    let ((first, other), (second, pool)) = (balancer(), balancer());
    let are_up = || async { pool.snapshot().usable() + other.snapshot().usable() == 4 };
    until(are_up, "the first checks pass").await;
    let send = async |balancer: &LoadBalancer, cookie: Option<&str>| {
        let mut request = Request::get("http://shop.test/");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = balancer.clone().send(request).await;
        let field = |name: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        (field("x-backend").unwrap(), field("set-cookie"))
    };
    for _ in 0..4 {
        let (backend, cookie) = send(&first, None).await;
        let cookie = cookie.unwrap();
        let cookie = cookie.split(';').next().unwrap();
        for _ in 0..3 {
            let (same, set) = send(&second, Some(cookie)).await;
            assert_eq!(
                (same, set),
                (backend.clone(), None),
                "the other instance accepts it"
            );
        }
        // An order moves its sessions at the other, whose cookie the first accepts in turn.
        pool.start_maintenance(&backend).unwrap();
        let (moved, cookie) = send(&second, Some(cookie)).await;
        let cookie = cookie.unwrap();
        assert_ne!(moved, backend);
        let cookie = cookie.split(';').next().unwrap();
        assert_eq!(send(&first, Some(cookie)).await, (moved, None));
        pool.mark_ready(&backend).unwrap();
    }
}

#[tokio::test]
async fn an_evacuation_at_one_instance_holds_at_the_other() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let a = Instance::start(&server, "lb-1").await;
    let b = Instance::start(&server, "lb-2").await;
    let zone = Locality::new("eu/1a").unwrap();
    a.pool.evacuate(&zone);
    let is_out = || async { b.pool.evacuated() == [zone.clone()] };
    until(is_out, "the zone is out of service").await;
    let c = Instance::start(&server, "lb-3").await;
    let in_force = c.pool.evacuated();
    assert_eq!(in_force, std::slice::from_ref(&zone));
    c.pool.restore(&zone);
    let is_back = || async { a.pool.evacuated().is_empty() && b.pool.evacuated().is_empty() };
    until(is_back, "the zone is back").await;
}

#[tokio::test]
async fn fleets_of_one_store_each_have_a_subscription_of_their_own() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let one = store(&server);
    let other = one.clone().prefix("forum").unwrap();
    let a = Instance::of(pool(), one.clone(), "lb-1", |fleet| fleet).await;
    let b = Instance::of(pool(), other, "lb-1", |fleet| fleet).await;
    // Two pools of one process in one fleet.
    let c = Instance::of(pool(), one, "lb-2", |fleet| fleet).await;
    let subscribed = |channel: &str| {
        let mut command = cmd("PUBSUB");
        command.arg(&["NUMSUB", channel]);
        server.run::<(String, i64)>(&command).1
    };
    until(
        || async { subscribed("shop:changed") == 2 },
        "both of the shop",
    )
    .await;
    until(
        || async { subscribed("forum:changed") == 1 },
        "that of the forum",
    )
    .await;
    a.pool.start_maintenance("a").unwrap();
    c.has_mode("a", "maintenance").await;
    assert_eq!(b.mode("a"), "ready", "another fleet");
}

/// The server compares orders as the instances do, whatever its locale, and to the last of 20 digits.
#[tokio::test]
async fn orders_of_one_moment_have_one_order_in_every_locale() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("localedef")
        .args(["-i", "en_US", "-f", "UTF-8"])
        .arg(folder.path().join("en_US.UTF-8"))
        .output();
    let environment = match made {
        Ok(made) if made.status.success() => vec![
            ("LOCPATH", folder.path().to_str().unwrap()),
            ("LC_ALL", "en_US.UTF-8"),
        ],
        made => {
            eprintln!("without the package locales, Redis has the locale C: {made:?}");
            Vec::new()
        }
    };
    let Some(server) = RedisServer::start_in(&environment, &[], "") else {
        return;
    };
    if !environment.is_empty() {
        let script = "return 'lb_1' < 'lb1-'";
        let by_locale: Option<i64> = server.run(cmd("EVAL").arg(script).arg(0));
        assert_eq!(by_locale, Some(1), "the locale differs from the bytes");
    }
    let a = Instance::start(&server, "lb-1").await;
    let orders = [
        (
            "mode:a",
            "00000001800000000000 lb1- ready",
            "00000001800000000000 lb_1 maintenance",
        ),
        (
            "mode:b",
            "18446744073709551614 lb-1 ready",
            "18446744073709551615 lb-1 maintenance",
        ),
    ];
    let framed = |text: &str| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[1], &length[..], text.as_bytes()].concat()
    };
    for (field, stored, _) in orders {
        server.run::<()>(
            cmd("HSET")
                .arg("shop:orders")
                .arg(field)
                .arg(framed(stored)),
        );
    }
    let later = orders.map(
        |(field, _, later)| serde_json::json!({ "field": field, "order": later, "is_new": true }),
    );
    let exported = serde_json::json!({ "fleet": "shop", "orders": later, "secrets": {} });
    a.handle.import(exported.to_string().as_bytes()).unwrap();
    for (field, _, later) in orders {
        let is_stored = || async {
            let mut command = cmd("HGET");
            command.arg("shop:orders").arg(field);
            server.run::<Vec<u8>>(&command) == framed(later)
        };
        until(is_stored, later).await;
    }
    assert_eq!((a.mode("a"), a.mode("b")), ("maintenance", "maintenance"));
}

#[tokio::test]
async fn a_successor_has_what_its_predecessor_knew_and_later_orders_win() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    type Given = Arc<Mutex<Vec<Vec<u8>>>>;
    let share = |given: &Given| {
        let given = given.clone();
        move |fleet: Fleet| {
            let receive = move |secrets: &[&[u8]]| {
                *given.lock().unwrap() = secrets.iter().map(|secret| secret.to_vec()).collect();
            };
            let every = Duration::from_secs(60);
            fleet.secret("tickets", every, receive).unwrap()
        }
    };
    let (before, after) = (Given::default(), Given::default());
    let old = Instance::start_with(&server, "lb-1", share(&before)).await;
    let other = Instance::start(&server, "lb-2").await;
    old.pool.start_maintenance("a").unwrap();
    other.has_mode("a", "maintenance").await;
    // It knows no later ones, as if it alone had been cut off since.
    let exported = old.handle.export();
    drop(old);
    other.pool.mark_ready("a").unwrap();
    let stored = || async {
        let order: Vec<u8> = server.run(cmd("HGET").arg(&["shop:orders", "mode:a"]));
        order.ends_with(b"ready")
    };
    until(stored, "the later order is in the store").await;
    server.hang();
    let new = Instance::start_with(&server, "lb-1", share(&after)).await;
    assert!(!new.handle.is_store_up() && after.lock().unwrap().is_empty());
    new.handle.import(&exported).unwrap();
    assert_eq!(new.mode("a"), "maintenance", "what is known, at once");
    assert_eq!(*after.lock().unwrap(), *before.lock().unwrap());
    for wrong in [b"".as_slice(), b"garbage", b"{}"] {
        assert_eq!(new.handle.import(wrong).unwrap_err().field(), "fleet");
    }
    let elsewhere = String::from_utf8(exported)
        .unwrap()
        .replace("shop", "forum");
    let error = new.handle.import(elsewhere.as_bytes()).unwrap_err();
    assert!(
        error
            .message()
            .contains("\"forum\", and this one is \"shop\""),
        "{error}"
    );
    server.go_on();
    new.has_mode("a", "ready").await;
    until(|| async { new.handle.is_store_up() }, "it answers").await;
    assert_eq!(other.mode("a"), "ready", "the older order undoes nothing");
}
