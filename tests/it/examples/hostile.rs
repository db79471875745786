//! Ten thousand hostile connections to the TLS port of an `edge`, beside clients that it serves: one
//! after the other, and all of them at once.
#![cfg(target_os = "linux")]

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    edge::{ONE_LISTENER, Settings},
    operators::metric,
    process::{Backend, PATIENCE, Process},
};
use crate::support::pki::{Authority, connect};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_clients_delay_no_other_client() {
    let _alone = ALONE.lock().await;
    let Some(count) = possible_connections() else {
        return;
    };
    let World {
        edge,
        address,
        admin: _,
        client,
        quiet,
        _backend,
        _settings,
    } = World::start(count, "", "").await;
    let (before, cpu) = (edge.peak_memory(), edge.cpu_time());
    let attackers = attackers(&client_hello(&client));
    let mut running = JoinSet::new();
    let mut beside = Vec::new();
    let mut most = 0;
    for number in 0..count {
        let attacker = attackers[number % attackers.len()].of(number);
        running.spawn(async move { attacker.attack(address, DEADLINE).await });
        if number % BURST == BURST - 1 {
            // It is accepted after those before it, so that the kernel's queue never overflows.
            beside.push(visit(address, client.clone()).await);
            while let Some(attack) = running.try_join_next() {
                attack.unwrap();
            }
            most = running.len().max(most);
        }
    }
    while let Some(attack) = running.join_next().await {
        attack.unwrap();
    }
    let (memory, cpu) = (edge.peak_memory() - before, edge.cpu_time() - cpu);
    let each = memory / count;
    let (quiet, beside) = (Summary::of(quiet), Summary::of(beside));
    let cpu = cpu / u32::try_from(count).unwrap();
    eprintln!(
        "{count} hostile connections, {most} at once: {each} bytes and {cpu:?} each; visits before \
         them took {quiet:?}, beside them {beside:?}"
    );
    assert!(each < MOST_MEMORY, "{each} bytes for each");
    // A client that waited for a hostile one would take 10 s; both sides keep the machine busy.
    assert!(beside.most < DEADLINE / 2, "{beside:?}");
    assert!(beside.median < DEADLINE / 4, "{beside:?}");
    end(edge).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_clients_at_once_delay_no_other_client() {
    let _alone = ALONE.lock().await;
    let Some(count) = possible_connections() else {
        return;
    };
    // Time enough to open all of them on a machine that has a lot to do.
    let deadline = Duration::from_secs(60);
    let World {
        edge,
        address,
        admin,
        client,
        quiet,
        _backend,
        _settings,
    } = World::start(
        count,
        "max_connections = 20_000\n",
        "handshake_timeout = \"60s\"\n",
    )
    .await;
    let before = edge.peak_memory();
    let (refused, held): (Vec<_>, Vec<_>) = attackers(&client_hello(&client))
        .into_iter()
        .partition(|attacker| matches!(attacker.end, End::Alert(_) | End::Any));
    let mut running = JoinSet::new();
    let mut spawn = |attacker: Attacker| {
        running.spawn(async move { attacker.attack(address, deadline).await });
    };
    let mut beside = Vec::new();
    for number in 0..count {
        spawn(held[number % held.len()].of(number));
        if number % BURST == BURST - 1 {
            // They are refused and closed at once, beside those that stay.
            refused.iter().for_each(|one| spawn(one.of(number)));
            beside.push(visit(address, client.clone()).await);
        }
    }
    for _ in 0..100 {
        beside.push(visit(address, client.clone()).await);
    }
    let open = metric(admin, "evenkeel_connections_open", &[]).await as usize;
    let (quiet, beside) = (Summary::of(quiet), Summary::of(beside));
    let each = (edge.peak_memory() - before) / count;
    eprintln!(
        "{open} hostile connections open at once: {each} bytes each; visits before them took \
         {quiet:?}, beside them {beside:?}"
    );
    assert!(open >= count, "{open} of {count} are open");
    assert!(each < MOST_MEMORY, "{each} bytes for each");
    assert!(beside.most < DEADLINE / 2, "{beside:?}");
    assert!(beside.median < DEADLINE / 4, "{beside:?}");
    // Each asserts that it is closed in time.
    while let Some(attack) = running.join_next().await {
        attack.unwrap();
    }
    let closed = async { while metric(admin, "evenkeel_connections_open", &[]).await > 0.0 {} };
    timeout(PATIENCE, closed).await.expect("all are closed");
    end(edge).await;
}

/// An `edge` with TLS, and a client that it serves.
struct World {
    edge: Process,
    address: SocketAddr,
    admin: SocketAddr,
    client: Arc<ClientConfig>,
    /// How long visits take while nothing else goes on.
    quiet: Vec<Duration>,
    _backend: Backend,
    _settings: Settings,
}

impl World {
    /// Starts it with as many open files, and these lines in `[[listen]]` and `[listen.tls]`.
    async fn start(count: usize, listen: &str, tls: &str) -> Self {
        let authority = Authority::new();
        let issued = authority.issue(&["localhost"]);
        let backend = Backend::start("a").await;
        let settings = Settings::new("");
        let path = |name: &str| settings.path(name).display().to_string();
        let (chain, key) = (path("cert.pem"), path("key.pem"));
        fs::write(&chain, issued.chain).unwrap();
        fs::write(&key, issued.key).unwrap();
        let certificates = format!("certificates = [{{ chain = {chain:?}, key = {key:?} }}]");
        let tls = format!("{listen}[listen.tls]\n{certificates}\n{tls}[pool]");
        settings.write(&format!(
            "{}{}[admin]\naddress = \"127.0.0.1:0\"\n",
            ONE_LISTENER.replace("[pool]", &tls),
            backend.settings()
        ));
        let mut edge = Process::start_with_open_files("edge", &[&settings.file()], count + SPARE);
        let admin = edge.address("admin on http://").await;
        let address = edge.address("listening on https://").await;
        let mut client = authority.client();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Arc::new(client);
        let mut quiet = Vec::new();
        for _ in 0..100 {
            quiet.push(visit(address, client.clone()).await);
        }
        Self {
            edge,
            address,
            admin,
            client,
            quiet,
            _backend: backend,
            _settings: settings,
        }
    }
}

async fn end(mut edge: Process) {
    edge.signal("-TERM");
    let (status, lines) = edge.ended().await;
    assert!(status.success(), "{status}: {lines:#?}");
    let panicked = lines.iter().find(|line| line.contains("panicked"));
    assert_eq!(panicked, None);
}

/// A hostile client: what it sends, and how that ends.
#[derive(Clone)]
struct Attacker {
    name: &'static str,
    bytes: Vec<u8>,
    /// Between the bytes; all are sent at once without.
    pause: Option<Duration>,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    /// The deadline closes it, without an answer.
    Closed,
    /// The server answers its ClientHello, and then the deadline closes it.
    Flight,
    /// It gets this alert at once.
    Alert(u8),
    /// Chance decides.
    Any,
}

/// One of each kind.
fn attackers(hello: &[u8]) -> Vec<Attacker> {
    let at_once = |name, bytes: &[u8], end| Attacker {
        name,
        bytes: bytes.to_vec(),
        pause: None,
        end,
    };
    let mut long = b"\x01\x00\x40\x00".to_vec();
    long.resize(4 + 16_384, 0);
    let mut tls10 = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x01".to_vec();
    tls10.extend([7; 32]);
    tls10.extend(b"\x00\x00\x04\x00\x2f\x00\x35\x01\x00");
    let mut announced = b"\x16\x03\x01\x3f\xfc\x01\x00\xfe\x00".to_vec();
    announced.resize(5 + 0x3ffc, 0);
    let slowly = Attacker {
        pause: Some(Duration::from_secs(1)),
        ..at_once("a byte a second", hello, End::Closed)
    };
    vec![
        at_once("silence", b"", End::Closed),
        at_once("half a ClientHello", &hello[..hello.len() / 2], End::Closed),
        at_once("no answer to our flight", hello, End::Flight),
        slowly,
        at_once(
            "records of one byte",
            &one_byte_records(&hello[5..]),
            End::Flight,
        ),
        at_once(
            "16 KiB in records of one byte",
            &one_byte_records(&long),
            End::Alert(DECODE_ERROR),
        ),
        at_once("16 KiB of 64", &announced, End::Closed),
        at_once("TLS 1.0", &tls10, End::Alert(PROTOCOL_VERSION)),
        at_once("SSL 2.0", SSL2, End::Alert(UNEXPECTED_MESSAGE)),
        at_once("random bytes", b"", End::Any),
    ]
}

impl Attacker {
    /// Returns the one with this number: no two send the same random bytes.
    fn of(&self, number: usize) -> Self {
        let mut own = self.clone();
        if matches!(own.end, End::Any) {
            let mut random = fastrand::Rng::with_seed(number as u64);
            own.bytes = (0..random.usize(1..2_000)).map(|_| random.u8(..)).collect();
        }
        own
    }

    /// The deadline is that of the server.
    async fn attack(self, address: SocketAddr, deadline: Duration) {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = stream.expect("it must be accepted").unwrap();
        stream.set_nodelay(true).unwrap();
        let began = Instant::now();
        let (mut read, mut write) = stream.into_split();
        let send = async {
            match self.pause {
                // The server closes when it has seen enough.
                None => drop(write.write_all(&self.bytes).await),
                Some(pause) => {
                    for byte in &self.bytes {
                        if write.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(pause).await;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        let receive = async {
            let mut bytes = [0; 4_096];
            // A reset ends it as well.
            while let Ok(read @ 1..) = read.read(&mut bytes).await {
                answer.extend(&bytes[..read]);
            }
        };
        let closed = timeout(deadline + PATIENCE, async {
            tokio::select! {
                () = receive => {}
                () = send => {}
            }
        });
        let name = self.name;
        closed
            .await
            .unwrap_or_else(|_| panic!("{name}: open after {:?}", began.elapsed()));
        let seen = &answer[..answer.len().min(16)];
        match self.end {
            End::Closed => {
                assert!(answer.is_empty(), "{name}: {seen:?}");
                // Counted from accept, which may be a moment before.
                let early = Duration::from_secs(1);
                assert!(
                    began.elapsed() > deadline - early,
                    "{name}: {:?}",
                    began.elapsed()
                );
            }
            End::Flight => assert_eq!(answer.first(), Some(&22), "{name}: {seen:?}"),
            End::Alert(alert) => assert!(
                matches!(answer[..], [21, 3, _, 0, 2, 2, code] if code == alert),
                "{name}: {seen:?}"
            ),
            End::Any => {}
        }
    }
}

/// A handshake and a request to the backend; returns how long they took.
async fn visit(address: SocketAddr, client: Arc<ClientConfig>) -> Duration {
    let began = Instant::now();
    let visit = async {
        let mut stream = connect(address, client, "localhost").await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("x-backend: a\r\n"), "{answer}");
    };
    timeout(PATIENCE, visit).await.expect("others are served");
    began.elapsed()
}

/// How long visits took.
#[derive(Debug)]
struct Summary {
    median: Duration,
    most: Duration,
}

impl Summary {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        Self {
            median: took[took.len() / 2],
            most: took[took.len() - 1],
        }
    }
}

fn client_hello(client: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

fn one_byte_records(message: &[u8]) -> Vec<u8> {
    let records = message.iter().map(|byte| [22, 3, 1, 0, 1, *byte]);
    records.flatten().collect()
}

/// How many connections may be open to a process, which needs others as well. `None` if that is too
/// few, which the log of the test says.
fn possible_connections() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut fields = line.unwrap().split_whitespace().skip(3);
    let mut limit = || match fields.next().unwrap() {
        "unlimited" => usize::MAX,
        number => number.parse().unwrap(),
    };
    let (soft, hard) = (limit(), limit());
    let wanted = CONNECTIONS + SPARE;
    let own = std::process::id().to_string();
    let raise = |to: usize| {
        let limit = format!("--nofile={to}:{hard}");
        let raised = std::process::Command::new("prlimit")
            .args(["--pid", &own, &limit])
            .status();
        raised.is_ok_and(|status| status.success())
    };
    let least = wanted.min(hard);
    let limit = match soft >= least || raise(least) {
        true => least.max(soft),
        false => soft,
    };
    match limit {
        _ if limit >= wanted => Some(CONNECTIONS),
        _ if limit >= 2 * SPARE => {
            eprintln!(
                "ONLY {} CONNECTIONS: the limit of open files is {limit}",
                limit - SPARE
            );
            Some(limit - SPARE)
        }
        _ => {
            eprintln!("NOT RUN: the limit of open files is {limit}");
            None
        }
    }
}

/// The open files do for one of the tests.
static ALONE: Mutex<()> = Mutex::const_new(());
const CONNECTIONS: usize = 10_000;
/// Open files for everything else, such as the tests that run beside this one.
const SPARE: usize = 2_000;
/// Hostile connections for each visit.
const BURST: usize = 50;
/// Of a handshake, from accept.
const DEADLINE: Duration = Duration::from_secs(10);
/// A stalled ClientHello of 16 KiB holds that much; most clients hold 2 to 7 KiB.
const MOST_MEMORY: usize = 16 * 1024;
/// A CLIENT-HELLO of version 2 that offers SSL 3.0.
const SSL2: &[u8] =
    b"\x80\x2b\x01\x03\x00\x00\x12\x00\x00\x00\x10\x00\x00\x04\x00\x00\x05\x00\x00\x0a\
    \x01\x00\x80\x07\x00\xc0\x03\x00\x800123456789abcdef";
const UNEXPECTED_MESSAGE: u8 = 10;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
