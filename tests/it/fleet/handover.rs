//! Hand-overs between processes that are one here: the sockets, the state, and what can go wrong.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use evenkeel::{
    Backend, Pool,
    fleet::handover::{Handover, PassedSockets, Running, Start, State},
    pool::{HealthStatus, Locality, Measurement, Mode, Reason},
    server::bind,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

/// Ends the wait for what should be there at once, on a machine that has a lot to do.
const PATIENCE: Duration = Duration::from_secs(60);
const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("upgrade.sock")
    }

    fn handover(&self) -> Handover {
        Handover::new(self.path()).unwrap()
    }

    async fn start(&self) -> io::Result<Start> {
        timeout(
            PATIENCE,
            Start::begin(Some(self.handover()), PassedSockets::default()),
        )
        .await
        .expect("an answer")
    }

    /// A process that serves, without sockets and state.
    async fn running(&self) -> Running {
        self.start().await.unwrap().ready(State::new).await.unwrap()
    }
}

async fn handed_over(running: &mut Running) {
    let process = timeout(PATIENCE, running.handed_over()).await;
    assert_eq!(process.expect("a successor"), std::process::id());
}

/// Connects clients that nothing has accepted; each has sent a byte.
async fn queue(address: SocketAddr, clients: usize) -> Vec<TcpStream> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"?").await.unwrap();
        connected.push(client);
    }
    connected
}

/// Accepts on these sockets and answers each byte with another, until all clients are served or cut;
/// returns how many were cut.
async fn serve(sockets: Vec<TcpListener>, clients: Vec<TcpStream>) -> usize {
    let mut servers = JoinSet::new();
    for socket in sockets {
        servers.spawn(async move {
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut byte = [0];
                if stream.read_exact(&mut byte).await.is_ok() {
                    let _ = stream.write_all(b"!").await;
                }
            }
        });
    }
    let mut cut = 0;
    for mut client in clients {
        let mut byte = [0];
        let answer = timeout(PATIENCE, client.read_exact(&mut byte)).await;
        cut += usize::from(answer.expect("an answer or an end").is_err());
    }
    cut
}

/// Why descriptors are passed: of the connections that the kernel has accepted and no process, those of
/// a closed socket with `SO_REUSEPORT` are reset, and those of a passed one are served.
#[tokio::test]
async fn a_closing_queue_loses_connections_and_a_passed_one_does_not() {
    const CLIENTS: usize = 200;
    let old = bind(ANY_PORT, true).unwrap();
    let address = old.local_addr().unwrap();
    let new = bind(address, true).unwrap();
    let clients = queue(address, CLIENTS).await;
    drop(old);
    let cut = serve(vec![new], clients).await;
    let migrates = fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    if cfg!(target_os = "linux") && migrates.is_ok_and(|migrates| migrates.trim() == "0") {
        assert!(cut > 0, "the queue of the closed socket");
    }
    eprintln!("SO_REUSEPORT: {cut} of {CLIENTS} queued connections were reset");

    let place = Place::new();
    let mut first = place.start().await.unwrap();
    let sockets = first.listeners(ANY_PORT, TWO).unwrap();
    let address = sockets[0].local_addr().unwrap();
    let mut running = first.ready(State::new).await.unwrap();
    let clients = queue(address, CLIENTS).await;
    let mut second = place.start().await.unwrap();
    assert_eq!(second.predecessor(), Some(std::process::id()));
    // Of one thread: both queues are served all the same.
    let taken = second.listeners(ANY_PORT, NonZeroUsize::MIN).unwrap();
    assert_eq!(taken.len(), 2);
    let _running = second.ready(State::new).await.unwrap();
    handed_over(&mut running).await;
    drop((sockets, running));
    let taken = taken.into_iter().map(|s| TcpListener::from_std(s).unwrap());
    assert_eq!(serve(taken.collect(), clients).await, 0);
}

#[tokio::test]
async fn sockets_go_to_their_addresses_and_unused_ones_are_closed() {
    let place = Place::new();
    let mut first = place.start().await.unwrap();
    assert_eq!(first.predecessor(), None);
    // Two listeners with port 0, and one that the next process does not want.
    let a = first.listener(ANY_PORT).unwrap().local_addr().unwrap();
    let b = first.listener(ANY_PORT).unwrap().local_addr().unwrap();
    let unwanted = bind(ANY_PORT, true).unwrap().local_addr().unwrap();
    let _ = first.listener(unwanted).unwrap();
    let mut running = first.ready(State::new).await.unwrap();

    let mut second = place.start().await.unwrap();
    // By the address that it has, and by that in the settings.
    let again = second.listener(b).unwrap().local_addr().unwrap();
    assert_eq!(again, b);
    let many = second.listeners(ANY_PORT, NonZeroUsize::new(3).unwrap());
    let many = many.unwrap();
    assert_eq!(many.len(), 3, "two more are bound");
    assert!(many.iter().all(|s| s.local_addr().unwrap() == a));
    let next = second.ready(State::new).await.unwrap();
    handed_over(&mut running).await;
    drop(running);
    // The task of the old process drops its copies.
    let closed = async {
        while TcpStream::connect(unwanted).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, closed).await.expect("it is closed");
    assert!(TcpStream::connect(a).await.is_ok());
    drop(many);
    drop(next);
    assert!(!place.path().exists() || is_gone_soon(&place.path()).await);
}

async fn is_gone_soon(path: &Path) -> bool {
    let gone = async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.is_ok()
}

fn pool(weight_of_a: u32) -> Pool {
    let backend = |id: &str, port: u16| {
        let backend = Backend::new(id, &format!("http://127.0.0.1:{port}")).unwrap();
        backend.locality(Locality::new("eu/1a").unwrap())
    };
    Pool::new([
        backend("a", 1).weight(weight_of_a).unwrap(),
        backend("b", 2),
        backend("c", 3),
        backend("d", 4),
    ])
    .unwrap()
}

fn measure(pool: &Pool, id: &str, health: HealthStatus) {
    let member = pool.snapshot().get(id).unwrap().clone();
    pool.measure(&member, Measurement::new(health, Reason::new("TEST", "")));
}

fn health(pool: &Pool) -> Vec<HealthStatus> {
    let snapshot = pool.snapshot();
    snapshot.backends().iter().map(|b| b.health()).collect()
}

#[tokio::test]
async fn health_is_a_hint_and_orders_stay() {
    use HealthStatus::{Healthy, Unhealthy, Unknown};
    let place = Place::new();
    let old = pool(1);
    let prober = old.attach_prober();
    measure(&old, "a", Healthy);
    measure(&old, "b", Unhealthy);
    measure(&old, "c", Healthy);
    old.drain("a", Duration::from_secs(300)).unwrap();
    old.start_maintenance("b").unwrap();
    old.update_weight("c", 7).unwrap();
    old.update_weight("a", 5).unwrap();
    old.evacuate(&Locality::new("us").unwrap());
    let provided = old.clone();
    let first = place.start().await.unwrap();
    let state = move || {
        State::new()
            .pool("main", &provided)
            .secret("tickets", [7; 3])
    };
    let mut running = first.ready(state).await.unwrap();

    let new = pool(2);
    let _prober = new.attach_prober();
    let mut second = place.start().await.unwrap();
    // As where a fleet's store has the orders, and where nothing checks.
    let (checked, ordered) = (pool(1), pool(1));
    assert_eq!(second.restore_health("main", &checked), 3);
    assert_eq!(health(&checked)[1], Unhealthy);
    second.restore_orders("main", &ordered);
    let mode_of_b = |pool: &Pool| pool.snapshot().get("b").unwrap().mode();
    assert_eq!(mode_of_b(&checked), Mode::Ready);
    assert_eq!(mode_of_b(&ordered), Mode::Maintenance);
    assert_eq!(second.state().find_secret("tickets"), Some(&[7; 3][..]));
    assert_eq!(second.restore("other", &pool(1)), 0);
    assert_eq!(second.restore("main", &new), 3);
    assert_eq!(health(&new), [Healthy, Unhealthy, Healthy, Unknown]);
    let mode = |id: &str| new.snapshot().get(id).unwrap().mode();
    let weight = |id: &str| new.snapshot().get(id).unwrap().configured_weight();
    let Mode::Draining { until } = mode("a") else {
        panic!("it drains");
    };
    let left = until.saturating_duration_since(tokio::time::Instant::now());
    assert!(left <= Duration::from_secs(300) && left > Duration::from_secs(200));
    assert_eq!(mode("b"), Mode::Maintenance);
    assert_eq!(weight("c"), 7);
    assert_eq!(
        weight("a"),
        2,
        "the configured weight changed, and precedes"
    );
    assert_eq!(new.evacuated(), [Locality::new("us").unwrap()]);

    // What happens until the new process is ready.
    measure(&old, "a", Unhealthy);
    measure(&old, "b", Healthy);
    measure(&old, "d", Healthy);
    old.mark_ready("b").unwrap();
    old.start_maintenance("c").unwrap();
    old.restore(&Locality::new("us").unwrap());
    let _next = second.ready(State::new).await.unwrap();
    // What followed is of the same kind: no drain, no maintenance at one, all of it at the other.
    let mode_of_c = |pool: &Pool| pool.snapshot().get("c").unwrap().mode();
    assert_eq!(mode_of_c(&checked), Mode::Ready);
    assert_eq!(mode_of_c(&ordered), Mode::Maintenance);
    assert_eq!(mode_of_b(&ordered), Mode::Ready);
    handed_over(&mut running).await;
    // Down is taken over; up is not, without a check.
    assert_eq!(health(&new), [Unhealthy, Unhealthy, Healthy, Healthy]);
    assert_eq!(mode("a"), Mode::Draining { until }, "not ordered again");
    assert_eq!(mode("b"), Mode::Ready);
    assert_eq!(mode("c"), Mode::Maintenance);
    assert!(new.evacuated().is_empty());
    drop(prober);
}

/// A process that speaks the protocol by hand.
struct Raw(UnixStream);

impl Raw {
    async fn connect(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    async fn send(&mut self, message: Value) {
        let text = message.to_string();
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        self.0.write_all(&length).await.unwrap();
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hello(&mut self) {
        let protocol = "evenkeel-handover";
        let hello = json!({"protocol": protocol, "versions": [1], "process": 1, "new": "field"});
        self.send(json!({ "Hello": hello })).await;
    }

    /// Reads a message; `None` at the end.
    async fn receive(&mut self) -> Option<Value> {
        let read = async {
            let mut length = [0; 4];
            self.0.read_exact(&mut length).await.ok()?;
            let mut text = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
            self.0.read_exact(&mut text).await.ok()?;
            Some(serde_json::from_slice(&text).unwrap())
        };
        timeout(PATIENCE, read).await.expect("an answer or an end")
    }

    async fn refusal(&mut self) -> String {
        let message = self.receive().await.expect("a message");
        let reason = &message["Refused"]["reason"];
        reason
            .as_str()
            .unwrap_or_else(|| panic!("{message}"))
            .to_owned()
    }
}

#[tokio::test]
async fn a_new_process_that_fails_changes_nothing() {
    let place = Place::new();
    let handover = place.handover().start_timeout(Duration::from_secs(1));
    let start = Start::begin(Some(handover.unwrap()), PassedSockets::default())
        .await
        .unwrap();
    let mut running = start.ready(State::new).await.unwrap();
    let path = place.path();

    // It ends, at each point.
    drop(Raw::connect(&path).await);
    let mut raw = Raw::connect(&path).await;
    raw.hello().await;
    drop(raw);
    let mut raw = Raw::connect(&path).await;
    raw.hello().await;
    assert!(raw.receive().await.unwrap()["Offer"]["sockets"].is_array());
    drop(raw);
    let mut raw = Raw::connect(&path).await;
    raw.hello().await;
    raw.receive().await.unwrap();
    raw.send(json!("Ready")).await;
    assert!(raw.receive().await.unwrap()["Final"].is_object());
    drop(raw);
    // What it says is no message, another protocol, or too long.
    for (bytes, reason) in [
        (&b"\0\0\0\x02{}"[..], None),
        (b"\x7f\xff\xff\xff", None),
        (b"\0\0\x10\x01", None),
        (b"\0\0\0\x07\"Ready\"", None),
    ] {
        let mut raw = Raw::connect(&path).await;
        raw.0.write_all(bytes).await.unwrap();
        assert_eq!(raw.receive().await, reason);
    }
    for (protocol, version, part) in [
        ("evenkeel-handover", 99, "speaks versions [99]"),
        ("other", 1, "\"other\" is not the protocol"),
    ] {
        let mut raw = Raw::connect(&path).await;
        let hello = json!({"protocol": protocol, "versions": [version], "process": 1});
        raw.send(json!({ "Hello": hello })).await;
        let reason = raw.refusal().await;
        assert!(reason.contains(part), "{reason}");
    }
    // It hangs; another one is refused meanwhile, and served after it.
    let slow = place.start().await.unwrap();
    let mut other = Raw::connect(&path).await;
    other.hello().await;
    assert!(other.refusal().await.contains("is about to take over"));
    let served = async {
        loop {
            let mut raw = Raw::connect(&path).await;
            raw.hello().await;
            if !raw.receive().await.unwrap()["Offer"].is_null() {
                return;
            }
        }
    };
    timeout(PATIENCE, served)
        .await
        .expect("the slow one is refused");
    let error = slow.ready(State::new).await.unwrap_err().to_string();
    assert!(
        error.contains("does not hand over: not ready within 1s"),
        "{error}"
    );
    let pending = timeout(Duration::ZERO, running.handed_over()).await;
    assert!(pending.is_err(), "nothing was handed over");

    let _next = place.running().await;
    handed_over(&mut running).await;
}

#[tokio::test]
async fn an_old_process_that_is_gone_leaves_the_new_one_on_its_own() {
    let place = Place::new();
    let path = place.path();
    // It was killed: its socket is there.
    drop(UnixListener::bind(&path).unwrap());
    let start = place.start().await.unwrap();
    assert_eq!(start.predecessor(), None);
    drop(start);

    // It dies at once, after its offer, and after it was ready. It is gone for good each time.
    let offer = json!({"Offer": {"version": 1, "process": 42, "state": {"pools": {}, "secrets": {}},
        "sockets": [{"address": "127.0.0.1:0", "count": 1}]}});
    let whole = json!({"Offer": {"version": 1, "process": 42, "sockets": [],
        "state": {"pools": {}, "secrets": {}, "later": 1}}});
    for (answer, predecessor) in [(None, None), (Some(offer), None), (Some(whole), Some(42))] {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let removed = path.clone();
        let old = tokio::spawn(async move {
            let mut raw = Raw(listener.accept().await.unwrap().0);
            assert!(raw.receive().await.unwrap()["Hello"].is_object());
            fs::remove_file(removed).unwrap();
            drop(listener);
            let lives = answer
                .as_ref()
                .is_some_and(|a| a["Offer"]["sockets"] == json!([]));
            if let Some(answer) = answer {
                raw.send(answer).await;
            }
            if lives {
                assert_eq!(raw.receive().await.unwrap(), json!("Ready"));
            }
        });
        let mut start = place.start().await.unwrap();
        assert_eq!(start.predecessor(), predecessor);
        assert!(start.listener(ANY_PORT).is_ok());
        let running = start.ready(State::new).await.unwrap();
        old.await.unwrap();
        drop(running);
        assert!(is_gone_soon(&path).await);
    }
}

#[tokio::test]
async fn another_user_is_refused() {
    let place = Place::new();
    let mut running = place.running().await;
    let path = place.path();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Even where the mode of the file lets others connect.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = "import os, socket, sys\n\
        os.setgid(65534)\nos.setuid(65534)\n\
        s = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
        print(s.recv(1))\n";
    let python = tokio::process::Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .output();
    match timeout(PATIENCE, python).await.expect("an end") {
        Ok(output) if output.status.success() => {
            let read = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(read, "b''\n", "the connection is closed");
        }
        other => eprintln!("another user cannot be played here: {other:?}"),
    }
    let _next = place.running().await;
    handed_over(&mut running).await;
}

/// The messages of a new process, and the answers to them.
const STEPS: [(Option<&str>, Option<&str>); 4] = [
    (None, Some("Offer")),
    (Some("Ready"), Some("Final")),
    (Some("Taken"), Some("Release")),
    (Some("Serving"), None),
];

impl Raw {
    /// Takes over up to a step, as a new process does: its socket is at the path before it says so.
    async fn take_over(path: &Path, steps: usize) -> Self {
        let mut raw = Self::connect(path).await;
        raw.hello().await;
        for (message, answer) in STEPS.iter().take(steps) {
            if *message == Some("Taken") {
                let beside = path.with_extension("dead");
                drop(UnixListener::bind(&beside).unwrap());
                fs::rename(beside, path).unwrap();
            }
            if let Some(message) = message {
                raw.send(json!(message)).await;
            }
            if let Some(answer) = answer {
                let message = raw.receive().await.expect("an answer");
                let is_answer = message == json!(answer) || message[answer].is_object();
                assert!(is_answer, "{answer} is due: {message}");
            }
        }
        raw
    }
}

#[tokio::test]
async fn a_new_process_that_dies_at_any_step_leaves_the_old_one_serving() {
    let place = Place::new();
    let path = place.path();
    let mut running = place.running().await;
    for steps in 0..=4 {
        // With the last step, it has said that it serves, and is gone when that is read.
        drop(Raw::take_over(&path, steps).await);
        // The socket of the old one is back.
        let back = async {
            loop {
                let start = place.start().await;
                if start.is_ok_and(|start| start.predecessor().is_some()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, back).await.expect("the old one listens");
        let pending = timeout(Duration::ZERO, running.handed_over()).await;
        assert!(
            pending.is_err(),
            "it stopped for a process that died at {steps}"
        );
    }
    let raw = Raw::take_over(&path, 4).await;
    handed_over(&mut running).await;
    drop(raw);
}

#[tokio::test]
async fn an_old_process_that_dies_at_any_step_leaves_the_new_one_serving() {
    let whole = json!({"Offer": {"version": 1, "process": 42, "sockets": [],
        "state": {"pools": {}, "secrets": {}}}});
    let last = json!({"Final": {"state": {"pools": {}, "secrets": {}}}});
    // What the old one answers to Ready, to Taken and to Serving; then it is gone.
    for answers in [vec![], vec![last.clone()], vec![last, json!("Release")]] {
        let place = Place::new();
        let listener = UnixListener::bind(place.path()).unwrap();
        let whole = whole.clone();
        let old = tokio::spawn(async move {
            let mut raw = Raw(listener.accept().await.unwrap().0);
            assert!(raw.receive().await.unwrap()["Hello"].is_object());
            raw.send(whole).await;
            for answer in answers {
                raw.receive().await.unwrap();
                raw.send(answer).await;
            }
            raw.receive().await.unwrap();
        });
        let start = place.start().await.unwrap();
        assert_eq!(start.predecessor(), Some(42));
        let mut running = start.ready(State::new).await.unwrap();
        old.await.unwrap();
        let _next = place.running().await;
        handed_over(&mut running).await;
    }
}

#[tokio::test]
async fn a_refusal_at_the_last_step_ends_the_new_process() {
    let place = Place::new();
    let path = place.path();
    let mut running = place.running().await;
    let mut raw = Raw::take_over(&path, 2).await;
    // It says what does not belong there, and is refused; so its socket goes.
    raw.send(json!("Ready")).await;
    assert!(raw.refusal().await.contains("does not belong here"));
    drop(raw);
    assert!(
        timeout(Duration::ZERO, running.handed_over())
            .await
            .is_err()
    );
    let _next = place.running().await;
    handed_over(&mut running).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_a_new_process_that_is_ready_and_for_no_other() {
    let place = Place::new();
    let path = place.path();
    assert_eq!(place.running().await.close().await, None);
    assert!(!path.exists(), "the path is free");
    // It starts, and goes on by itself with what it has.
    for steps in 0..=1 {
        let running = place.running().await;
        let mut raw = Raw::take_over(&path, steps).await;
        let closed = timeout(PATIENCE, running.close()).await;
        assert_eq!(closed.expect("no wait"), None);
        while raw.receive().await.is_some() {}
        assert!(!path.exists());
    }
    let mut first = place.start().await.unwrap();
    let address = first.listener(ANY_PORT).unwrap().local_addr().unwrap();
    let running = first.ready(State::new).await.unwrap();
    let mut second = place.start().await.unwrap();
    assert_eq!(running.close().await, None);
    assert_eq!(
        second.listener(ANY_PORT).unwrap().local_addr().unwrap(),
        address
    );
    let _running = second.ready(State::new).await.unwrap();
    // It is ready.
    let place = Place::new();
    let path = place.path();
    let running = place.running().await;
    let mut raw = Raw::take_over(&path, 2).await;
    let closing = tokio::spawn(running.close());
    tokio::task::yield_now().await;
    raw.send(json!("Taken")).await;
    assert_eq!(raw.receive().await, Some(json!("Release")));
    raw.send(json!("Serving")).await;
    let closed = timeout(PATIENCE, closing).await.expect("no wait");
    assert_eq!(closed.unwrap(), Some(std::process::id()));
    // One that is ready and dies holds the shutdown up no longer.
    let running = place.running().await;
    let raw = Raw::take_over(&path, 3).await;
    let closing = tokio::spawn(running.close());
    tokio::task::yield_now().await;
    drop(raw);
    let closed = timeout(PATIENCE, closing).await.expect("no wait");
    assert_eq!(closed.unwrap(), None);
}

#[tokio::test]
async fn a_new_path_is_served_from_the_next_process_on() {
    let place = Place::new();
    let later = place.folder.path().join("later.sock");
    let mut running = place.running().await;
    let handover = Handover::new(&later).unwrap().ask_at(place.path()).unwrap();
    let start = Start::begin(Some(handover), PassedSockets::default()).await;
    let start = start.unwrap();
    assert_eq!(start.predecessor(), Some(std::process::id()));
    let _next = start.ready(State::new).await.unwrap();
    handed_over(&mut running).await;
    drop(running);
    assert!(is_gone_soon(&place.path()).await && later.exists());
    let error = place.handover().ask_at("").unwrap_err();
    assert_eq!(error.field(), "handover");
}

#[tokio::test]
async fn a_follower_gets_the_last_state() {
    let place = Place::new();
    let number = std::sync::Arc::new(std::sync::atomic::AtomicU8::new(1));
    let given = number.clone();
    let state = move || {
        let number = given.load(std::sync::atomic::Ordering::Relaxed);
        State::new().secret("number", [number])
    };
    let _running = place.start().await.unwrap().ready(state).await.unwrap();
    let mut second = place.start().await.unwrap();
    assert_eq!(second.state().find_secret("number"), Some(&[1][..]));
    number.store(2, std::sync::atomic::Ordering::Relaxed);
    let (sender, receiver) = std::sync::mpsc::channel();
    second.follow(move |state| {
        let secret = state.find_secret("number").map(<[u8]>::to_vec);
        sender.send(secret).unwrap();
    });
    let _next = second.ready(State::new).await.unwrap();
    assert_eq!(receiver.try_recv(), Ok(Some(vec![2])));
}

#[test]
fn bad_settings_are_refused_with_their_range() {
    for (path, shown) in [(String::new(), "0 bytes"), ("/".repeat(104), "104 bytes")] {
        let error = Handover::new(path).unwrap_err();
        assert_eq!(error.field(), "handover");
        assert!(error.message().starts_with(shown), "{error}");
    }
    let handover = || Handover::new("/".repeat(103)).unwrap();
    for time in [Duration::from_millis(999), Duration::from_secs(3_601)] {
        let error = handover().start_timeout(time).unwrap_err();
        assert_eq!(error.field(), "start_timeout");
    }
}
