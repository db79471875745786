//! What happens in each world, seen from the client's namespace.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    roles::{BIG, CONNECT, IDLE, LOST, MEMBERS, RESPONSE},
    world::{EDGE, chain, fault, inside, itself},
};

/// The edge and the backends of a running scenario.
struct Scene {
    prefix: String,
    edge: Child,
    backends: Child,
    lines: mpsc::UnboundedReceiver<String>,
    /// The access log so far.
    log: Vec<Value>,
}

impl Scene {
    /// Starts both, and waits until they listen. `None` outside of the tests' own namespaces.
    async fn begin(members: &str) -> Option<Self> {
        Self::begin_with(members, None).await
    }

    /// As [`begin`](Self::begin), with a time for peers that acknowledge nothing.
    async fn begin_with(members: &str, lost: Option<Duration>) -> Option<Self> {
        let prefix = inside()?;
        let (backends, mut heard) = start(itself(&prefix, "b", "roles::backends"));
        ready(&mut heard).await;
        let mut command = itself(&prefix, "e", "roles::edge");
        command.env(MEMBERS, members);
        if let Some(lost) = lost {
            command.env(LOST, lost.as_millis().to_string());
        }
        let (edge, mut lines) = start(command);
        ready(&mut lines).await;
        Some(Self {
            prefix,
            edge,
            backends,
            lines,
            log: Vec::new(),
        })
    }

    /// Sets the rules at the edge (`e`) or the backends (`b`).
    fn fault(&self, which: &str, rules: &str) {
        fault(&self.prefix, which, rules);
    }

    async fn state(&mut self) -> Value {
        let stdin = self.edge.stdin.as_mut().unwrap();
        stdin.write_all(b"state\n").unwrap();
        loop {
            let line = timeout(PATIENCE, self.lines.recv()).await;
            let line = line
                .expect("the edge must answer")
                .expect("the edge must live");
            if let Some((_, state)) = line.split_once("STATE ") {
                return serde_json::from_str(state).unwrap();
            }
            if let Ok(entry) = serde_json::from_str::<Value>(&line) {
                self.log.push(entry);
            }
        }
    }

    /// Uses every backend once, and waits once for a client, which starts the tasks that a runtime
    /// has one of; returns how many tasks the edge has at rest from then on.
    async fn warm_up(&mut self) -> u64 {
        all(&mut many(7, "GET", "/")).await;
        upload_late().await;
        let mut before = 0;
        let began = Instant::now();
        loop {
            let state = self.state().await;
            let tasks = state["tasks"].as_u64().unwrap();
            if state["in_flight"] == 0 && tasks == before {
                return tasks;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the edge must come to rest: {state}"
            );
            before = tasks;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until nothing is in flight and no task is left over; returns the state then, and
    /// has the whole log.
    async fn settle(&mut self, tasks: u64, requests: usize) -> Value {
        let began = Instant::now();
        loop {
            let state = self.state().await;
            let left = state["tasks"].as_u64().unwrap().saturating_sub(tasks);
            if state["in_flight"] == 0 && left == 0 && self.log.len() >= requests {
                assert_eq!(self.log.len(), requests, "one line a request");
                return state;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{state}: {tasks} tasks were there before; {} lines of {requests}",
                self.log.len()
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns every attempt of every request: whose it was, and how it ended.
    fn attempts(&self) -> BTreeSet<(String, String)> {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
        let pair = |value: &Value| (text(value, "backend"), text(value, "outcome"));
        self.log
            .iter()
            .flat_map(|entry| match entry["attempts"].as_array() {
                Some(attempts) => attempts.iter().map(pair).collect(),
                None => vec![pair(entry)],
            })
            .collect()
    }

    /// Asserts that the attempts at this backend ended in these ways only.
    fn assert_outcomes(&self, backend: &str, allowed: &[&str]) {
        for (attempted, outcome) in self.attempts() {
            assert!(
                attempted != backend || allowed.contains(&outcome.as_str()),
                "{backend} is charged with {outcome}: {:#?}",
                self.log
            );
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in [&mut self.edge, &mut self.backends] {
            drop(child.stdin.take());
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(mut command: Command) -> (Child, mpsc::UnboundedReceiver<String>) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if line.is_ok_and(|line| sender.send(line).is_err()) {
                return;
            }
        }
    });
    (child, receiver)
}

async fn ready(lines: &mut mpsc::UnboundedReceiver<String>) {
    let wait = async {
        while let Some(line) = lines.recv().await {
            if line.contains("READY") {
                return;
            }
        }
        panic!("a process ended before it was ready");
    };
    timeout(PATIENCE, wait).await.expect("it must start");
}

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    /// As many bytes as the head announced.
    whole: bool,
    took: Duration,
}

/// Sends one request on a connection of its own and reads to the end, however that comes.
async fn ask(method: &'static str, path: &'static str) -> Got {
    let began = Instant::now();
    let mut read = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(EDGE).await?;
        let request = head(method, path, if method == "POST" { 5 } else { 0 });
        stream.write_all(request.as_bytes()).await?;
        if method == "POST" {
            stream.write_all(b"hello").await?;
        }
        stream.read_to_end(&mut read).await
    };
    let ended = timeout(PATIENCE, exchange).await;
    ended.expect("no request may hang").ok();
    let text = String::from_utf8_lossy(&read);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let announced = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    Got {
        status: head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0),
        whole: announced == Some(body.len()),
        took: began.elapsed(),
    }
}

fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// Sends a body only once the edge waits for it.
async fn upload_late() {
    let mut stream = TcpStream::connect(EDGE).await.unwrap();
    let head = head("POST", "/", 5).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    let exchange = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
        assert!(read.starts_with(b"HTTP/1.1 100 "), "{read:?}");
        stream.write_all(b"hello").await.unwrap();
        stream.read_to_end(&mut read).await.unwrap();
    };
    let ended = timeout(PATIENCE, exchange).await;
    ended.expect("an upload may not hang");
}

/// Begins so many requests at once.
fn many(count: usize, method: &'static str, path: &'static str) -> JoinSet<Got> {
    (0..count).map(|_| ask(method, path)).collect()
}

async fn all(running: &mut JoinSet<Got>) -> Vec<Got> {
    let mut all = Vec::new();
    while let Some(got) = running.join_next().await {
        all.push(got.unwrap());
    }
    all
}

/// Opens an answer that never ends; returns it and its backend.
async fn stream() -> (TcpStream, String) {
    let mut stream = TcpStream::connect(EDGE).await.unwrap();
    let request = head("GET", "/stream", 0);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let backend = head.split("x-backend: ").nth(1).unwrap();
    let backend = backend.split("\r\n").next().unwrap().to_owned();
    (stream, backend)
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn black_hole() {
    let Some(mut scene) = Scene::begin("a,hole").await else {
        return;
    };
    let tasks = scene.warm_up().await;
    scene.fault("b", &chain("input", "ip daddr 198.18.2.9 drop"));
    let mut running = many(8, "GET", "/");
    for _ in 0..8 {
        running.spawn(ask("POST", "/"));
    }
    for got in all(&mut running).await {
        assert_eq!((got.status, got.whole), (200, true), "{got:?}");
        assert!(got.took < CONNECT + SLACK, "{got:?}");
    }
    let state = scene.settle(tasks, 8 + 16).await;
    scene.assert_outcomes("a", &["ok"]);
    scene.assert_outcomes("hole", &["connect", "connect_timeout"]);
    let timed_out = ("hole".into(), "connect_timeout".into());
    assert!(scene.attempts().contains(&timed_out), "{:#?}", scene.log);
    assert_eq!(state["changes"], serde_json::json!(["hole"]));
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn vanished_host() {
    let Some(mut scene) = Scene::begin("a,b").await else {
        return;
    };
    let tasks = scene.warm_up().await;
    let mut streams = vec![stream().await, stream().await];
    streams.sort_by(|a, b| a.1.cmp(&b.1));
    let [(mut of_a, a), (mut of_b, b)] = streams.try_into().unwrap();
    assert_eq!((a.as_str(), b.as_str()), ("a", "b"), "they take turns");
    let gone =
        chain("input", "ip daddr 198.18.2.2 drop") + &chain("output", "ip saddr 198.18.2.2 drop");
    scene.fault("b", &gone);
    let began = Instant::now();
    let mut running = many(8, "GET", "/");
    for _ in 0..8 {
        running.spawn(ask("POST", "/"));
    }
    let mut rest = Vec::new();
    let ended = timeout(IDLE + SLACK, of_a.read_to_end(&mut rest)).await;
    let _ = ended.expect("a body must not outlive its host for long");
    assert!(began.elapsed() >= IDLE / 2, "it was silent for a while");
    let mut failed = 0;
    for got in all(&mut running).await {
        match got.status {
            200 => assert!(got.whole, "{got:?}"),
            // What is not idempotent cannot be sent again: its time-out is the answer.
            504 => failed += 1,
            _ => panic!("{got:?}"),
        }
        assert!(
            got.took < CONNECT.max(RESPONSE) + RESPONSE + SLACK,
            "{got:?}"
        );
    }
    assert!(
        failed <= 8,
        "{failed} failed, of 8 that cannot be sent again"
    );
    // The other one still flows, until its client has enough.
    assert!(of_b.read_u8().await.is_ok());
    drop(of_b);
    let state = scene.settle(tasks, 8 + 2 + 16).await;
    scene.assert_outcomes("b", &["ok", "client_abort", "cancelled"]);
    scene.assert_outcomes(
        "a",
        &[
            "ok",
            "connect_timeout",
            "response_head_timeout",
            "response_body_timeout",
        ],
    );
    let broken = ("a".into(), "response_body_timeout".into());
    assert!(scene.attempts().contains(&broken), "{:#?}", scene.log);
    assert_eq!(state["changes"], serde_json::json!(["a"]));
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn vanished_client() {
    let Some(mut scene) = Scene::begin_with("a,b", Some(CLIENT_TIMEOUT)).await else {
        return;
    };
    let tasks = scene.warm_up().await;
    let (mut gone, _) = stream().await;
    assert!(gone.read_u8().await.is_ok(), "it flows");
    // Without a word: neither is anything heard of the client, nor does it hear anything.
    let cut = chain("input", "iifname \"to-c\" drop") + &chain("output", "oifname \"to-c\" drop");
    scene.fault("e", &cut);
    let began = Instant::now();
    let state = scene.state().await;
    assert_eq!(state["in_flight"], 1, "what is written is taken still");
    scene.settle(tasks, 8 + 1).await;
    let took = began.elapsed();
    assert!(took >= CLIENT_TIMEOUT / 2, "not at once: {took:?}");
    assert!(
        took < CLIENT_TIMEOUT + SLACK,
        "not by other deadlines: {took:?}"
    );
    for backend in ["a", "b"] {
        scene.assert_outcomes(backend, &["ok", "client_abort", "cancelled"]);
    }
    let state = scene.state().await;
    assert_eq!(state["changes"], serde_json::json!([]));
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn vanished_amid_upload() {
    let Some(mut scene) = Scene::begin_with("a", Some(CLIENT_TIMEOUT)).await else {
        return;
    };
    let tasks = scene.warm_up().await;
    let mut upload = TcpStream::connect(EDGE).await.unwrap();
    let announced = head("POST", "/", usize::MAX / 4);
    upload.write_all(announced.as_bytes()).await.unwrap();
    while scene.state().await["in_flight"] == 0 {
        upload.write_all(b"x").await.unwrap();
    }
    let gone =
        chain("input", "ip daddr 198.18.2.2 drop") + &chain("output", "ip saddr 198.18.2.2 drop");
    scene.fault("b", &gone);
    let began = Instant::now();
    let (mut answer, mut upload) = upload.into_split();
    // As long as this goes on, no deadline for silence passes.
    let trickle = tokio::spawn(async move {
        while upload.write_all(&[b'x'; 100]).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut text = String::new();
    let answered = timeout(CLIENT_TIMEOUT + SLACK, answer.read_to_string(&mut text)).await;
    answered.expect("it must be given up").ok();
    assert!(
        began.elapsed() >= CLIENT_TIMEOUT / 2,
        "{:?}",
        began.elapsed()
    );
    assert!(text.starts_with("HTTP/1.1 50"), "{text}");
    drop(answer);
    timeout(PATIENCE, trickle).await.unwrap().unwrap();
    scene.settle(tasks, 8 + 1).await;
    // Whether a read or a write hears of it first.
    scene.assert_outcomes("a", &["ok", "request_write", "response_closed"]);
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn resets() {
    let Some(mut scene) = Scene::begin("a,b").await else {
        return;
    };
    let tasks = scene.warm_up().await;
    for got in all(&mut many(6, "GET", "/reset")).await {
        assert!(!got.whole, "{got:?}");
        assert!(got.took < SLACK, "a reset is no time-out: {got:?}");
    }
    // So does what comes after, of which nothing was cut off.
    for got in all(&mut many(6, "GET", "/big")).await {
        assert_eq!((got.status, got.whole), (200, true), "{got:?}");
    }
    scene.settle(tasks, 8 + 12).await;
    for backend in ["a", "b"] {
        scene.assert_outcomes(backend, &["ok", "response_body"]);
        let reset = (backend.into(), "response_body".into());
        assert!(scene.attempts().contains(&reset), "{:#?}", scene.log);
    }
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn lossy_backends() {
    let Some(mut scene) = Scene::begin("a,b").await else {
        return;
    };
    let tasks = scene.warm_up().await;
    scene.fault("b", &chain("input", LOSS));
    scene.fault("e", &chain("input", &format!("iifname \"to-b\" {LOSS}")));
    let mut whole = 0;
    for _ in 0..6 {
        for got in all(&mut many(20, "GET", "/big")).await {
            assert!(got.took < 2 * (CONNECT + RESPONSE + 4 * IDLE), "{got:?}");
            whole += usize::from(got.status == 200 && got.whole);
        }
    }
    assert!(whole >= 108, "{whole} of 120 were answered");
    scene.settle(tasks, 8 + 120).await;
    let allowed = [
        "ok",
        "connect_timeout",
        "response_head_timeout",
        "response_body_timeout",
    ];
    for backend in ["a", "b"] {
        scene.assert_outcomes(backend, &allowed);
    }
}

#[tokio::test]
#[ignore = "runs in a namespace of the network tests"]
async fn lossy_clients() {
    let Some(mut scene) = Scene::begin("a,b").await else {
        return;
    };
    let tasks = scene.warm_up().await;
    let lossy = chain("input", &format!("iifname \"to-c\" {LOSS}"))
        + &chain("output", &format!("oifname \"to-c\" {LOSS}"));
    scene.fault("e", &lossy);
    let mut whole = 0;
    for _ in 0..3 {
        for got in all(&mut many(20, "GET", "/big")).await {
            whole += usize::from(got.status == 200 && got.whole);
        }
    }
    assert!(whole >= 54, "{whole} of 60 were answered");
    // Clients that hang up amid an answer, and one that vanishes amid its upload.
    for _ in 0..6 {
        drop(stream().await);
    }
    // What was hung up is noticed while the network, lossy as it is, still carries resets.
    scene.settle(tasks, 8 + 60 + 6).await;
    let mut upload = TcpStream::connect(EDGE).await.unwrap();
    let request = head("POST", "/", 2 * BIG) + &"x".repeat(BIG);
    upload.write_all(request.as_bytes()).await.unwrap();
    let arrived = async {
        while scene.state().await["in_flight"] == 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, arrived).await.expect("it must arrive");
    let gone = chain("input", "iifname \"to-c\" drop") + &chain("output", "oifname \"to-c\" drop");
    scene.fault("e", &gone);
    let state = scene.settle(tasks, 8 + 60 + 6 + 1).await;
    let clients = [
        "ok",
        "cancelled",
        "client_abort",
        "client_body",
        "client_body_timeout",
    ];
    for backend in ["a", "b"] {
        scene.assert_outcomes(backend, &clients);
    }
    let outcomes: BTreeSet<_> = scene.attempts().into_iter().map(|(_, how)| how).collect();
    assert!(
        clients[3..].iter().any(|how| outcomes.contains(*how)),
        "the upload was the client's failure: {outcomes:?}"
    );
    assert_eq!(state["changes"], serde_json::json!([]));
    assert_eq!(state["usable"], 2);
}

/// Long beside a retransmission, short for a test.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
const LOSS: &str = "numgen random mod 100 < 10 drop";
/// What a loaded machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
