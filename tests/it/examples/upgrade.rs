//! `[fleet] handover`: a running edge is replaced by another, while clients of each kind send requests.

use std::{
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    client::{
        ResumingClient, backend_status, get, get_tls, post, post_form, post_until_goaway,
        post_until_told, try_get,
    },
    edge::Settings,
    load::{Load, none_failed},
    process::{Backend, PATIENCE, Process, kill},
};
use crate::support::pki::Authority;

const TOKEN: &str = "a-token-from-a-secret-store";

/// Settings with a listener in cleartext and, with an authority, one under TLS.
pub(super) struct Place {
    pub(super) settings: Settings,
    pub(super) backends: Vec<Backend>,
    authority: Authority,
}

impl Place {
    pub(super) async fn new() -> Self {
        let settings = Settings::new("");
        let authority = Authority::new();
        let issued = authority.issue(&["localhost"]);
        std::fs::write(settings.path("cert.pem"), issued.chain).unwrap();
        std::fs::write(settings.path("key.pem"), issued.key).unwrap();
        let backends = vec![Backend::start("a").await, Backend::start("b").await];
        let place = Self {
            settings,
            backends,
            authority,
        };
        place.write(2, "1m", "");
        place
    }

    pub(super) fn write(&self, threads: usize, drain: &str, rest: &str) {
        let backends: String = self.backends.iter().map(Backend::settings).collect();
        let path = |name: &str| self.settings.path(name).display().to_string();
        self.settings.write(&format!(
            "[server]\nthreads = {threads}\nshutdown = {{ drain = {drain:?} }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n\
             [listen.tls]\ncertificates = [{{ chain = {:?}, key = {:?} }}]\n\
             [pool]\n{backends}[health]\ninterval = \"10s\"\ntimeout = \"9s\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\ntoken = {TOKEN:?}\n\
             [fleet]\nhandover = {:?}\n{rest}",
            path("cert.pem"),
            path("key.pem"),
            path("upgrade.sock"),
        ));
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Starts an edge; returns it with its addresses: of the operators, in cleartext, under TLS.
    pub(super) async fn start(&self, example: &str) -> (Process, [SocketAddr; 3]) {
        let mut edge = Process::start(example, &[&self.settings.file()]);
        let addresses = addresses(&mut edge).await;
        (edge, addresses)
    }
}

pub(super) async fn addresses(edge: &mut Process) -> [SocketAddr; 3] {
    let schemes = [
        "admin on http://",
        "listening on http://",
        "listening on https://",
    ];
    let lines = edge.all(schemes).await;
    let address = |nth: usize| super::process::address_in(&lines[nth], schemes[nth]);
    [address(0), address(1), address(2)]
}

/// Waits until the socket of a process is there: the last thing that it does before it serves alone.
pub(super) async fn listens_at(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, there).await.expect("it listens");
}

/// A process that another one started; killed when it is dropped.
pub(super) struct Child(pub(super) String);

impl Child {
    /// Reads the id in the line that announces it.
    pub(super) fn of(line: &str) -> Self {
        let (_, rest) = line.split_once("process=").unwrap();
        let id: String = rest.chars().filter(char::is_ascii_digit).collect();
        Self(id)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill")
            .args(["-KILL", &self.0])
            .status();
    }
}

/// Clients of one kind, again and again until the flag is set.
fn repeat(
    clients: &mut JoinSet<()>,
    stopped: &Arc<AtomicBool>,
    once: impl Fn() -> BoxFuture<'static, ()> + Send + 'static,
) {
    let stopped = stopped.clone();
    clients.spawn(async move {
        while !stopped.load(SeqCst) {
            once().await;
        }
    });
}

/// A WebSocket through the balancer.
pub(super) struct Socket {
    stream: TcpStream,
}

impl Socket {
    pub(super) async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            answer.escape_ascii()
        );
        Self { stream }
    }

    /// Sends a text of two letters, masked with zeros; returns whether it was echoed.
    pub(super) async fn echo(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"\x81\x82\0\0\0\0hi").await?;
        let mut echo = [0; 4];
        timeout(PATIENCE, self.stream.read_exact(&mut echo))
            .await
            .expect("an answer")?;
        assert_eq!(&echo, b"\x81\x02hi");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_upgrades_under_load_lose_nothing() {
    let place = Place::new().await;
    let (first, [admin, http, https]) = place.start("edge").await;
    let mut tunnel = Socket::open(http).await;
    tunnel.echo().await.unwrap();

    let stopped = Arc::new(AtomicBool::new(false));
    let counts: [Arc<AtomicUsize>; 5] = Default::default();
    let [kept, multiplexed, opened, secured, talked] = counts.clone();
    let (mut clients, mut lasting) = (JoinSet::new(), JoinSet::new());
    // Connections that are kept, of POST, which is not sent twice.
    for _ in 0..4 {
        let kept = kept.clone();
        repeat(&mut lasting, &stopped, move || {
            Box::pin(post_until_told(http, kept.clone()))
        });
    }
    for _ in 0..2 {
        let multiplexed = multiplexed.clone();
        repeat(&mut lasting, &stopped, move || {
            Box::pin(post_until_goaway(http, multiplexed.clone()))
        });
    }
    // A connection a request.
    for _ in 0..4 {
        let opened = opened.clone();
        repeat(&mut clients, &stopped, move || {
            let opened = opened.clone();
            Box::pin(async move {
                let answer = try_get(http, "/").await.expect("no refusal and no reset");
                assert_eq!(answer.status, StatusCode::OK);
                opened.fetch_add(1, SeqCst);
            })
        });
    }
    let config = place.authority.client();
    for _ in 0..2 {
        let (secured, config) = (secured.clone(), config.clone());
        repeat(&mut clients, &stopped, move || {
            let (secured, config) = (secured.clone(), config.clone());
            Box::pin(async move {
                assert_eq!(get_tls(https, config, "/", "").await.status, StatusCode::OK);
                secured.fetch_add(1, SeqCst);
            })
        });
    }
    let words = talked.clone();
    repeat(&mut clients, &stopped, move || {
        let talked = words.clone();
        Box::pin(async move {
            let mut socket = Socket::open(http).await;
            for _ in 0..20 {
                socket.echo().await.expect("the old process drains");
                talked.fetch_add(1, SeqCst);
            }
        })
    });
    let load = Load::start(http, rate().unwrap_or(200), 0);

    let mut running = first;
    let mut old = Vec::new();
    let mut seen = [0; 5];
    for round in 0..10 {
        // Each kind of client has had answers of this process.
        let progress = async {
            while (0..5).any(|kind| counts[kind].load(SeqCst) < seen[kind] + 2) {
                let failed = clients.try_join_next().or_else(|| lasting.try_join_next());
                assert!(failed.is_none(), "a client failed: {failed:?}");
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, progress)
            .await
            .expect("all make progress");
        seen = std::array::from_fn(|kind| counts[kind].load(SeqCst));
        let mut next = Process::start("edge", &[&place.settings.file()]);
        assert_eq!(
            addresses(&mut next).await,
            [admin, http, https],
            "round {round}"
        );
        running.line("handed over: another process serves").await;
        old.push(std::mem::replace(&mut running, next));
    }
    stopped.store(true, SeqCst);
    while let Some(ended) = timeout(PATIENCE, clients.join_next())
        .await
        .expect("an end")
    {
        ended.unwrap();
    }
    let all = load.end().await;
    none_failed(&all);
    // The tunnel has stayed with the first process; the others have ended.
    tunnel.echo().await.unwrap();
    let first = old.remove(0);
    for mut process in old {
        process.must_succeed().await;
    }
    drop(tunnel);
    let mut first = first;
    first.must_succeed().await;
    let counts = counts.map(|count| count.load(SeqCst));
    eprintln!(
        "ten upgrades: {} paced, {counts:?} (kept, h2, opened, TLS, WebSocket)",
        all.len()
    );
    assert!(get(admin, "/ready").await.status.is_success());
    // Its connections end with the last process.
    running.signal("-TERM");
    while let Some(ended) = timeout(PATIENCE, lasting.join_next())
        .await
        .expect("an end")
    {
        ended.unwrap();
    }
    running.must_succeed().await;
    assert!(!place.settings.path("upgrade.sock").exists());
}

#[tokio::test]
async fn a_tunnel_has_until_the_drain_time_out() {
    let place = Place::new().await;
    place.write(1, "1s", "");
    let (mut old, [_, http, _]) = place.start("edge").await;
    let mut tunnel = Socket::open(http).await;
    tunnel.echo().await.unwrap();
    let (_new, _) = place.start("edge").await;
    let cut = async { while tunnel.echo().await.is_ok() {} };
    timeout(PATIENCE, cut).await.expect("the end of the drain");
    old.must_succeed().await;
    Socket::open(http).await.echo().await.unwrap();
}

#[tokio::test]
async fn a_first_signal_cuts_nothing_that_drains_since_an_upgrade() {
    let place = Place::new().await;
    let (mut old, [_, http, _]) = place.start("edge").await;
    let mut tunnel = Socket::open(http).await;
    let (_new, _) = place.start("edge").await;
    old.line("another process serves: draining").await;
    old.signal("-TERM");
    old.line("draining already").await;
    tunnel.echo().await.unwrap();
    old.signal("-TERM");
    old.must_succeed().await;
    assert!(tunnel.echo().await.is_err());
}

#[tokio::test]
async fn bad_settings_a_taken_port_and_a_late_process_change_nothing() {
    let place = Place::new().await;
    let (mut edge, [_, http, _]) = place.start("edge").await;
    // A mistake in the settings.
    place.write(2, "1m", "redis_of_another_version = 1\n");
    edge.signal("-USR2");
    edge.line("SIGUSR2: started a new process").await;
    edge.line("unknown key `redis_of_another_version`").await;
    edge.line("the new process did not take over (exit status: 2)")
        .await;
    assert_eq!(get(http, "/").await.status, 200);
    // A listener whose port another program has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    place.write(2, "1m", &format!("[[listen]]\naddress = \"{address}\"\n"));
    let mut new = Process::start("edge", &[&place.settings.file()]);
    let (status, lines) = new.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains(&address.to_string())),
        "{lines:#?}"
    );
    edge.line("it ended before it was ready").await;
    assert_eq!(get(http, "/").await.status, 200);
    // One whose first check takes longer than the running process waits.
    place.write(2, "1m", "start_timeout = \"1s\"\n");
    let (mut limited, _) = place.start("edge").await;
    edge.must_succeed().await;
    let a = place.backends[0].address;
    let slow = format!("[[pool.backends]]\nid = \"slow\"\nurl = \"http://{a}\"\n");
    place.write(2, "1m", &slow);
    let text = std::fs::read_to_string(place.settings.path("edge.toml")).unwrap();
    place.settings.write(&text.replace(
        "interval = \"10s\"\ntimeout = \"9s\"",
        "path = \"/slow?ms=600000\"\ninterval = \"10m\"\ntimeout = \"9m\"",
    ));
    let mut late = Process::start("edge", &[&place.settings.file()]);
    let (status, lines) = late.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let is_refused = |line: &String| line.contains("does not hand over: not ready within 1s");
    assert!(lines.iter().any(is_refused), "{lines:#?}");
    limited
        .line("a new process did not take over: this one serves on")
        .await;
    assert_eq!(get(http, "/").await.status, 200);
}

#[tokio::test]
async fn an_old_process_that_is_killed_in_the_middle_leaves_the_new_one_on_its_own() {
    let place = Place::new().await;
    let (mut old, _) = place.start("edge").await;
    let path = place.settings.path("upgrade.sock");
    listens_at(&path).await;
    old.signal("-STOP");
    let mut new = Process::start("edge", &[&place.settings.file()]);
    // The new process has connected, and waits.
    let path = path.display().to_string();
    let connected = async {
        loop {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            // One listens, and one waits to be accepted.
            if sockets.lines().filter(|line| line.contains(&path)).count() >= 2 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, connected).await.expect("a connection");
    old.kill().await;
    let [_, http, _] = addresses(&mut new).await;
    assert_eq!(get(http, "/").await.status, 200);
    let (_next, now) = place.start("edge").await;
    assert_eq!(now[1], http, "it can hand over");
    new.must_succeed().await;
}

#[tokio::test]
async fn drains_weights_and_sessions_survive() {
    let place = Place::new().await;
    for (from, to) in [("edge", "edge"), ("edge", "axum"), ("axum", "edge")] {
        let (mut old, [admin, _, https]) = place.start(from).await;
        let client = ResumingClient::new(place.authority.client());
        assert_eq!(client.handshake(https).await, HandshakeKind::Full);
        assert_eq!(client.handshake(https).await, HandshakeKind::Resumed);
        let ordered = post(admin, "/backends/a/drain", TOKEN).await;
        assert!(ordered.status.is_success(), "{ordered:?}");
        let ordered = post_form(admin, "/backends/b/weight", TOKEN, "weight=7").await;
        assert!(ordered.status.is_success(), "{ordered:?}");
        // The check of the new process hangs, so that it knows of this one only what the old one said.
        place.backends[0].process.signal("-STOP");

        let (mut new, addresses) = place.start(to).await;
        assert_eq!(
            (addresses[0], addresses[2]),
            (admin, https),
            "{from} to {to}"
        );
        old.must_succeed().await;
        let kind = client.handshake(https).await;
        assert_eq!(kind, HandshakeKind::Resumed, "{from} to {to}");
        let a = backend_status(admin, "a").await;
        place.backends[0].process.signal("-CONT");
        assert_eq!(a["mode"], "draining", "{a}");
        assert_eq!(a["health"], "healthy", "{a}");
        let b = backend_status(admin, "b").await;
        assert_eq!(b["weight"], 7, "{b}");
        new.signal("-TERM");
        new.must_succeed().await;
    }
}

#[tokio::test]
async fn listeners_and_threads_change_with_the_settings() {
    let place = Place::new().await;
    let (mut old, [_, http, https]) = place.start("edge").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    place.write(3, "1m", &format!("[[listen]]\naddress = \"{free}\"\n"));
    let (mut more, addresses) = place.start("edge").await;
    assert_eq!(addresses[1..], [http, https]);
    old.must_succeed().await;
    for address in [http, free] {
        assert_eq!(get(address, "/").await.status, 200);
    }
    place.write(1, "1m", "");
    let (_fewer, addresses) = place.start("edge").await;
    assert_eq!(addresses[1..], [http, https]);
    more.must_succeed().await;
    assert!(TcpStream::connect(free).await.is_err(), "it is closed");
    // The queues of all sockets are served.
    for _ in 0..50 {
        assert_eq!(get(http, "/").await.status, 200);
    }
}

#[tokio::test]
async fn systemd_passes_sockets_and_learns_of_the_process() {
    let place = Place::new().await;
    let folder = place.settings.path("");
    let notified = UnixDatagram::bind(folder.join("notify.sock")).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let message = || {
        let mut bytes = [0; 1_024];
        let length = notified.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    // Released for the launcher, which takes no port 0.
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (http, admin) = (free(), free());
    let backend = &place.backends[0];
    place.settings.write(&format!(
        "[server]\nthreads = 2\n[[listen]]\naddress = \"{http}\"\n[pool]\n{}\
         [admin]\naddress = \"{admin}\"\n[fleet]\nhandover = {:?}\n",
        backend.settings(),
        folder.join("upgrade.sock"),
    ));
    let mut launcher = tokio::process::Command::new("systemd-socket-activate");
    let launched = launcher
        .args(["-l", &http.to_string(), "-l", &admin.to_string()])
        .args([
            "--setenv",
            &format!("NOTIFY_SOCKET={}", folder.join("notify.sock").display()),
        ]);
    if std::process::Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("systemd-socket-activate is not installed: this test passes without it");
        return;
    }
    let mut edge = Process::launch(launched, "edge", &[&place.settings.file()]);
    edge.line("Listening on").await;
    // The first connection starts the edge, which serves what waits in the queue by then.
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        waiting.spawn(async move { try_get(http, "/").await.unwrap().status });
    }
    edge.line("inherited listening sockets").await;
    for status in waiting.join_all().await {
        assert_eq!(status, 200);
    }
    assert_eq!(message(), format!("READY=1\nMAINPID={}\n", edge.id()));
    edge.signal("-HUP");
    assert!(message().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(message(), format!("READY=1\nMAINPID={}\n", edge.id()));

    edge.signal("-USR2");
    assert!(message().starts_with("RELOADING=1\n"));
    let child = Child::of(&edge.line("SIGUSR2: started a new process").await);
    let mut both = [message(), message()];
    both.sort();
    let wanted = [
        format!("MAINPID={}\nREADY=1\n", child.0),
        format!("READY=1\nMAINPID={}\n", child.0),
    ];
    assert_eq!(both, wanted, "from the old process, and from the new one");
    assert!(edge.exits().await.success());
    assert_eq!(get(http, "/").await.status, 200);
    assert!(get(admin, "/ready").await.status.is_success());
    kill("-TERM", &child.0);
    assert_eq!(message(), "STOPPING=1\n");
}

/// Returns the requests a second that the environment asks for.
fn rate() -> Option<u32> {
    std::env::var("EVENKEEL_RATE").ok()?.parse().ok()
}

/// The greatest rate that this machine serves, while it upgrades ten times: for figures, with a release
/// build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_measurement_of_upgrades_under_load() {
    let place = Place::new().await;
    let (first, [_, http, _]) = place.start("edge").await;
    let load = Load::start(http, rate().unwrap_or(5_000), 0);
    let mut running = first;
    // They drain until the end: the drop of one kills it.
    let mut old = Vec::new();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = tokio::time::Instant::now();
        let mut next = Process::start("edge", &[&place.settings.file()]);
        running.line("handed over: another process serves").await;
        eprintln!("from start to hand-over: {:?}", began.elapsed());
        next.line("took over").await;
        old.push(std::mem::replace(&mut running, next));
    }
    let all = load.end().await;
    none_failed(&all);
    let mut took: Vec<_> = all.iter().map(|done| done.took).collect();
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    eprintln!(
        "{} requests, none failed; p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        all.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// Posts over one connection of HTTP/1.1, which the balancer keeps.
#[tokio::test]
async fn an_idle_connection_gets_its_grace_and_a_last_answer() {
    let place = Place::new().await;
    let (mut old, [_, http, _]) = place.start("edge").await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(http).await.unwrap());
    let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(conn);
    let mut ask = async || {
        let request = Request::post("/").header(header::HOST, "a");
        let request = request.body(Full::new(Bytes::from("hi"))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let closes = answer.headers().get(header::CONNECTION).cloned();
        answer.into_body().collect().await.unwrap();
        closes.is_some_and(|value| value == "close")
    };
    assert!(!ask().await);
    let (_new, _) = place.start("edge").await;
    old.line("draining").await;
    // Longer than the grace of a shutdown: the close would cross the requests of clients.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The workers hear of it after the line; until then answers are as before.
    let last = async { while !ask().await {} };
    let last = timeout(PATIENCE, last).await;
    last.expect("an answer says that it is the last one");
    old.must_succeed().await;
}
