//! What checks an `edge` from outside asks as its documentation says: Kubernetes' kubelet, the script for
//! keepalived, and a health check of Route 53; each with the values of `examples/deploy`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use evenkeel::settings::Settings as Checked;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Instant, sleep, timeout},
};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    examples::{
        client::{get, insecure},
        edge::Settings,
        process::{Backend, PATIENCE, Process},
    },
    support::pki::{self, Authority},
};

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/deploy")
        .join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deployed(path)).unwrap()
}

/// What came back: the status, and the body as text.
type Seen = (u16, String);

/// Sends this head on a new connection, and reads the answer to the end of the stream.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> Option<Seen> {
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // What a peer closes without a TLS close_notify is whole as well: the body's length says so.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Repeats a check until it passes or fails as wanted: an edge notices its backends after a while.
async fn until<F: Future<Output = bool>>(wanted: bool, mut check: impl FnMut() -> F) {
    let changes = async {
        while check().await != wanted {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let changed = timeout(PATIENCE, changes).await;
    changed.unwrap_or_else(|_| panic!("the check must become {wanted}"));
}

/// A probe of a manifest, and where its port is.
struct Probe {
    path: String,
    timeout: Duration,
    period: u64,
    threshold: u64,
}

impl Probe {
    fn of(container: &Yaml, name: &str) -> Self {
        let probe = &container[name];
        let number = |key: &str| u64::try_from(probe[key].as_i64().unwrap()).unwrap();
        let ports = container["ports"].as_vec().unwrap();
        let port = &probe["httpGet"]["port"];
        let port = ports.iter().find(|own| own["name"] == *port).unwrap();
        assert_eq!(port["containerPort"].as_i64(), Some(9900), "the admin port");
        Self {
            path: probe["httpGet"]["path"].as_str().unwrap().to_owned(),
            timeout: Duration::from_secs(number("timeoutSeconds")),
            period: number("periodSeconds"),
            threshold: number("failureThreshold"),
        }
    }

    /// As the kubelet asks: a new connection, any status from 200 to 399 within the time-out.
    async fn passes(&self, address: SocketAddr) -> bool {
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n",
            self.path
        );
        let asked = async { exchange(TcpStream::connect(address).await.ok()?, &head).await };
        let seen = timeout(self.timeout, asked).await.ok().flatten();
        seen.is_some_and(|(status, _)| (200..400).contains(&status))
    }
}

#[tokio::test]
async fn kubernetes_probes_tell_a_live_a_ready_and_a_leaving_edge_apart() {
    let documents = YamlLoader::load_from_str(&read("kubernetes/edge.yaml")).unwrap();
    let of = |kind: &str| {
        documents
            .iter()
            .find(|d| d["kind"].as_str() == Some(kind))
            .unwrap()
    };
    let pod = &of("Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let live = Probe::of(container, "livenessProbe");
    let ready = Probe::of(container, "readinessProbe");
    let text = of("ConfigMap")["data"]["edge.toml"].as_str().unwrap();
    assert_eq!(
        Checked::mistakes(text).len(),
        0,
        "edge accepts the settings"
    );
    let settings = Checked::from_toml(text).unwrap();
    let grace = u64::try_from(pod["terminationGracePeriodSeconds"].as_i64().unwrap()).unwrap();
    let ends = settings.lame_duck() + settings.drain();
    assert!(
        Duration::from_secs(grace) > ends,
        "SIGKILL comes after the drain"
    );
    let noticed = Duration::from_secs(ready.period * ready.threshold) + ready.timeout;
    assert!(
        settings.lame_duck() > noticed,
        "the pod leaves the Service first"
    );

    let mut backend = Backend::start("shop-0").await;
    let (head, rest) = text.split_once("[[pool.backends]]").unwrap();
    let (_, rest) = rest.split_once("[health]").unwrap();
    let text = format!(
        "{head}{}[health]\ninterval = \"300ms\"\ntimeout = \"250ms\"{rest}",
        backend.settings()
    );
    let text = text
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("0.0.0.0:9900", "127.0.0.1:0");
    let settings = Settings::new(&text);
    let mut edge = Process::start("edge", &[&settings.file()]);
    let admin = edge.address("admin on http://").await;
    let address = edge.address("listening on http://").await;
    until(true, || ready.passes(admin)).await;
    assert!(live.passes(admin).await);

    backend.process.kill().await;
    until(false, || ready.passes(admin)).await;
    assert!(
        live.passes(admin).await,
        "its backends are no reason to restart it"
    );
    let Backend {
        name, address: at, ..
    } = backend;
    backend = Backend::start_at(name, at).await;
    until(true, || ready.passes(admin)).await;

    edge.signal("-STOP");
    let began = Instant::now();
    assert!(!live.passes(admin).await, "what hangs does not live");
    assert!(began.elapsed() >= live.timeout, "the kernel still accepts");
    edge.signal("-CONT");
    until(true, || live.passes(admin)).await;
    until(true, || ready.passes(admin)).await;

    edge.signal("-TERM");
    until(false, || ready.passes(admin)).await;
    assert!(
        live.passes(admin).await,
        "a restart now would cut requests off"
    );
    assert_eq!(
        get(address, "/").await.backend(),
        backend.name,
        "it serves until it is out"
    );
}

/// Settings of an edge at `own`, with one backend.
fn behind_keepalived(own: &str, backend: &Backend) -> Settings {
    let text = read("keepalived/edge.toml");
    // As it is, it has no key and cannot be used.
    let refused = Checked::from_toml(&text).unwrap_err();
    assert_eq!(refused.location(), "[sticky] keys", "{refused}");
    let settings = Settings::new("");
    let path = |name: &str| settings.path(name).display().to_string();
    fs::write(path("admin.token"), "a-token-of-the-test\n").unwrap();
    let text = text
        .replace("<64 hexadecimal digits>", &"5a".repeat(32))
        .replace("/var/log/evenkeel/access.jsonl", &path("access.jsonl"))
        .replace("/etc/evenkeel/admin.token", &path("admin.token"))
        .replace("/run/edge/upgrade.sock", &path("upgrade.sock"));
    let mistakes = Checked::mistakes(&text);
    assert!(
        mistakes.is_empty(),
        "edge accepts the settings: {mistakes:?}"
    );
    let (head, rest) = text.split_once("[[pool.backends]]").unwrap();
    let (_, rest) = rest.split_once("[health]").unwrap();
    let text = format!("{head}{}[health]{rest}", backend.settings());
    let text = text
        .replace("0.0.0.0:80", "127.0.0.1:0")
        .replace("192.0.2.11", own);
    settings.write(&text);
    settings
}

/// Runs the script for keepalived; returns whether this node may have the addresses.
async fn check_edge(own: &str, peer: &str, folder: &Path) -> bool {
    let began = Instant::now();
    let mut script = Command::new(deployed("keepalived/check-edge"));
    script
        .args([own, peer, "192.0.2.10"])
        .env("RUNTIME_DIRECTORY", folder);
    let status = script.stdin(Stdio::null()).status().await.unwrap();
    // 1.1 s of its own deadlines, and what a busy machine adds.
    assert!(
        began.elapsed() < PATIENCE / 6,
        "the script must end: {:?}",
        began.elapsed()
    );
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    status.success()
}

#[tokio::test]
async fn the_script_for_keepalived_knows_whose_fault_it_is() {
    // Each has the whole port 9900 for itself.
    let (own, peer) = ("127.7.0.11", "127.7.0.12");
    let folder = tempfile::tempdir().unwrap();
    let check = || check_edge(own, peer, folder.path());
    if Command::new("curl")
        .arg("--version")
        .output()
        .await
        .is_err()
    {
        eprintln!("NOT RUN: curl is not installed");
        return;
    }
    let mut ours = Backend::start("a").await;
    let mut theirs = Backend::start("b").await;
    let (here, there) = (
        behind_keepalived(own, &ours),
        behind_keepalived(peer, &theirs),
    );

    assert!(!check().await, "nothing listens");
    let mut edge = Process::start("edge", &[&here.file()]);
    until(true, check).await;
    ours.process.kill().await;
    until(false, check).await;
    let mut other = Process::start("edge", &[&there.file()]);
    let from_there = || check_edge(peer, own, folder.path());
    until(true, from_there).await;
    assert!(!check().await, "the peer has backends, this node has none");
    theirs.process.kill().await;
    // Without backends at either, moving the address helps no client.
    until(true, check).await;
    assert!(from_there().await);
    let (name, at) = (ours.name, ours.address);
    ours = Backend::start_at(name, at).await;
    until(false, from_there).await;
    assert!(check().await);

    edge.signal("-STOP");
    assert!(check().await, "the peer could do no better");
    let (name, at) = (theirs.name, theirs.address);
    theirs = Backend::start_at(name, at).await;
    until(false, check).await;
    edge.signal("-CONT");
    until(true, check).await;
    edge.signal("-TERM");
    until(false, check).await;
    edge.must_succeed().await;
    other.signal("-TERM");
    other.must_succeed().await;
    drop((ours, theirs));
}

/// A health checker of Route 53.
struct Checker {
    check: Value,
    address: SocketAddr,
}

impl Checker {
    fn text(&self, key: &str) -> &str {
        self.check[key].as_str().unwrap()
    }

    /// A connection within 4 s, TLS included; a status of 2xx or 3xx within 2 s after it, then the
    /// body within 2 s, with the text in its first 5,120 bytes.
    async fn passes(&self) -> bool {
        let host = self.text("FullyQualifiedDomainName");
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nUser-Agent: \
             Amazon-Route53-Health-Check-Service (ref 6a1f2c; report http://amzn.to/1vsZADi)\r\n\
             Accept: */*\r\nAccept-Encoding: *\r\n\r\n",
            self.text("ResourcePath")
        );
        let seen = match self.text("Type") {
            "HTTPS_STR_MATCH" => {
                let mut config = insecure();
                config.alpn_protocols.clear();
                config.enable_sni = self.check["EnableSNI"] == true;
                let connecting = pki::connect(self.address, config, host);
                let Ok(Ok(stream)) = timeout(CONNECT, connecting).await else {
                    return false;
                };
                timeout(ANSWER, exchange(stream, &head)).await
            }
            _ => {
                let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(self.address)).await
                else {
                    return false;
                };
                timeout(ANSWER, exchange(stream, &head)).await
            }
        };
        let Ok(Some((status, body))) = seen else {
            return false;
        };
        let searched = &body.as_bytes()[..body.len().min(5_120)];
        let text = self.text("SearchString").as_bytes();
        (200..400).contains(&status) && searched.windows(text.len()).any(|part| part == text)
    }
}

#[tokio::test]
async fn a_route_53_check_sees_a_dead_a_hanging_and_a_leaving_edge() {
    let check: Value = serde_json::from_str(&read("dns/health-check.json")).unwrap();
    let records: Value = serde_json::from_str(&read("dns/records.json")).unwrap();
    for change in records["Changes"].as_array().unwrap() {
        let ttl = change["ResourceRecordSet"]["TTL"].as_u64().unwrap();
        assert!(
            ttl <= 60,
            "Route 53 recommends 60 s or less with health checks: {ttl}"
        );
    }
    let host = check["FullyQualifiedDomainName"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = check["ResourcePath"].as_str().unwrap().to_owned();
    let issued = Authority::new().issue(&[&host]);
    let mut backend = Backend::start("a").await;
    let settings = Settings::new("");
    let (chain, key) = (settings.path("chain.pem"), settings.path("key.pem"));
    fs::write(&chain, issued.chain).unwrap();
    fs::write(&key, issued.key).unwrap();
    settings.write(&format!(
        "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"10m\" }}\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nready = {path:?}\n\
         [listen.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nready = {path:?}\n\
         [pool]\n{}[health]\ninterval = \"300ms\"\ntimeout = \"250ms\"\n",
        backend.settings()
    ));
    let mut edge = Process::start("edge", &[&settings.file()]);
    let secure = edge.address("listening on https://").await;
    let clear = edge.address("listening on http://").await;
    let of_type = |address: SocketAddr, kind: &str| {
        let mut check = check.clone();
        check["Type"] = kind.into();
        Checker { check, address }
    };
    let checkers = [
        of_type(secure, "HTTPS_STR_MATCH"),
        of_type(clear, "HTTP_STR_MATCH"),
    ];
    for checker in &checkers {
        until(true, || checker.passes()).await;
    }
    backend.process.kill().await;
    for checker in &checkers {
        until(false, || checker.passes()).await;
    }
    let (name, at) = (backend.name, backend.address);
    backend = Backend::start_at(name, at).await;
    for checker in &checkers {
        until(true, || checker.passes()).await;
    }
    edge.signal("-STOP");
    for checker in &checkers {
        assert!(!checker.passes().await, "no answer in time");
    }
    edge.signal("-CONT");
    for checker in &checkers {
        until(true, || checker.passes()).await;
    }
    edge.signal("-TERM");
    for checker in &checkers {
        until(false, || checker.passes()).await;
    }
    // Resolvers keep its address for a while.
    assert_eq!(get(clear, "/").await.backend(), backend.name);
}

/// How long a checker of Route 53 waits for a connection, and for an answer on it.
const CONNECT: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(2);
