//! A real promtool and a real Prometheus, where they are installed.

use std::{
    net::TcpListener as StdListener,
    process::{Command, Stdio},
};

use axum::Router;
use serde_json::Value as Json;
use tokio::process::Command as AsyncCommand;

use super::*;

/// Returns true if the tool is there; says plainly that the test did not run if not.
fn is_installed(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        crate::support::not_run(&format!(
            "{tool} is not installed (Debian: apt-get install prometheus)"
        ));
    }
    found.is_ok()
}

/// A world in which most series have moved.
async fn busy() -> (Origin, World) {
    let a = statuses().await;
    let dead = format!("http://{}", refused());
    let world = World::new(&[("a", a.url()), ("b", dead)], |builder, pool| {
        builder
            .sticky(StickyLayer::new(pool, Keys::new([7; 32])))
            .unwrap()
    })
    .await;
    for status in [200, 204, 301, 404, 500, 503, 200, 200] {
        world.get(&format!("/{status}")).await;
    }
    world.at_rest().await;
    (a, world)
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    if !is_installed("promtool") {
        return;
    }
    let (_backend, world) = busy().await;
    let mut child = AsyncCommand::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(world.service.text().as_bytes())
        .await
        .unwrap();
    drop(input);
    let output = timeout(PATIENCE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    assert_eq!(String::from_utf8_lossy(&said), "", "not even a warning");
}

#[tokio::test]
async fn prometheus_scrapes_both_formats() {
    if !is_installed("prometheus") {
        return;
    }
    let (_backend, world) = busy().await;
    let scrapes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = scrapes.local_addr().unwrap();
    let text = world.service.clone();
    // A scraper that asks for nothing in particular gets the text format.
    let app = Router::new()
        .route_service("/metrics", world.service.clone())
        .route(
            "/text",
            axum::routing::get(move || async move { text.text() }),
        );
    tokio::spawn(evenkeel::serve(scrapes, app).into_future());
    let folder = tempfile::tempdir().unwrap();
    let job = |name: &str, path: &str| {
        format!(
            "  - job_name: {name}\n    metrics_path: {path}\n    scrape_interval: 500ms\n    \
             scrape_timeout: 500ms\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        )
    };
    let config = format!(
        "scrape_configs:\n{}{}",
        job("open", "/metrics"),
        job("text", "/text")
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    // Prometheus cannot say which port it took: it is given one that was free a moment ago.
    let free = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let _prometheus = AsyncCommand::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={free}"))
        .arg("--log.level=error")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for (query, value) in [
        ("up{job=\"open\"}", 1.0),
        ("up{job=\"text\"}", 1.0),
        ("sum(evenkeel_requests_total{job=\"open\"})", 8.0),
        ("sum(evenkeel_requests_total{job=\"text\"})", 8.0),
        (
            "sum(evenkeel_requests_accepted_total{job=\"open\"}) - sum(evenkeel_requests_total{job=\"open\"}) - sum(evenkeel_requests_in_flight{job=\"open\"})",
            0.0,
        ),
        (
            "evenkeel_backend_requests_total{job=\"open\",backend=\"a\",status=\"4xx\"}",
            1.0,
        ),
        (
            "evenkeel_backend_request_duration_seconds_count{job=\"open\",backend=\"a\"}",
            8.0,
        ),
        ("count(evenkeel_build_info{job=\"open\"})", 1.0),
    ] {
        let wait = async {
            while ask(free, query).await != Some(value) {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(
            waited.is_ok(),
            "{query} is not {value}:\n{}",
            world.service.text()
        );
    }
}

/// Asks Prometheus' HTTP API; returns the value of the one series that the query finds.
async fn ask(address: SocketAddr, query: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let body = format!("query={}", encoded(query));
    let head = format!(
        "POST /api/v1/query HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (_, json) = response.split_once("\r\n\r\n")?;
    let json: Json = serde_json::from_str(json).ok()?;
    let value = json["data"]["result"][0]["value"][1].as_str()?;
    value.parse().ok()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
