//! `edge` with `[listen.tls.acme]`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::{ClientConfig, pki_types::CertificateDer};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    client::get,
    process::{Backend, PATIENCE, Process, address_in},
};
use crate::support::{
    pebble::{CHECK, Options, Pebble, exchange},
    pki,
    redis::RedisServer,
};

#[tokio::test]
async fn edge_obtains_serves_and_goes_on_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    obtains_serves_and_goes_on(state.to_str().unwrap(), "").await;
}

#[tokio::test]
async fn edge_keeps_its_certificates_in_a_real_redis() {
    if let Some(server) = RedisServer::start() {
        let fleet = format!("[fleet]\nredis = {:?}\n", server.url());
        obtains_serves_and_goes_on("redis", &fleet).await;
    }
}

async fn obtains_serves_and_goes_on(storage: &str, fleet: &str) {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), pebble.roots_of_directory()).unwrap();
    let backend = Backend::start("a").await;
    let text = |challenge: &str| {
        format!(
            "[server]\nthreads = 2\n[[listen]]\naddress = \"{}\"\n[[listen]]\naddress = \"{}\"\n\
             [listen.tls]\n[listen.tls.acme]\ndomains = [\"a.test www.a.test\", \"b.test\"]\n\
             agree_to_terms = true\nstorage = {storage:?}\nemail = \"me@a.test\"\n\
             directory = \"https://{}/dir\"\nca = {:?}\nchallenges = [\"{challenge}\"]\n[pool]\n{}{fleet}",
            pebble.http,
            pebble.tls,
            pebble.front.address,
            path("ca.pem"),
            backend.settings(),
        )
    };
    let file = path("edge.toml");
    std::fs::write(&file, text("http-01")).unwrap();
    let arguments = [file.to_str().unwrap()];
    let mut edge = Process::start("edge", &arguments);
    edge.line("certificate obtained").await;
    edge.line("certificate obtained").await;
    let client = pebble.client().await;
    let visit = async |name: &str| {
        let stream = pki::connect(pebble.tls, client.clone(), name)
            .await
            .unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        let answer = exchange(stream, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        certificate.into_owned()
    };
    let first = visit("www.a.test").await;
    visit("b.test").await;

    // A reload leaves them in force, also where its section changed.
    edge.signal("-HUP");
    edge.line("what runs is as they say").await;
    std::fs::write(&file, text("tls-alpn-01")).unwrap();
    edge.signal("-HUP");
    edge.line("that needs a restart").await;
    assert_eq!(visit("a.test").await, first);
    edge.signal("-TERM");
    edge.must_succeed().await;

    // The next process serves them at once, and obtains another by the other challenge.
    let orders = pebble.front.state.orders();
    let more = text("tls-alpn-01").replace("\"b.test\"", "\"b.test\", \"c.test\"");
    std::fs::write(&file, more).unwrap();
    let mut edge = Process::start("edge", &arguments);
    edge.line("certificate obtained").await;
    assert_eq!(visit("a.test").await, first);
    visit("c.test").await;
    assert_eq!(pebble.front.state.orders(), orders + 1);
    edge.signal("-TERM");
    edge.must_succeed().await;
}

/// Settings with automatic certificates, a pebble and a backend.
struct Place {
    pebble: Pebble,
    backend: Backend,
    folder: TempDir,
}

impl Place {
    async fn new() -> Option<Self> {
        let pebble = Pebble::start(Options::default()).await?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pebble.roots_of_directory()).unwrap();
        Some(Self {
            pebble,
            backend: Backend::start("a").await,
            folder,
        })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes the settings, with `tls` as the rest of `[listen.tls]`, and starts an edge.
    fn start(&self, tls: &str, storage: &str, rest: &str) -> Process {
        self.write(tls, storage, rest);
        Process::start("edge", &[&self.path("edge.toml")])
    }

    fn write(&self, tls: &str, storage: &str, rest: &str) {
        let text = format!(
            "[server]\nthreads = 2\n[[listen]]\naddress = \"{}\"\n[listen.tls]\n{tls}\n\
             [listen.tls.acme]\ndomains = [\"a.test\"]\nagree_to_terms = true\n\
             storage = {storage:?}\ndirectory = \"https://{}/dir\"\nca = {:?}\n[pool]\n{}{rest}",
            self.pebble.tls,
            self.pebble.front.address,
            self.path("ca.pem"),
            self.backend.settings(),
        );
        std::fs::write(self.path("edge.toml"), text).unwrap();
    }

    /// Gets a page; returns the certificate.
    async fn visit(&self, client: &ClientConfig) -> std::io::Result<CertificateDer<'static>> {
        let stream = pki::connect(self.pebble.tls, client.clone(), "a.test").await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        let answer = exchange(stream, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(certificate.into_owned())
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, so).await.expect(what);
}

/// The files in a folder and below; none where there is no folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let found = paths.flat_map(|path| match path.is_dir() {
        true => files_in(&path),
        false => vec![path],
    });
    found.collect()
}

#[tokio::test]
async fn an_upgrade_keeps_the_certificate_while_its_store_is_down_and_a_restart_says_what_is_missing()
 {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let Some(place) = Place::new().await else {
        return;
    };
    let rest = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[fleet]\nredis = {:?}\nhandover = {:?}\n",
        server.url(),
        place.path("upgrade.sock")
    );
    let mut first = place.start("", "redis", &rest);
    first.line("certificate obtained").await;
    let client = place.pebble.client().await;
    let certificate = place.visit(&client).await.unwrap();

    server.kill();
    let mut second = place.start("", "redis", &rest);
    first.must_succeed().await;
    assert_eq!(place.visit(&client).await.unwrap(), certificate);
    second.line("the store of certificates failed").await;
    second.signal("-TERM");
    let (status, lines) = second.ended().await;
    assert!(status.success(), "{lines:#?}");
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(!has("placeholder"), "{lines:#?}");

    // Nothing is left of it for a process that starts from the beginning.
    let mut third = place.start("", "redis", &rest);
    let admin = third.all(["admin on http://", "a placeholder is served"]);
    let [admin, placeholder] = admin.await;
    assert!(placeholder.contains("ERROR"), "{placeholder}");
    let admin = address_in(&admin, "admin on http://");
    third.line("listening on https://").await;
    let error = place.visit(&client).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let answer = get(admin, "/ready").await;
    assert_eq!(answer.status, 503);
    let why = "a.test: a placeholder is served: the store of certificates failed";
    assert!(answer.body.contains(why), "{answer:?}");
    // The store is there again, and empty: a first certificate is no reason to be unready.
    server.restart();
    third.line("certificate obtained").await;
    place.visit(&client).await.unwrap();
    let ready = async {
        while get(admin, "/ready").await.status != 200 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("it is ready");
    third.signal("-TERM");
    third.must_succeed().await;
}

#[tokio::test]
async fn a_successor_that_would_serve_a_placeholder_leaves_the_certificate_to_its_predecessor() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let Some(place) = Place::new().await else {
        return;
    };
    let authority = pki::Authority::new();
    let issued = authority.issue(&["a.test"]);
    std::fs::write(place.path("cert.pem"), issued.chain).unwrap();
    std::fs::write(place.path("key.pem"), issued.key).unwrap();
    // The predecessor has the certificate from files: what it has is not in the state.
    let settings = format!(
        "[[listen]]\naddress = \"{}\"\n[listen.tls]\n\
         certificates = [{{ chain = {:?}, key = {:?} }}]\n[pool]\n{}[fleet]\nhandover = {:?}\n",
        place.pebble.tls,
        place.path("cert.pem"),
        place.path("key.pem"),
        place.backend.settings(),
        place.path("upgrade.sock"),
    );
    std::fs::write(place.path("edge.toml"), settings).unwrap();
    let mut first = Process::start("edge", &[&place.path("edge.toml")]);
    first.line("listening on https://").await;
    let rest = format!(
        "[fleet]\nredis = {:?}\nhandover = {:?}\n",
        server.url(),
        place.path("upgrade.sock")
    );
    server.kill();
    let mut second = place.start("", "redis", &rest);
    let (status, lines) = second.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let why = "would replace by a placeholder";
    assert!(lines.iter().any(|line| line.contains(why)), "{lines:#?}");
    let mut client = authority.client();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    place.visit(&client).await.unwrap();
    // Where the store answers, it takes over.
    server.restart();
    let mut second = place.start("", "redis", &rest);
    second.line("certificate obtained").await;
    first.must_succeed().await;
    place.visit(&place.pebble.client().await).await.unwrap();
    second.signal("-TERM");
    second.must_succeed().await;
}

#[tokio::test]
async fn a_process_that_is_killed_within_an_order_keeps_no_later_one_from_it() {
    let Some(place) = Place::new().await else {
        return;
    };
    let storage = place.path("state");
    let state = &place.pebble.front.state;
    let gate = state.check_gate.acquire_many(1_000).await.unwrap();
    let mut edge = place.start("", &storage, "");
    until("the authority checks", || state.requests(CHECK) > 0).await;
    edge.kill().await;
    let locks = Path::new(&storage).join("locks");
    assert_eq!(
        files_in(&locks).len(),
        2,
        "of the certificate and of its name"
    );
    drop(gate);
    let mut edge = place.start("", &storage, "");
    // The leases end first, a minute after the last sign of life.
    let limit = 2 * PATIENCE;
    edge.line_within(limit, "certificate obtained").await;
    place.visit(&place.pebble.client().await).await.unwrap();
    until("the locks are free", || files_in(&locks).is_empty()).await;
    edge.signal("-TERM");
    edge.must_succeed().await;
}

#[tokio::test]
async fn a_process_that_stops_within_an_order_leaves_its_locks_to_the_next() {
    let Some(place) = Place::new().await else {
        return;
    };
    let storage = place.path("state");
    let state = &place.pebble.front.state;
    let gate = state.check_gate.acquire_many(1_000).await.unwrap();
    let mut edge = place.start("", &storage, "");
    until("the authority checks", || state.requests(CHECK) > 0).await;
    edge.signal("-TERM");
    edge.must_succeed().await;
    assert!(files_in(&Path::new(&storage).join("locks")).is_empty());
    drop(gate);
    let mut edge = place.start("", &storage, "");
    // No lease is waited for: these have a minute.
    let limit = PATIENCE / 2;
    edge.line_within(limit, "certificate obtained").await;
    edge.signal("-TERM");
    edge.must_succeed().await;
}

#[tokio::test]
async fn nothing_is_put_in_force_or_ordered_by_a_process_that_cannot_bind_its_sockets() {
    let Some(place) = Place::new().await else {
        return;
    };
    let _taken = std::net::TcpListener::bind(place.pebble.tls).unwrap();
    let mut edge = place.start("", &place.path("state"), "");
    let (status, lines) = edge.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("in use") && !has("placeholder"), "{lines:#?}");
    assert_eq!(place.pebble.front.state.requests(""), 0);
}

#[tokio::test]
async fn a_reload_removes_the_last_certificate_from_files_beside_automatic_ones() {
    let Some(place) = Place::new().await else {
        return;
    };
    let authority = pki::Authority::new();
    let issued = authority.issue(&["files.test"]);
    std::fs::write(place.path("cert.pem"), &issued.chain).unwrap();
    std::fs::write(place.path("key.pem"), &issued.key).unwrap();
    let files = format!(
        "certificates = [{{ chain = {:?}, key = {:?} }}]",
        place.path("cert.pem"),
        place.path("key.pem")
    );
    let storage = place.path("state");
    let mut edge = place.start(&files, &storage, "");
    edge.line("certificate obtained").await;
    let shown = async || {
        let stream = pki::connect(place.pebble.tls, authority.client(), "files.test").await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        Ok::<_, std::io::Error>(certificate.into_owned())
    };
    assert_eq!(shown().await.unwrap(), issued.certificate());
    place.write("", &storage, "");
    edge.signal("-HUP");
    edge.line("[listen.tls] certificates changed").await;
    let error = shown().await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    place.visit(&place.pebble.client().await).await.unwrap();
    edge.signal("-TERM");
    edge.must_succeed().await;
}

/// Builds the example `acme` with ring, in a package of its own.
fn with_ring() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.ancestors().nth(2).unwrap();
    let status = std::process::Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--manifest-path"])
        .arg("examples/acme_ring/Cargo.toml")
        .arg("--target-dir")
        .arg(profile.parent().unwrap())
        .status();
    assert!(status.unwrap().success(), "the example must build");
    profile.with_file_name("debug").join("acme_ring")
}

#[tokio::test]
#[ignore = "builds evenkeel once more; .ci/run does it"]
async fn the_example_obtains_and_serves_with_ring_alone() {
    let program = with_ring();
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, pebble.roots_of_directory()).unwrap();
    let variables = [
        format!("ACME_DIRECTORY=https://{}/dir", pebble.front.address),
        format!("ACME_CA={}", ca.display()),
        format!("ACME_STORAGE={}", folder.path().join("state").display()),
        format!("HTTPS_ADDRESS={}", pebble.tls),
        format!("HTTP_ADDRESS={}", pebble.http),
    ];
    let mut arguments: Vec<_> = variables.iter().map(String::as_str).collect();
    arguments.push(program.to_str().unwrap());
    let mut site = Process::start_program(Path::new("env"), &arguments);
    site.line("certificates in force").await;
    let client = pebble.client().await;
    let stream = pki::connect(pebble.tls, client, "www.example.com").await;
    let request = "GET / HTTP/1.1\r\nhost: www.example.com\r\nconnection: close\r\n\r\n";
    let answer = exchange(stream.unwrap(), request).await;
    assert!(answer.ends_with("hello\n"), "{answer}");
    site.kill().await;
}
