//! `[fleet]`: two processes of `edge` with one redis-server.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use redis::cmd;
use rustls::HandshakeKind;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    client::{ResumingClient, get, post, try_get},
    edge::Settings,
    process::{Backend, PATIENCE, Process},
};
use crate::support::{pki::Authority, redis::RedisServer};

const TOKEN: &str = "a-token-from-a-secret-store";

/// A process of `edge`.
struct Instance {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    _settings: Settings,
}

impl Instance {
    async fn start(server: &RedisServer, backends: &[&Backend], name: &str) -> Self {
        let settings = Settings::new(&text(&server.url(), backends, name));
        let mut process = Process::start("edge", &[&settings.file()]);
        process.line("the store of the fleet answers").await;
        let admin = process.address("admin on http://").await;
        let address = process.address("listening on http://").await;
        Self {
            process,
            address,
            admin,
            _settings: settings,
        }
    }

    async fn order(&self, order: &str) {
        let answer = post(self.admin, &format!("/backends/{order}"), TOKEN).await;
        assert_eq!(answer.status, 200, "{order}: {answer:?}");
    }

    async fn state(&self, id: &str) -> String {
        let answer = get(self.admin, "/status.json").await;
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        let mut backends = status["backends"].as_array().unwrap().iter();
        let found = backends.find(|backend| backend["id"] == id).unwrap();
        found["state"].as_str().unwrap().to_owned()
    }

    /// Looks until a backend is in this state; returns how long that took.
    async fn until(&self, id: &str, state: &str) -> Duration {
        let began = Instant::now();
        loop {
            let now = self.state(id).await;
            if now == state {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "{id} is {now}, not {state}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn store_up(&self) -> String {
        let metrics = get(self.admin, "/metrics").await.body;
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix("evenkeel_fleet_store_up "));
        line.unwrap_or_else(|| panic!("no gauge in {metrics}"))
            .to_owned()
    }
}

fn text(url: &str, backends: &[&Backend], name: &str) -> String {
    let backends: String = backends.iter().map(|backend| backend.settings()).collect();
    format!(
        "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"0s\" }}\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{backends}\
         [health]\ninterval = \"5s\"\ntimeout = \"4s\"\nchanging_interval = \"50ms\"\n\
         [failover]\n\
         [admin]\naddress = \"127.0.0.1:0\"\ntoken = {TOKEN:?}\n\
         [fleet]\nredis = {url:?}\nname = \"shop\"\ninstance = {name:?}\n"
    )
}

/// Requests of several clients to all instances, until it is ended.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn start(addresses: &[SocketAddr]) -> Self {
        let mut load = Self {
            clients: JoinSet::new(),
            stop: Arc::default(),
            answered: Arc::default(),
        };
        for address in addresses.iter().cycle().take(8) {
            let (address, stop) = (*address, load.stop.clone());
            let answered = load.answered.clone();
            load.clients.spawn(async move {
                while !stop.load(SeqCst) {
                    let answer = try_get(address, "/").await.expect("no request fails");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answered.fetch_add(1, SeqCst);
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        load
    }

    async fn end(mut self) -> usize {
        self.stop.store(true, SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.answered.load(SeqCst)
    }
}

/// Stops the server for a time, then kills it and starts it again after a time, under load.
async fn outage(hangs: Duration, is_dead: Duration) {
    let (one, two) = (Backend::start("a").await, Backend::start("b").await);
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let mut first = Instance::start(&server, &[&one, &two], "lb-1").await;
    let mut second = Instance::start(&server, &[&one, &two], "lb-2").await;
    for instance in [&first, &second] {
        instance.until("a", "up").await;
        instance.until("b", "up").await;
        assert_eq!(instance.store_up().await, "1");
    }
    let load = Load::start(&[first.address, second.address]);
    first.order("a/drain").await;
    second.until("a", "draining").await;
    server.hang();
    for instance in [&mut first, &mut second] {
        instance.process.line("the store of the fleet fails").await;
        assert_eq!(instance.store_up().await, "0");
    }
    second.order("a/ready").await;
    sleep(hangs).await;
    assert_eq!(
        first.state("a").await,
        "draining",
        "what is known stays in force"
    );
    server.go_on();
    for instance in [&mut first, &mut second] {
        instance
            .process
            .line("the store of the fleet answers")
            .await;
        assert_eq!(instance.store_up().await, "1");
    }
    first.until("a", "up").await;
    first.order("b/maintenance").await;
    second.until("b", "maintenance").await;
    server.kill();
    for instance in [&mut first, &mut second] {
        instance.process.line("the store of the fleet fails").await;
    }
    sleep(is_dead).await;
    assert_eq!(second.state("b").await, "maintenance");
    server.restart();
    for instance in [&mut first, &mut second] {
        instance
            .process
            .line("the store of the fleet answers")
            .await;
    }
    // Written back: an instance that starts follows it.
    let third = Instance::start(&server, &[&one, &two], "lb-3").await;
    assert_eq!(third.state("b").await, "maintenance");
    second.order("b/ready").await;
    first.until("b", "up").await;
    let answered = load.end().await;
    assert!(answered > 50, "{answered} requests are no load");
    for mut instance in [first, second] {
        instance.process.signal("-TERM");
        let (status, lines) = instance.process.ended().await;
        assert!(status.success(), "{lines:#?}");
        let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        let events = (
            count("store of the fleet fails"),
            count("store of the fleet answers"),
        );
        assert_eq!(events, (2, 3), "one event each way: {lines:#?}");
    }
}

#[tokio::test]
async fn no_request_fails_while_the_store_hangs_and_while_it_is_dead() {
    outage(Duration::from_secs(2), Duration::from_secs(2)).await;
}

/// `.ci/run` runs it, and the next one beside it.
#[tokio::test]
#[ignore = "takes half a minute"]
async fn no_request_fails_while_the_store_hangs_for_half_a_minute() {
    outage(Duration::from_secs(30), Duration::from_secs(1)).await;
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn no_request_fails_while_the_store_is_dead_for_half_a_minute() {
    outage(Duration::from_secs(1), Duration::from_secs(30)).await;
}

#[tokio::test]
async fn an_order_at_one_edge_holds_at_the_other_within_a_second() {
    let (one, two) = (Backend::start("a").await, Backend::start("b").await);
    let Some(server) = RedisServer::start() else {
        return;
    };
    let first = Instance::start(&server, &[&one, &two], "lb-1").await;
    let second = Instance::start(&server, &[&one, &two], "lb-2").await;
    second.until("a", "up").await;
    first.until("a", "up").await;
    let mut times = Vec::new();
    for _ in 0..3 {
        first.order("a/drain").await;
        times.push(second.until("a", "draining").await);
        second.order("a/ready").await;
        times.push(first.until("a", "up").await);
    }
    times.sort_unstable();
    assert!(times[3] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn a_session_of_one_edge_resumes_at_the_other() {
    let one = Backend::start("a").await;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let start = async |name| {
        let settings = Settings::new("");
        let (chain, key) = (settings.path("cert.pem"), settings.path("key.pem"));
        fs::write(&chain, &issued.chain).unwrap();
        fs::write(&key, &issued.key).unwrap();
        let tls = format!(
            "[listen.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]\n[pool]\n"
        );
        settings.write(&text(&server.url(), &[&one], name).replace("[pool]\n", &tls));
        let mut process = Process::start("edge", &[&settings.file()]);
        let address = process.address("listening on https://").await;
        (process, settings, address)
    };
    let (first, second) = (start("lb-1").await, start("lb-2").await);
    let client = ResumingClient::new(authority.client());
    for (address, kind) in [
        (first.2, HandshakeKind::Full),
        (second.2, HandshakeKind::Resumed),
        (first.2, HandshakeKind::Resumed),
    ] {
        let made = client.handshake(address).await;
        // The first handshake may need another key share.
        let is_full = made != HandshakeKind::Resumed;
        assert_eq!(is_full, kind == HandshakeKind::Full, "{made:?}");
    }
}

#[tokio::test]
async fn an_edge_with_a_wrong_password_says_so_and_serves() {
    let one = Backend::start("a").await;
    let Some(server) = RedisServer::start_with(&[], "correct-horse") else {
        return;
    };
    let url = format!("unix://{}?pass=battery-staple", server.socket());
    let settings = Settings::new(&text(&url, &[&one], "lb-1"));
    let mut edge = Process::start("edge", &[&settings.file()]);
    edge.line("the store of the fleet fails").await;
    edge.line("starts without what the fleet shares").await;
    let address = edge.address("listening on http://").await;
    let began = Instant::now();
    while get(address, "/").await.status != 200 {
        assert!(began.elapsed() < PATIENCE);
    }
    edge.signal("-TERM");
    let (status, lines) = edge.ended().await;
    assert!(status.success(), "{lines:#?}");
    assert!(
        !lines.iter().any(|line| line.contains("staple")),
        "{lines:#?}"
    );
    // A file keeps the password out of the settings. It is read at the start.
    let file = settings.path("redis.url");
    let text = text("redis://x", &[&one], "lb-1");
    settings.write(&text.replace("redis = \"redis://x\"", &format!("redis_file = {file:?}")));
    fs::write(&file, "no URL, a secret\n").unwrap();
    let mut edge = Process::start("edge", &["--check", &settings.file()]);
    let (status, lines) = edge.ended().await;
    assert_eq!(status.code(), Some(2), "{lines:?}");
    assert!(
        lines.len() == 1 && lines[0].contains("[fleet] redis_file"),
        "{lines:?}"
    );
    assert!(!lines[0].contains("a secret"), "{lines:?}");
    fs::write(&file, format!("{}\n", server.url())).unwrap();
    let mut edge = Process::start("edge", &[&settings.file()]);
    edge.line("the store of the fleet answers").await;
    let subscribed: (String, i64) = server.run(cmd("PUBSUB").arg(&["NUMSUB", "shop:changed"]));
    assert_eq!(subscribed.1, 1);
}
