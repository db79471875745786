//! What can change or end in the middle of an upgrade: the settings, either process, the store of a fleet.

use std::{fs, path::Path, time::Duration};

use rustls::HandshakeKind;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    client::{ResumingClient, backend_status, get, post},
    load::{Load, none_failed},
    process::{PATIENCE, Process, kill},
    upgrade::{Child, Place, Socket, addresses, listens_at},
};
use crate::support::redis::RedisServer;

const TOKEN: &str = "a-token-from-a-secret-store";

impl Place {
    fn text(&self) -> String {
        fs::read_to_string(self.settings.path("edge.toml")).unwrap()
    }

    /// Lets the first check of the next process hang, so that it is not ready for seconds.
    fn slow_start(&self) {
        let checks = "interval = \"10s\"\ntimeout = \"9s\"";
        let text = self.text();
        assert!(text.contains(checks));
        let a = self.backends[0].address;
        let slow = format!(
            "[[pool.backends]]\nid = \"slow\"\nurl = \"http://{a}\"\n[health]\npath = \"/slow?ms=600000\"\n"
        );
        let text = text.replace("[health]\n", &slow);
        self.settings
            .write(&text.replace(checks, "interval = \"10m\"\ntimeout = \"9m\""));
    }
}

async fn is_gone(process: &str) {
    let gone = async {
        while Path::new("/proc").join(process).exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the process is gone");
}

#[tokio::test]
async fn a_successor_asks_where_the_running_process_listens() {
    let place = Place::new().await;
    let (mut edge, [_, http, _]) = place.start("edge").await;
    let (before, later) = (
        place.settings.path("upgrade.sock"),
        place.settings.path("later.sock"),
    );
    listens_at(&before).await;
    place
        .settings
        .write(&place.text().replace("upgrade.sock", "later.sock"));
    // A reload says that this needs a restart; the path stays until the next process.
    edge.signal("-HUP");
    edge.line("[fleet] changed: that needs a restart").await;
    edge.signal("-USR2");
    let child = Child::of(&edge.line("SIGUSR2: started a new process").await);
    edge.line("handed over: another process serves").await;
    assert!(edge.exits().await.success());
    assert_eq!(get(http, "/").await.status, 200);
    assert!(later.exists() && !before.exists());
    // Without a path, the new process says so at once.
    let text = place.text();
    place.settings.write(text.split_once("[fleet]").unwrap().0);
    kill("-USR2", &child.0);
    edge.line("the settings have no [fleet] handover").await;
    edge.line("the new process did not take over (exit status: 1)")
        .await;
    assert_eq!(get(http, "/").await.status, 200);
}

#[tokio::test]
async fn a_successor_that_is_killed_while_it_starts_costs_no_request() {
    let place = Place::new().await;
    let (mut edge, [_, http, _]) = place.start("edge").await;
    let load = Load::start(http, 200, 0);
    let quick = place.text();
    place.slow_start();
    for signal in ["-KILL", "-TERM"] {
        edge.signal("-USR2");
        let child = Child::of(&edge.line("SIGUSR2: started a new process").await);
        edge.line("inherited listening sockets").await;
        kill(signal, &child.0);
        edge.all([
            "it ended before it was ready",
            "the new process did not take over (",
        ])
        .await;
    }
    place.settings.write(&quick);
    let (mut new, addresses) = place.start("edge").await;
    assert_eq!(addresses[1], http);
    edge.line("handed over: another process serves").await;
    new.line("took over").await;
    none_failed(&load.end().await);
}

#[tokio::test]
async fn a_shutdown_stops_a_successor_that_it_started_and_no_other() {
    let place = Place::new().await;
    let (mut edge, [_, http, _]) = place.start("edge").await;
    place.slow_start();
    // One that an operator started serves in its place.
    let mut new = Process::start("edge", &[&place.settings.file()]);
    new.line("inherited listening sockets").await;
    edge.signal("-TERM");
    edge.must_succeed().await;
    assert_eq!(addresses(&mut new).await[1], http);
    new.line("this one serves in its place").await;
    assert!(TcpStream::connect(http).await.is_ok());
    // One that it started itself ends with it.
    new.signal("-USR2");
    let child = Child::of(&new.line("SIGUSR2: started a new process").await);
    new.line("inherited listening sockets").await;
    new.signal("-TERM");
    new.all([
        "the new process is not ready: it stops as well",
        "stopped before it served",
    ])
    .await;
    is_gone(&child.0).await;
    assert!(new.exits().await.success());
    assert!(TcpStream::connect(http).await.is_err(), "nothing serves");
    assert!(!place.settings.path("upgrade.sock").exists());
}

#[tokio::test]
async fn the_process_before_leaves_the_state_file_to_its_successor() {
    let place = Place::new().await;
    let quick = |file: &str| {
        let file = place.settings.path(file);
        let health =
            format!("[health]\nstate_file = {file:?}\ninterval = \"300ms\"\ntimeout = \"250ms\"\n");
        let (head, _) = place.text().split_once("[health]").map(both).unwrap();
        let (_, rest) = place.text().split_once("[admin]").map(both).unwrap();
        place
            .settings
            .write(&format!("{head}{health}[admin]{rest}"));
    };
    for example in ["axum", "edge"] {
        let _ = fs::remove_file(place.settings.path("after.json"));
        place.write(1, "1m", "");
        quick("before.json");
        let (mut old, [_, http, _]) = place.start(example).await;
        let before = place.settings.path("before.json");
        written(&before, "\"healthy\":true").await;
        // It drains for as long as this is open, and its checks go on.
        let mut tunnel = Socket::open(http).await;
        quick("after.json");
        let (mut new, _) = place.start(example).await;
        old.line("handed over: another process serves").await;
        let after = place.settings.path("after.json");
        // What it was about to write is written by then.
        sleep(Duration::from_secs(1)).await;
        fs::remove_file(&before).unwrap();
        let last = &place.backends[1];
        last.process.signal("-STOP");
        written(&after, "\"healthy\":false").await;
        // It would have written within a second of its own check, which is as frequent.
        sleep(Duration::from_secs(3)).await;
        assert!(!before.exists(), "{example} wrote while it drained");
        last.process.signal("-CONT");
        tunnel.echo().await.unwrap();
        drop(tunnel);
        old.must_succeed().await;
        new.signal("-TERM");
        new.must_succeed().await;
    }
}

fn both((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// Waits until a file has this part.
async fn written(path: &Path, part: &str) {
    let began = Instant::now();
    while !fs::read_to_string(path).is_ok_and(|text| text.contains(part)) {
        assert!(began.elapsed() < PATIENCE, "{part} in {}", path.display());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_upgrade_while_the_store_is_down_keeps_sessions_and_orders() {
    let place = Place::new().await;
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let url = server.url();
    let fleet = |name: &str| format!("redis = {url:?}\nname = \"shop\"\ninstance = {name:?}\n");
    place.write(1, "1m", &fleet("lb-1"));
    let (mut old, [admin, _, https]) = place.start("edge").await;
    let client = ResumingClient::new(place.authority().client());
    let mode = async |admin| backend_status(admin, "a").await["mode"].clone();
    assert_ne!(client.handshake(https).await, HandshakeKind::Resumed);
    let ordered = post(admin, "/backends/a/drain", TOKEN).await;
    assert!(ordered.status.is_success(), "{ordered:?}");
    server.kill();
    old.line("the store of the fleet fails").await;
    let (mut new, addresses) = place.start("edge").await;
    assert_eq!((addresses[0], addresses[2]), (admin, https));
    old.must_succeed().await;
    assert_eq!(client.handshake(https).await, HandshakeKind::Resumed);
    assert_eq!(mode(admin).await, "draining");
    server.restart();
    new.line("the store of the fleet answers").await;
    // What it has goes into the store: another instance resumes the session, and follows the order.
    place.write(1, "1m", &fleet("lb-2"));
    let text = place.text().replace("upgrade.sock", "other.sock");
    place.settings.write(&text);
    let (_other, addresses) = place.start("edge").await;
    assert_eq!(mode(addresses[0]).await, "draining");
    assert_eq!(client.handshake(addresses[2]).await, HandshakeKind::Resumed);
}
