use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    client::{self, get, get_tls, try_get},
    process::{Backend, PATIENCE, Process},
};
use crate::support::{pki::Authority, refused};

/// A settings file in a folder of its own.
pub(crate) struct Settings {
    folder: TempDir,
}

impl Settings {
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Self { folder };
        settings.write(text);
        settings
    }

    pub(crate) fn write(&self, text: &str) {
        fs::write(self.path("edge.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self) -> String {
        self.path("edge.toml").display().to_string()
    }
}

pub(super) const ONE_LISTENER: &str =
    "[server]\nthreads = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n";

/// Starts it on one cleartext listener.
async fn start(settings: &Settings) -> (Process, SocketAddr) {
    let mut edge = Process::start("edge", &[&settings.file()]);
    let address = edge.address("listening on http://").await;
    (edge, address)
}

#[tokio::test]
async fn check_says_what_is_wrong_in_one_line() {
    let backend = "[[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let good = format!("{ONE_LISTENER}{backend}");
    let settings = Settings::new(&good);
    let (one, other) = (Authority::new(), Authority::new());
    fs::write(settings.path("cert.pem"), one.issue(&["localhost"]).chain).unwrap();
    fs::write(settings.path("key.pem"), other.issue(&["localhost"]).key).unwrap();
    let folder = settings.folder.path().display();
    let tls = |key: &str| {
        let tls = format!(
            "[listen.tls]\ncertificates = [{{ chain = \"{folder}/cert.pem\", key = \"{folder}/{key}\" }}]\n[pool]"
        );
        good.replace("[pool]", &tls)
    };
    for (text, code, part) in [
        (good.clone(), 0, "edge.toml: fine"),
        (
            good.replace("threads", "thread"),
            2,
            "edge.toml: line 2: [server]: unknown key `thread`",
        ),
        (tls("none.pem"), 2, "none.pem: No such file"),
        (
            tls("key.pem"),
            2,
            "the key does not belong to a certificate of the chain",
        ),
    ] {
        settings.write(&text);
        let mut edge = Process::start("edge", &["--check", &settings.file()]);
        let (status, lines) = edge.ended().await;
        assert_eq!(status.code(), Some(code), "{lines:?}");
        assert!(
            lines.len() == 1 && lines[0].contains(part),
            "one line with {part:?}: {lines:?}"
        );
    }
    // Without --check, bad settings end it the same way; so does a file that is not there.
    for path in [settings.file(), "/nowhere/edge.toml".into()] {
        let mut edge = Process::start("edge", &[&path]);
        let (status, lines) = edge.ended().await;
        assert_eq!((status.code(), lines.len()), (Some(2), 1), "{lines:?}");
    }
}

#[tokio::test]
async fn a_restart_restores_the_measured_health() {
    let a = Backend::start("a").await;
    let settings = Settings::new("");
    let file = settings.path("health.json");
    // The second time a check of `a` hangs for longer than the test takes: only what was known
    // from before can make it serve at once.
    for (path, begins) in [
        ("/health", "no state file yet"),
        (
            "/slow?ms=600000",
            "restored the measured health of the backends",
        ),
    ] {
        settings.write(&format!(
            "{ONE_LISTENER}{}[[pool.backends]]\nid = \"dead\"\nurl = \"http://{}\"\n\
             [health]\npath = {path:?}\nstate_file = {:?}\ninterval = \"10m\"\n\
             timeout = \"9m\"\nchanging_interval = \"20ms\"\n",
            a.settings(),
            refused(),
            file.display().to_string(),
        ));
        let mut edge = Process::start("edge", &[&settings.file()]);
        edge.line(begins).await;
        let address = edge.address("listening on http://").await;
        assert_eq!(get(address, "/").await.backend(), "a");
        let known = timeout(PATIENCE, async {
            loop {
                let text = fs::read(&file).unwrap_or_default();
                let known: Value = serde_json::from_slice(&text).unwrap_or_default();
                let backends = &known["health"]["backends"];
                if backends.as_array().is_some_and(|all| all.len() == 2) {
                    return backends.clone();
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        let known = known.await.expect("it is written as it changes");
        for backend in known.as_array().unwrap() {
            assert_eq!(backend["healthy"], backend["id"] == "a", "{known}");
        }
        edge.signal("-TERM");
        edge.must_succeed().await;
    }
    // What is no settings of health is left, and said.
    fs::write(&file, "{}").unwrap();
    let mut edge = Process::start("edge", &[&settings.file()]);
    edge.line("cannot restore the measured health").await;
}

#[tokio::test]
async fn every_section_does_its_part() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let settings = Settings::new("");
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    fs::write(settings.path("cert.pem"), &issued.chain).unwrap();
    fs::write(settings.path("key.pem"), &issued.key).unwrap();
    let folder = settings.folder.path().display();
    settings.write(&format!(
        r#"
[server]
threads = 2
locality = "eu-1/eu-1a"
shutdown = {{ lame_duck = "100ms", drain = "10s" }}
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
[listen.tls]
certificates = [{{ chain = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
min_version = "1.3"
alpn = ["h2", "http/1.1"]
hsts = "1y"
[[listen]]
address = "127.0.0.1:0"
[listen.tls]
certificates = [{{ chain = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
[pool]
strategy = "round-robin"
{}{}
[health]
path = "/health"
interval = "1s"
timeout = "900ms"
[sticky]
cookie = "NODE"
keys = ["5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"]
[proxy]
connect_timeout = "2s"
response_timeout = "15s"
idle_timeout = "60s"
trusted = ["10.0.0.0/8"]
[failover]
attempts = 2
hedge = {{ after = "p95", at_least = "50ms" }}
[trace]
[access_log]
file = "{folder}/access.jsonl"
node = "lb-1"
[admin]
address = "127.0.0.1:0"
"#,
        a.settings(),
        b.settings()
    ));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let admin = edge.address("admin on http://").await;
    let http = edge.address("listening on http://").await;
    let https = edge.address("listening on https://").await;
    let trial = edge.address("listening on https://").await;

    let plain = get(http, "/plain?secret=1").await;
    assert_eq!(
        plain.header("strict-transport-security"),
        "",
        "not in cleartext"
    );
    let mut names: Vec<_> = [plain.backend(), get(http, "/").await.backend()].into();
    names.extend([
        get(http, "/").await.backend(),
        get(http, "/").await.backend(),
    ]);
    names.sort();
    names.dedup();
    assert_eq!(names, ["a", "b"], "requests are spread");

    let first = get_tls(https, authority.client(), "/tls", "").await;
    assert_eq!(
        first.header("strict-transport-security"),
        "max-age=31536000"
    );
    let trial = get_tls(trial, authority.client(), "/trial", "").await;
    assert_eq!(
        trial.header("strict-transport-security"),
        "",
        "not unless it is asked for"
    );
    let cookie = first.header("set-cookie").split(';').next().unwrap();
    assert!(cookie.starts_with("NODE="), "{first:?}");
    for _ in 0..4 {
        let again = get_tls(https, authority.client(), "/", cookie).await;
        assert_eq!(
            again.backend(),
            first.backend(),
            "the cookie holds the session"
        );
    }
    let mut http1 = authority.client();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let over_http1 = get_tls(https, http1, "/", cookie).await;
    assert_eq!(over_http1.backend(), first.backend());

    for (path, status) in [
        ("/live", 200),
        ("/ready", 200),
        ("/metrics", 200),
        ("/status", 200),
        ("/nothing", 404),
    ] {
        assert_eq!(get(admin, path).await.status, status, "{path}");
    }
    websocket(http).await;

    edge.signal("-TERM");
    edge.must_succeed().await;
    let log = fs::read_to_string(settings.path("access.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of = |path: &str| lines.iter().find(|l| l["path"] == path).unwrap();
    assert_eq!(of("/plain")["node"], "lb-1");
    assert!(!log.contains("secret"), "the query is not logged");
    let trace = of("/plain")["trace_id"].as_str().unwrap();
    assert_eq!(trace.len(), 32, "{trace}");
    assert_eq!(of("/tls")["tls_version"], "TLSv1.3");
    assert_eq!(of("/tls")["protocol"], "HTTP/2");
    assert_eq!(of("/ws")["status"], 101);
    assert_eq!(
        lines.len(),
        4 + 1 + 1 + 4 + 1 + 1,
        "one line a request: {log}"
    );
}

/// A WebSocket through it, both ways.
async fn websocket(address: SocketAddr) {
    use tokio_tungstenite::tungstenite::{Message, client};
    let echoed = tokio::task::spawn_blocking(move || {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut socket, _) = client(format!("ws://{address}/ws"), stream).unwrap();
        socket.send(Message::text("over and out")).unwrap();
        socket.read().unwrap()
    });
    assert_eq!(echoed.await.unwrap(), Message::text("over and out"));
}

#[tokio::test]
async fn a_signal_drains_and_readiness_says_so_first() {
    let a = Backend::start("a").await;
    let settings = Settings::new(&format!(
        "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"1500ms\", drain = \"30s\" }}\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[pool]\n{}",
        a.settings()
    ));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let admin = edge.address("admin on http://").await;
    let http = edge.address("listening on http://").await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    let slow = tokio::spawn(async move { get(http, "/slow?ms=3000").await });
    sleep(Duration::from_millis(300)).await;
    edge.signal("-TERM");
    edge.line("shutting down").await;
    let ready = get(admin, "/ready").await;
    assert_eq!(
        ready.status, 503,
        "a balancer that checks uses another instance"
    );
    assert!(ready.body.contains("shutting down"), "{ready:?}");
    assert_eq!(
        get(http, "/").await.backend(),
        "a",
        "a client that does not check is served"
    );
    let slow = slow.await.unwrap();
    assert_eq!(slow.backend(), "a", "what began must end");
    edge.must_succeed().await;
    assert!(try_get(http, "/").await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn no_request_of_a_busy_client_is_lost_at_the_end() {
    let a = Backend::start("a").await;
    for (example, lame_duck) in [
        ("edge", "0s"),
        ("edge", "1s"),
        ("axum", "0s"),
        ("axum", "1s"),
    ] {
        let settings = Settings::new(&format!(
            "[server]\nthreads = 2\nshutdown = {{ lame_duck = \"{lame_duck}\", drain = \"30s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nready = \"/-/ready\"\n[pool]\n{}",
            a.settings()
        ));
        let mut served = Process::start(example, &[&settings.file()]);
        let http = served.address("listening on http://").await;
        until_ready(http, 200).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let mut busy = JoinSet::new();
        for _ in 0..8 {
            busy.spawn(client::post_until_told(http, answered.clone()));
            busy.spawn(client::post_until_goaway(http, answered.clone()));
        }
        while answered.load(SeqCst) < 200 {
            sleep(Duration::from_millis(5)).await;
        }
        served.signal("-TERM");
        while let Some(ended) = busy.join_next().await {
            ended.unwrap_or_else(|error| panic!("{example}, {lame_duck}: {error}"));
        }
        served.must_succeed().await;
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_of_its_listener_waits() {
    let backend = Backend::start("a").await;
    let text = format!("{ONE_LISTENER}{}", backend.settings());
    let settings = Settings::new(&text.replacen("[pool]", "max_connections = 1\n[pool]", 1));
    for example in ["edge", "axum"] {
        let mut process = Process::start(example, &[&settings.file()]);
        let address = process.address("listening on http://").await;
        let ask = async || {
            let mut client = TcpStream::connect(address).await.unwrap();
            let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            client.write_all(head).await.unwrap();
            client
        };
        let mut first = ask().await;
        let answer = timeout(PATIENCE, first.read_u8()).await;
        assert_eq!(answer.expect("an answer").unwrap(), b'H');
        let mut second = ask().await;
        let early = timeout(Duration::from_millis(300), second.read_u8()).await;
        assert!(early.is_err(), "{example}: the second one must wait");
        drop(first);
        let answer = timeout(PATIENCE, second.read_u8()).await;
        assert_eq!(answer.expect("its turn").unwrap(), b'H', "{example}");
    }
}

#[tokio::test]
async fn a_public_listener_says_whether_it_can_route_where_it_is_told_to() {
    let mut a = Backend::start("a").await;
    let settings = Settings::new(&format!(
        "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"2s\" }}\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nready = \"/-/ready\"\nlive = \"/-/live\"\n[pool]\n{}\
         [health]\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        a.settings()
    ));
    for example in ["edge", "axum"] {
        let mut served = Process::start(example, &[&settings.file()]);
        let http = served.address("listening on http://").await;
        until_ready(http, 200).await;
        assert_eq!(get(http, "/-/live").await.status, 200);
        assert_eq!(
            get(http, "/ready").await.backend(),
            "a",
            "no reload was asked for"
        );
        a.process.kill().await;
        let ready = until_ready(http, 503).await;
        assert!(ready.contains("no usable backend"), "{ready}");
        assert_eq!(get(http, "/-/live").await.status, 200, "it lives");
        a = Backend::start_at("a", a.address).await;
        until_ready(http, 200).await;

        served.signal("-TERM");
        let ready = until_ready(http, 503).await;
        assert!(ready.contains("shutting down"), "{ready}");
        assert_eq!(get(http, "/").await.backend(), "a", "it serves still");
        served.must_succeed().await;
    }
}

/// Waits until requests are answered with this status: an event is logged before the requests see
/// what it announces.
async fn until_answered(address: SocketAddr, status: u16) {
    let began = Instant::now();
    loop {
        let got = get(address, "/").await.status;
        if got == status {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{got} instead of {status}");
    }
}

/// Asks until the readiness endpoint answers with this status; returns its body.
async fn until_ready(address: SocketAddr, status: u16) -> String {
    let asked = async {
        loop {
            let ready = get(address, "/-/ready").await;
            if ready.status == status {
                return ready.body;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("it must say so")
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let a = Backend::start("a").await;
    let settings = Settings::new(&format!("{ONE_LISTENER}{}", a.settings()));
    let (mut edge, http) = start(&settings).await;
    let slow = tokio::spawn(async move { try_get(http, "/slow?ms=600000").await });
    sleep(Duration::from_millis(300)).await;
    edge.signal("-INT");
    edge.line("shutting down").await;
    edge.signal("-TERM");
    edge.must_succeed().await;
    assert!(slow.await.unwrap().is_err(), "it was cut");
}

#[tokio::test]
async fn a_hangup_changes_the_backends_and_fails_no_request() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let with = |backend: &Backend, rest: &str| {
        format!("{ONE_LISTENER}{}[failover]\n{rest}", backend.settings())
    };
    let settings = Settings::new(&with(&a, ""));
    let (mut edge, http) = start(&settings).await;
    assert_eq!(get(http, "/").await.backend(), "a");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let traffic = tokio::spawn(async move {
        let mut count = 0;
        while stopped.try_recv().is_err() {
            get(http, "/slow?ms=5").await.backend();
            count += 1;
        }
        count
    });

    // Membership alone; then layers, too.
    settings.write(&with(&b, ""));
    edge.signal("-HUP");
    edge.line("settings read again").await;
    assert_eq!(get(http, "/").await.backend(), "b", "the new backend");
    settings.write(&with(&a, "attempts = 3\n"));
    edge.signal("-HUP");
    edge.line("settings read again").await;
    assert_eq!(get(http, "/").await.backend(), "a", "the first one again");

    settings.write("[pool]\nbackends = 1\n");
    edge.signal("-HUP");
    let said = edge.line("the last good settings stay").await;
    assert!(said.contains("edge.toml: line"), "{said}");
    assert_eq!(
        get(http, "/").await.backend(),
        "a",
        "the last good settings stay"
    );

    let moved = with(&a, "").replace("threads = 1", "threads = 2");
    settings.write(&moved);
    edge.signal("-HUP");
    edge.line("settings read again").await;
    edge.line("[server] threads changed: that needs a restart")
        .await;

    stop.send(()).unwrap();
    assert!(traffic.await.unwrap() > 0, "no request failed");
    edge.signal("-TERM");
    edge.must_succeed().await;
}

#[tokio::test]
async fn a_hangup_that_ends_the_checks_ends_what_they_found() {
    let a = Backend::start("a").await;
    let with = |health: &str| format!("{ONE_LISTENER}{}{health}", a.settings());
    // It serves, and its checks fail.
    let failing = |interval: &str| {
        with(&format!(
            "[health]\npath = \"/slow?ms=60000\"\ninterval = \"{interval}\"\n\
             changing_interval = \"100ms\"\ntimeout = \"50ms\"\n"
        ))
    };
    let settings = Settings::new(&failing("200ms"));
    let (mut edge, http) = start(&settings).await;
    edge.line("is down").await;
    until_answered(http, 503).await;

    // Other checks are a reconfiguration: down stays down (invariant A).
    settings.write(&failing("300ms"));
    edge.signal("-HUP");
    edge.line("settings read again").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(get(http, "/").await.status, 503, "no check has passed");
    }

    settings.write(&with(""));
    edge.signal("-HUP");
    edge.line("health is unknown: active checks stopped").await;
    // No check says any more that it is down.
    until_answered(http, 200).await;

    settings.write(&failing("200ms"));
    edge.signal("-HUP");
    edge.line("is down").await;
    until_answered(http, 503).await;
    edge.signal("-TERM");
    edge.must_succeed().await;
}

#[tokio::test]
async fn a_hangup_opens_the_log_anew() {
    let a = Backend::start("a").await;
    let settings = Settings::new("");
    let (log, moved) = (settings.path("access.jsonl"), settings.path("access.1"));
    settings.write(&format!(
        "{ONE_LISTENER}{}[access_log]\nfile = {:?}\n",
        a.settings(),
        log.display().to_string()
    ));
    let (mut edge, http) = start(&settings).await;
    logged(http, "/before", &log).await;
    fs::rename(&log, &moved).unwrap();
    edge.signal("-HUP");
    edge.line("settings read again").await;
    logged(http, "/after", &log).await;
    let old = fs::read_to_string(&moved).unwrap();
    assert!(old.contains("/before") && !old.contains("/after"), "{old}");
}

/// Asks for a path until its line is in this file.
async fn logged(address: SocketAddr, path: &str, file: &Path) {
    let written = async {
        loop {
            get(address, path).await;
            let written = fs::read_to_string(file).unwrap_or_default();
            if written.contains(path) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = timeout(PATIENCE, written).await;
    ended.unwrap_or_else(|_| panic!("{path} must be in {}", file.display()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_body_goes_both_ways_in_little_memory() {
    let a = Backend::start("a").await;
    let settings = Settings::new(&format!("{ONE_LISTENER}{}[failover]\n", a.settings()));
    let (edge, http) = start(&settings).await;
    get(http, "/").await;
    let before = edge.peak_memory();
    assert_eq!(client::echo(http, 128 * MIB).await, 128 * MIB);
    let grown = edge.peak_memory() - before;
    assert!(
        grown < 16 * MIB,
        "a body streams, whatever its size: {grown} bytes more"
    );
}

#[cfg(target_os = "linux")]
const MIB: usize = 1_024 * 1_024;

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let backend = "[[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let text = format!("{ONE_LISTENER}{backend}").replace("127.0.0.1:0", &address.to_string());
    let settings = Settings::new(&text);
    let mut edge = Process::start("edge", &[&settings.file()]);
    let (status, lines) = edge.ended().await;
    assert_eq!(status.code(), Some(1));
    let last = lines.last().unwrap();
    assert!(last.contains(&format!("{address}: ")), "{lines:?}");
}

#[tokio::test]
async fn a_client_does_not_choose_how_much_is_logged() {
    let backend = "[[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let settings = Settings::new(&format!("{ONE_LISTENER}{backend}"));
    let (mut edge, address) = start(&settings).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..1_000 {
        // The answer to a PING that was never sent.
        frames.extend_from_slice(b"\0\0\x08\x06\x01\0\0\0\0evenkeel");
    }
    // One that is to be answered, behind all of them.
    frames.extend_from_slice(b"\0\0\x08\x06\0\0\0\0\0the last");
    client.write_all(&frames).await.unwrap();
    let mut came = Vec::new();
    while !came.windows(8).any(|part| part == b"the last") {
        assert_ne!(client.read_buf(&mut came).await.unwrap(), 0, "{came:?}");
    }
    // Others go on opening and resetting what they opened.
    for _ in 0..20 {
        let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for stream in (1..200_u32).step_by(2) {
            let id = stream.to_be_bytes();
            // GET http:// with an :authority; then CANCEL.
            frames.extend_from_slice(b"\0\0\x06\x01\x05");
            frames.extend_from_slice(&id);
            frames.extend_from_slice(b"\x82\x86\x84\x41\x01a");
            frames.extend_from_slice(b"\0\0\x04\x03\0");
            frames.extend_from_slice(&id);
            frames.extend_from_slice(b"\0\0\0\x08");
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&frames).await.unwrap();
        let mut came = Vec::new();
        // Closed, perhaps with a reset.
        let _ = client.read_to_end(&mut came).await;
    }
    edge.signal("-TERM");
    let (status, lines) = edge.ended().await;
    assert!(status.success(), "{status}: {lines:#?}");
    assert!(
        lines.len() < 10,
        "{} lines: {:#?}",
        lines.len(),
        &lines[..10]
    );
    let closed = lines
        .iter()
        .filter(|line| line.contains("an HTTP/2 connection was closed"));
    // The second one 10 s later, on a machine that has a lot to do.
    assert!((1..=2).contains(&closed.count()), "{lines:#?}");
}
