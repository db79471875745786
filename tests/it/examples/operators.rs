//! The listener of `[admin]`: metrics, the status page and its API; and several outputs of the log.

use std::{convert::Infallible, fs, future::IntoFuture, net::SocketAddr};

use bytes::Bytes;
use evenkeel::tls::{Certificate, Certificates, TlsConfig, TlsLayer};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixDatagram},
    time::{Instant, timeout},
};
use tower::service_fn;

use super::{
    client::{get, post},
    edge::Settings,
    process::{Backend, PATIENCE, Process},
};
use crate::support::pki::Authority;

const TOKEN: &str = "a-token-from-a-secret-store";

/// Two workers, two backends, and these lines.
fn settings(backends: &[&Backend], rest: &str) -> String {
    let backends: String = backends.iter().map(|backend| backend.settings()).collect();
    format!(
        "[server]\nthreads = 2\nshutdown = {{ lame_duck = \"0s\" }}\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{backends}{rest}"
    )
}

/// Starts an example; returns it with the addresses of its listener and of `[admin]`.
async fn start(example: &str, settings: &Settings) -> (Process, SocketAddr, SocketAddr) {
    let mut served = Process::start(example, &[&settings.file()]);
    let admin = served.address("admin on http://").await;
    let http = served.address("listening on http://").await;
    (served, http, admin)
}

/// Returns the sum of a metric over the series that have all these labels.
pub(super) async fn metric(admin: SocketAddr, name: &str, labels: &[&str]) -> f64 {
    let scraped = get(admin, "/metrics").await;
    let lines = scraped.body.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        let is_series = rest.is_some_and(|rest| rest.starts_with(['{', ' ']));
        is_series && labels.iter().all(|label| line.contains(label))
    });
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    lines.map(value).sum()
}

/// Scrapes until a metric has this value: an event that no line announces.
async fn until_metric(admin: SocketAddr, name: &str, labels: &[&str], wanted: f64) {
    let began = Instant::now();
    loop {
        let found = metric(admin, name, labels).await;
        if found == wanted {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name}: {found}, not {wanted}");
    }
}

async fn state(admin: SocketAddr, backend: &str) -> String {
    let answer = get(admin, "/status.json").await;
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status["name"], "lb-1");
    let mut backends = status["backends"].as_array().unwrap().iter();
    let found = backends.find(|found| found["id"] == backend).unwrap();
    found["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn admin_serves_the_page_its_api_and_the_metrics() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for example in ["edge", "axum"] {
        let settings = Settings::new("");
        let log = settings.path("access.jsonl");
        settings.write(&settings_with_admin(&[&a, &b], &log.display().to_string()));
        let (mut served, http, admin) = start(example, &settings).await;
        for _ in 0..6 {
            assert_eq!(get(http, "/").await.status, 200);
        }
        let ok = ["status=\"2xx\"", &format!("listener=\"{http}\"")];
        until_metric(admin, "evenkeel_requests_total", &ok, 6.0).await;
        until_metric(admin, "evenkeel_requests_accepted_total", &[], 6.0).await;
        until_metric(admin, "evenkeel_connections_opened_total", &[], 6.0).await;
        let written = ["result=\"written\""];
        until_metric(admin, "evenkeel_log_lines_total", &written, 6.0).await;
        // Each balancer has a budget of its own, 3 a second for 10 s at first: edge has one a worker.
        let left = metric(admin, "evenkeel_retry_budget_left", &[]).await;
        let balancers = if example == "edge" { 2.0 } else { 1.0 };
        assert!(
            left > 30.0 * balancers - 1.0 && left < 30.0 * balancers + 10.0,
            "{left}"
        );

        let page = get(admin, "/status").await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("data-id=\"b\""), "{}", page.body);
        for (token, status) in [
            ("", 401),
            ("another-token-of-some-length", 401),
            (TOKEN, 200),
        ] {
            assert_eq!(state(admin, "a").await, "up", "no order was accepted yet");
            let answer = post(admin, "/backends/a/maintenance", token).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
        assert_eq!(state(admin, "a").await, "maintenance");
        for _ in 0..4 {
            assert_eq!(get(http, "/").await.backend(), "b", "the order is followed");
        }
        assert_eq!(post(admin, "/backends/c/ready", TOKEN).await.status, 404);
        end_with_a_viewer(&mut served, admin).await;
    }
}

fn settings_with_admin(backends: &[&Backend], log: &str) -> String {
    settings(
        backends,
        &format!(
            "[access_log]\nfile = {log:?}\nnode = \"lb-1\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\ntoken = {TOKEN:?}\n"
        ),
    )
}

/// An open page, which gets updates, does not hold up the end.
async fn end_with_a_viewer(served: &mut Process, admin: SocketAddr) {
    let mut viewer = TcpStream::connect(admin).await.unwrap();
    let head = b"GET /status/events HTTP/1.1\r\nHost: lb\r\n\r\n";
    viewer.write_all(head).await.unwrap();
    let mut updates = Vec::new();
    while !updates.windows(13).any(|part| part == b"event: status") {
        let read = viewer.read_buf(&mut updates);
        assert!(timeout(PATIENCE, read).await.unwrap().unwrap() > 0);
    }
    served.signal("-TERM");
    served.must_succeed().await;
}

#[tokio::test]
async fn each_part_of_admin_can_be_left_out_and_orders_need_a_token() {
    let a = Backend::start("a").await;
    for (keys, metrics, status, order) in [
        ("", 200, 200, 403),
        ("metrics = false\n", 404, 200, 403),
        ("status = false\n", 200, 404, 404),
        ("metrics = false\nstatus = false\n", 404, 404, 404),
    ] {
        let settings = Settings::new(&settings(
            &[&a],
            &format!("[admin]\naddress = \"127.0.0.1:0\"\n{keys}"),
        ));
        let (_edge, http, admin) = start("edge", &settings).await;
        assert_eq!(get(http, "/").await.status, 200);
        assert_eq!(get(admin, "/ready").await.status, 200, "{keys}");
        assert_eq!(get(admin, "/metrics").await.status, metrics, "{keys}");
        assert_eq!(get(admin, "/status").await.status, status, "{keys}");
        let answer = post(admin, "/backends/a/drain", TOKEN).await;
        assert_eq!(answer.status, order, "{keys}: {answer:?}");
    }
}

/// The end of a certificate of [`put_certificate`], in seconds since 1970.
const END_OF_2049: f64 = 2_524_608_000.0;
const END_OF_2050: f64 = 2_556_144_000.0;

fn put_certificate(settings: &Settings, authority: &Authority, year: i32) {
    let issued = authority.issue_of(&["a.test"], |params| {
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
    });
    fs::write(settings.path("c.pem"), issued.chain).unwrap();
    fs::write(settings.path("k.pem"), issued.key).unwrap();
}

#[tokio::test]
async fn the_certificates_in_force_are_metrics_and_rows_and_follow_a_reload() {
    let (a, authority) = (Backend::start("a").await, Authority::new());
    let settings = Settings::new("");
    put_certificate(&settings, &authority, 2050);
    let files = format!(
        "{{ chain = {:?}, key = {:?} }}",
        settings.path("c.pem"),
        settings.path("k.pem")
    );
    settings.write(&self::settings(
        &[&a],
        &format!(
            "[proxy.tls]\nclient_certificate = {files}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[listen.tls]\ncertificates = [{files}]\n"
        ),
    ));
    let (edge, _, admin) = start("edge", &settings).await;
    let name = "evenkeel_tls_certificate_expiry_timestamp_seconds";
    let (served, to_backends) = ("listener=\"127.0.0.1:", "listener=\"backends\"");
    for place in [served, to_backends] {
        until_metric(admin, name, &["name=\"a.test\"", place], END_OF_2049).await;
    }
    let status: Value = serde_json::from_str(&get(admin, "/status.json").await.body).unwrap();
    assert_eq!(status["certificates_total"], 2, "{status}");
    assert_eq!(status["certificates"][0]["expiry"], "valid");
    assert!(get(admin, "/status").await.body.contains(">a.test<"));

    put_certificate(&settings, &authority, 2051);
    edge.signal("-HUP");
    for place in [served, to_backends] {
        // The sum over the series of the place: the old one is gone.
        until_metric(admin, name, &["name=\"a.test\"", place], END_OF_2050).await;
    }
}

#[tokio::test]
async fn several_outputs_get_each_line_and_files_are_opened_again() {
    let a = Backend::start("a").await;
    let settings = Settings::new("");
    let path = |name: &str| settings.path(name).display().to_string();
    let collector = UnixDatagram::bind(settings.path("collector.sock")).unwrap();
    settings.write(&self::settings(
        &[&a],
        &format!(
            "[access_log]\nfile = {:?}\nformat = \"logfmt\"\nfields = \"ecs\"\nquery = true\n\
             [[access_log.outputs]]\nfile = {:?}\nrotate = {{ size = \"1MiB\" }}\n\
             [[access_log.outputs]]\nsyslog = {{ unix = {:?}, facility = \"local7\", cee = true }}\n\
             [[access_log.outputs]]\nfile = {:?}\nsample = {{ ratio = 0.0 }}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n",
            path("one.log"),
            path("two.jsonl"),
            path("collector.sock"),
            path("sampled.jsonl"),
        ),
    ));
    for (example, round) in [("edge", 0), ("axum", 1)] {
        let (mut served, http, admin) = start(example, &settings).await;
        let lines = |name: &str, part: &str| {
            let text = fs::read_to_string(settings.path(name)).unwrap_or_default();
            text.lines().filter(|line| line.contains(part)).count()
        };
        assert_eq!(get(http, "/before?q=1").await.status, 200);
        let written = ["result=\"written\""];
        until_metric(admin, "evenkeel_log_lines_total", &written, 3.0).await;
        assert_eq!(lines("one.log", "url.path=/before"), 1);
        assert_eq!(lines("one.log", "url.query=\"q=1\""), 1);
        assert_eq!(lines("two.jsonl", "\"url.path\":\"/before\""), 1);
        assert_eq!(lines("sampled.jsonl", ""), 0, "no usual request");
        let mut message = vec![0; 65_536];
        let read = collector.recv(&mut message);
        let length = timeout(PATIENCE, read).await.unwrap().unwrap();
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        assert!(message.starts_with("<190>1 "), "local7.info: {message}");
        let (_, json) = message.split_once("@cee: ").unwrap();
        let line: Value = serde_json::from_str(json).unwrap();
        assert_eq!(line["url.path"], "/before");

        // Another program moves the files.
        for name in ["one.log", "two.jsonl"] {
            fs::rename(settings.path(name), settings.path("moved")).unwrap();
        }
        served.signal("-HUP");
        let began = Instant::now();
        while !settings.path("one.log").exists() || !settings.path("two.jsonl").exists() {
            assert!(began.elapsed() < PATIENCE, "the files are opened again");
            tokio::task::yield_now().await;
        }
        assert_eq!(get(http, "/after").await.status, 200);
        until_metric(admin, "evenkeel_log_lines_total", &written, 6.0).await;
        for name in ["one.log", "two.jsonl"] {
            assert_eq!(lines(name, "/after"), 1, "{name}, round {round}");
            assert_eq!(lines(name, "/before"), 0, "{name}, round {round}");
        }
        served.signal("-TERM");
        served.must_succeed().await;
        for name in ["one.log", "two.jsonl", "moved"] {
            fs::remove_file(settings.path(name)).unwrap();
        }
        while collector.try_recv(&mut [0; 65_536]).is_ok() {}
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_needs_a_restart_and_a_reload_says_so() {
    let a = Backend::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let rest = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = {token:?}\n");
    let settings = Settings::new(&settings(&[&a], &rest));
    let (mut edge, _http, admin) = start("edge", &settings).await;
    fs::write(&token, "another-token-of-enough-characters").unwrap();
    edge.signal("-HUP");
    edge.line("[admin] token_file changed: that needs a restart")
        .await;
    let status = get(admin, "/status.json").await;
    assert_eq!(status.status, 200, "the page goes on");
}

#[tokio::test]
async fn a_reload_reads_the_roots_of_backends_again() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["127.0.0.1"]);
    let certificate = Certificate::pem(issued.chain, issued.key);
    let tls = TlsConfig::new(Certificates::new([certificate]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = service_fn(async |_: Request<evenkeel::server::Body>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("over TLS"))))
    });
    tokio::spawn(
        evenkeel::serve(listener, app)
            .layer(TlsLayer::new(tls))
            .into_future(),
    );
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("ca.pem");
    fs::write(&roots, other.pem()).unwrap();
    let settings = Settings::new(&format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n[[pool.backends]]\nid = \"a\"\n\
         url = \"https://{address}\"\n[proxy.tls]\nca = {roots:?}\n"
    ));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let http = edge.address("listening on http://").await;
    assert_eq!(get(http, "/").await.status, 502, "of another authority");
    fs::write(&roots, authority.pem()).unwrap();
    edge.signal("-HUP");
    edge.line("settings read again").await;
    let answer = get(http, "/").await;
    assert_eq!(
        answer.status, 200,
        "of the authority that the file names now"
    );
    assert_eq!(answer.body, "over TLS");
}
