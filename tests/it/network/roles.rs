//! The processes beside the scenario: the edge and the backends. They end when their standard
//! input does, so that none outlives the scenario.

use std::{
    io::{BufRead, Write},
    net::SocketAddr,
    time::Duration,
};

use evenkeel::{
    Backend, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    connect::Connector,
    failover::{Budget, FailoverLayer},
    health::HealthLayer,
    pool::EventKind,
    proxy::Proxy,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::mpsc,
};

use super::world::{BACKENDS, PORT, inside};

/// How long a wait for a connection, a head and the next piece may take.
pub(super) const CONNECT: Duration = Duration::from_millis(2_500);
pub(super) const RESPONSE: Duration = Duration::from_millis(1_500);
pub(super) const IDLE: Duration = Duration::from_millis(1_500);
/// After how many milliseconds a peer that acknowledges nothing is given up; as it is by default
/// where this is not set.
pub(super) const LOST: &str = "EVENKEEL_TEST_LOST";
/// Which backends the edge has: their ids, with commas.
pub(super) const MEMBERS: &str = "EVENKEEL_TEST_MEMBERS";

/// Reads lines from standard input; ends with it.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| sender.send(line).is_err()) {
                return;
            }
        }
    });
    receiver
}

fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
#[ignore = "a process of the network tests"]
async fn edge() {
    if inside().is_none() {
        return;
    }
    let members = std::env::var(MEMBERS).unwrap();
    let pool = Pool::new(members.split(',').map(|id| {
        let (_, address) = BACKENDS.iter().find(|(b, _)| *b == id).unwrap();
        Backend::new(id, &format!("http://{address}:{PORT}")).unwrap()
    }))
    .unwrap();
    let lost = std::env::var(LOST).ok();
    let lost = lost.map(|lost| Duration::from_millis(lost.parse().unwrap()));
    let mut connector = Connector::new().timeout(CONNECT).unwrap();
    if let Some(lost) = lost {
        connector = connector.tcp_user_timeout(lost).unwrap();
    }
    let proxy = Proxy::new()
        .connector(connector)
        .response_timeout(RESPONSE)
        .unwrap()
        .idle_timeout(IDLE)
        .unwrap();
    let log = Lines::writer(std::io::stdout()).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .access_log(AccessLogLayer::new(log))
        .failover(FailoverLayer::new().budget(Budget::new(1.0, 100.0).unwrap()))
        .health(HealthLayer::new(pool.clone()).no_checks())
        .unwrap()
        .proxy(proxy)
        .build();
    let listener = TcpListener::bind(("0.0.0.0", 8080)).await.unwrap();
    let mut server = evenkeel::serve(listener, balancer)
        .http(|http| http.idle_timeout(IDLE))
        .unwrap();
    if let Some(lost) = lost {
        server = server.tcp_user_timeout(lost).unwrap();
    }
    let mut events = pool.subscribe();
    let server = tokio::spawn(server.into_future());
    tell("READY");
    let mut changes = Vec::new();
    let mut commands = commands();
    while commands.recv().await.is_some() {
        while let Some(event) = events.try_next() {
            if matches!(event.kind, EventKind::Health(_)) {
                changes.push(event.backend.id().to_owned());
            }
        }
        let snapshot = pool.snapshot();
        let in_flight: u32 = snapshot.backends().iter().map(Backend::in_flight).sum();
        let state = json!({
            "in_flight": in_flight,
            "tasks": Handle::current().metrics().num_alive_tasks(),
            "usable": snapshot.usable(),
            "changes": changes,
        });
        tell(&format!("STATE {state}"));
    }
    server.abort();
}

#[tokio::test]
#[ignore = "a process of the network tests"]
async fn backends() {
    if inside().is_none() {
        return;
    }
    for (name, address) in &BACKENDS[..2] {
        let address: SocketAddr = format!("{address}:{PORT}").parse().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, name));
            }
        });
    }
    tell("READY");
    let mut commands = commands();
    while commands.recv().await.is_some() {}
}

/// Answers one request after another until the connection breaks.
async fn serve(mut stream: TcpStream, name: &str) {
    let mut buf = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buf).await {
        if answer(&mut stream, name, &head, &mut buf).await.is_none() {
            return;
        }
    }
}

async fn read_head(stream: &mut TcpStream, buf: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = buf.drain(..end + 4).collect();
            return String::from_utf8(head).ok();
        }
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
}

async fn answer(stream: &mut TcpStream, name: &str, head: &str, buf: &mut Vec<u8>) -> Option<()> {
    let path = head.split(' ').nth(1)?;
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut left: usize = length.map_or(0, |l| l.parse().unwrap());
    while left > 0 {
        if buf.is_empty() && stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
        let n = left.min(buf.len());
        buf.drain(..n);
        left -= n;
    }
    let size = match path {
        "/big" => BIG,
        "/reset" => 2 * BIG,
        "/stream" => usize::MAX / 2,
        _ => 2,
    };
    let head = format!("HTTP/1.1 200 OK\r\nx-backend: {name}\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    match path {
        "/reset" => {
            stream.write_all(&[b'x'; 1_000]).await.ok()?;
            // Half an answer is on its way; a reset follows it.
            stream.set_zero_linger().ok()?;
            None
        }
        "/stream" => loop {
            stream.write_all(&[b'x'; 100]).await.ok()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        },
        _ => stream.write_all(&vec![b'x'; size]).await.ok(),
    }
}

pub(super) const BIG: usize = 64 * 1024;
