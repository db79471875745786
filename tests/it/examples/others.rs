//! The smaller ones.

use std::fs;

use super::{
    client::{get, get_tls, insecure},
    edge::Settings,
    process::{Backend, Process},
};
use crate::{metrics, support::pki::Authority, trace::Collector};

#[tokio::test]
async fn axum_serves_its_routes_beside_the_balancer() {
    let mut demo = Process::start("axum", &[]);
    let address = demo.address("https://").await;
    let hello = get_tls(address, insecure(), "/hello", "").await;
    assert!(hello.body.starts_with("hello over TLSv1.3"), "{hello:?}");
    let api = get_tls(address, insecure(), "/api/users", "").await;
    assert!(
        api.body.contains("sees /users\n"),
        "nest strips the prefix: {api:?}"
    );
    assert!(api.body.contains("x-forwarded-proto: https"), "{api:?}");
    assert!(
        api.body
            .contains(&format!("x-request-id: {}", api.header("x-request-id")))
    );
    let rest = get_tls(address, insecure(), "/users", "").await;
    assert!(
        rest.body.contains("sees /users\n"),
        "the fallback: {rest:?}"
    );
    assert_eq!(
        rest.header("strict-transport-security"),
        "",
        "a trial must not pin a browser"
    );
    demo.signal("-TERM");
    demo.must_succeed().await;
}

#[tokio::test]
async fn axum_serves_the_settings_of_edge() {
    let a = Backend::start("a").await;
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let log = folder.path().join("access.jsonl");
    fs::write(&chain, issued.chain).unwrap();
    fs::write(&key, issued.key).unwrap();
    let settings = Settings::new(&format!(
        "[server]\nthreads = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[listen.tls]\n\
         certificates = [{{ chain = {chain:?}, key = {key:?} }}]\nhsts = \"1y\"\n[pool]\n{}\
         [health]\n[failover]\n[access_log]\nfile = {log:?}\n",
        a.settings(),
    ));
    let mut served = Process::start("axum", &[&settings.file()]);
    let http = served.address("listening on http://").await;
    let https = served.address("listening on https://").await;
    assert_eq!(get(http, "/plain").await.backend(), "a");
    let api = get_tls(https, authority.client(), "/api/secure", "").await;
    assert_eq!(api.backend(), "a");
    assert!(api.body.contains("GET /secure"), "{api:?}");
    let own = get_tls(https, authority.client(), "/hello", "").await;
    for answer in [&api, &own] {
        assert_eq!(
            answer.header("strict-transport-security"),
            "max-age=31536000",
            "{answer:?}"
        );
    }
    served.signal("-TERM");
    served.must_succeed().await;
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("\"path\":\"/plain\""), "{log}");
    assert!(
        log.contains("\"path\":\"/api/secure\""),
        "the log has the original path: {log}"
    );
    assert!(log.contains("\"tls_version\":\"TLSv1.3\""), "{log}");
}

#[tokio::test]
async fn a_program_is_a_client_without_a_server() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let list = [&a, &b].map(|backend| format!("{}=http://{}", backend.name, backend.address));
    let mut program = Process::start("client", &[&list[0], &list[1]]);
    program.line("GET: 200 OK").await;
    program.line("GET: 200 OK").await;
    program.line("POST: hello").await;
    program.must_succeed().await;
}

#[tokio::test]
async fn hyper_balances_and_survives_a_kill() {
    let (mut a, b) = (Backend::start("a").await, Backend::start("b").await);
    let list = [&a, &b].map(|backend| format!("{}=http://{}", backend.name, backend.address));
    let mut served = Process::start("hyper", &[&list[0], &list[1]]);
    let address = served.address("http://").await;
    let mut names = [
        get(address, "/").await.backend(),
        get(address, "/").await.backend(),
    ];
    names.sort();
    assert_eq!(names, ["a", "b"]);
    a.process.kill().await;
    for _ in 0..8 {
        assert_eq!(get(address, "/").await.backend(), "b", "no client sees it");
    }
}

#[tokio::test]
async fn traces_go_to_a_collector() {
    let collector = Collector::start().await;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url());
    let mut traced = Process::start_with("trace", &["127.0.0.1:0"], endpoint);
    let address = traced.address("curl -i http://").await;
    let answers = [get(address, "/").await.body, get(address, "/").await.body];
    traced.signal("-INT");
    traced.must_succeed().await;
    let spans = collector.spans(5).await;
    let requests: Vec<_> = spans.iter().filter(|s| s.kind() == "server").collect();
    assert_eq!(requests.len(), 2, "one of two is retried: {spans:#?}");
    for (request, answer) in requests.into_iter().zip(answers) {
        assert_eq!(request.name(), "GET");
        let mut attempts: Vec<_> = spans
            .iter()
            .filter(|s| s.parent() == request.id())
            .collect();
        let answered = attempts.pop().unwrap();
        let parent = format!("parent: 00-{}-{}-01\n", request.trace_id(), answered.id());
        assert_eq!(answer, parent);
        assert!(
            attempts
                .iter()
                .all(|failed| failed.get("error.type") == "connect")
        );
    }
}

#[tokio::test]
async fn metrics_go_to_a_collector() {
    let collector = metrics::Collector::start().await;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url());
    let mut served = Process::start_with("otlp_metrics", &["127.0.0.1:0"], endpoint);
    let address = served.address("curl -i http://").await;
    for _ in 0..3 {
        assert_eq!(get(address, "/").await.body, "hello\n");
    }
    // The last values go out before the end, whatever the interval.
    served.signal("-INT");
    served.must_succeed().await;
    let seen = collector.last();
    let labels = format!("listener=\"{address}\",status=\"2xx\"");
    assert_eq!(seen.get("evenkeel_requests", &labels), 3.0);
    let backend = "backend=\"a\"";
    let count = seen.get("evenkeel_backend_request_duration_seconds_count", backend);
    assert_eq!(count, 3.0);
    assert_eq!(seen.get("evenkeel_backend_usable", backend), 1.0);
}
