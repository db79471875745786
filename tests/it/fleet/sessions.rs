//! Sessions that survive: of their node, of their balancer, and of a change of keys. Log-ins are in a
//! real Redis, which all nodes share; it needs Debian's package `redis-server`.
//!
//! ```text
//! 1,000 users ── TCP balancer ──┬── edge 1 ──┬── nodes a b c d (the example `shared_sessions`) ── Redis
//!                               └── edge 2 ──┘
//! ```

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::examples::{
    client::get,
    edge::Settings,
    process::{Backend, PATIENCE, Process},
};

/// A redis-server of the test's own; killed when dropped.
struct Redis {
    address: SocketAddr,
    _process: Child,
    _folder: TempDir,
}

impl Redis {
    /// Starts it; `None`, with a word to the reader, if it is not installed.
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        loop {
            // Released for redis-server, which cannot choose a port; another process may be faster.
            let address = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
            command
                .args(["--save", "", "--appendonly", "no", "--dir"])
                .arg(folder.path());
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            let mut process = match command.spawn() {
                Ok(process) => process,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let _ = writeln!(std::io::stderr(), "NOT RUN: redis-server is not installed");
                    return None;
                }
                Err(error) => panic!("redis-server: {error}"),
            };
            while process.try_wait().unwrap().is_none() {
                if answers(address).await {
                    return Some(Self {
                        address,
                        _process: process,
                        _folder: folder,
                    });
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

/// Whether a Redis answers PING.
async fn answers(address: SocketAddr) -> bool {
    let ping = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer == *b"+PONG\r\n")
    };
    timeout(PATIENCE, ping)
        .await
        .is_ok_and(|answer| answer.unwrap_or(false))
}

/// Returns the example, which is a package of its own; builds it where it is not there and fresh.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        let profile = own.ancestors().nth(2).unwrap();
        let manifest = "examples/shared_sessions/Cargo.toml";
        let status = std::process::Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([
                "build",
                "--quiet",
                "--manifest-path",
                manifest,
                "--target-dir",
            ])
            .arg(profile.parent().unwrap())
            .status();
        assert!(status.unwrap().success(), "the example must build");
        profile.with_file_name("debug").join("shared_sessions")
    })
}

async fn node(name: &'static str, redis: &Redis) -> Backend {
    let mut process =
        Process::start_program(program(), &["node", name, "127.0.0.1:0", &redis.url()]);
    let address = process.address("http://").await;
    Backend {
        process,
        name,
        address,
    }
}

/// An edge before these nodes, with these keys for sticky cookies.
struct Edge {
    _process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    _settings: Settings,
}

impl Edge {
    async fn start(nodes: &[Backend], keys: &str) -> Self {
        let nodes: String = nodes.iter().map(Backend::settings).collect();
        let settings = Settings::new(&format!(
            "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"0s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{nodes}\
             [health]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[failover]\nattempts = 3\n\
             [sticky]\nsecure = false\nkeys = [{keys}]\n[admin]\naddress = \"127.0.0.1:0\"\n"
        ));
        let mut process = Process::start("edge", &[&settings.file()]);
        let admin = process.address("admin on http://").await;
        let address = process.address("listening on http://").await;
        Self {
            _process: process,
            address,
            admin,
            _settings: settings,
        }
    }

    async fn until_usable(&self, count: usize) {
        let wanted = format!("\"usable\":{count},");
        let usable = async {
            while !get(self.admin, "/ready").await.body.contains(&wanted) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let usable = timeout(PATIENCE, usable).await;
        usable.unwrap_or_else(|_| panic!("{count} nodes must be usable"));
    }
}

/// A balancer of connections: the next one goes to the next edge, whatever is in it.
struct TcpBalancer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpBalancer {
    async fn start(edges: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            for edge in edges.iter().cycle() {
                let (mut client, _) = listener.accept().await.unwrap();
                let edge = *edge;
                open.spawn(async move {
                    let mut edge = TcpStream::connect(edge).await.unwrap();
                    // An end of either side ends both.
                    let _ = copy_bidirectional(&mut client, &mut edge).await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }
}

impl Drop for TcpBalancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A browser of one user.
#[derive(Clone, Debug, Default)]
struct User {
    name: String,
    cookies: Vec<(String, String)>,
    /// The nodes that answered, in order, repetitions left out.
    homes: Vec<String>,
    log_ins: usize,
}

impl User {
    /// Opens the user's page on a new connection; logs in where the page asks for it.
    async fn visit(&mut self, address: SocketAddr) {
        let (status, text) = self.ask(address, Method::GET, "/whoami").await;
        match status {
            StatusCode::OK => assert_eq!(text, self.name, "another user's session"),
            StatusCode::UNAUTHORIZED => {
                let path = format!("/login?user={}", self.name);
                let (status, text) = self.ask(address, Method::POST, &path).await;
                assert_eq!(status, StatusCode::OK, "{text}");
                self.log_ins += 1;
            }
            other => panic!("{other}: {text}"),
        }
    }

    async fn ask(
        &mut self,
        address: SocketAddr,
        method: Method,
        path: &str,
    ) -> (StatusCode, String) {
        let asked = async {
            let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
            let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let conn = tokio::spawn(conn);
            let pairs = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "shop.example")
                .header(header::COOKIE, pairs.collect::<Vec<_>>().join("; "))
                .body(Empty::<Bytes>::new());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            conn.abort();
            (
                head,
                String::from_utf8(body.to_vec()).unwrap().trim().to_owned(),
            )
        };
        let (head, text) = timeout(PATIENCE, asked).await.expect("an answer");
        self.keep(&head.headers);
        (head.status, text)
    }

    fn keep(&mut self, headers: &HeaderMap) {
        for set in headers.get_all(header::SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(own, _)| own != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        if let Some(node) = headers.get("x-backend") {
            let node = node.to_str().unwrap();
            if self.homes.last().is_none_or(|home| home != node) {
                self.homes.push(node.to_owned());
            }
        }
    }
}

/// Has every user visit each of these addresses once, several users at a time.
async fn visit(users: &mut Vec<User>, addresses: &[SocketAddr]) {
    let mut running = JoinSet::new();
    let all = std::mem::take(users);
    let mut waiting = all.into_iter();
    loop {
        while running.len() < AT_ONCE {
            let Some(mut user) = waiting.next() else {
                break;
            };
            let addresses = addresses.to_vec();
            running.spawn(async move {
                for address in addresses {
                    user.visit(address).await;
                }
                user
            });
        }
        match running.join_next().await {
            Some(user) => users.push(user.unwrap()),
            None => return,
        }
    }
}

fn users() -> Vec<User> {
    let user = |number| User {
        name: format!("user-{number}"),
        ..User::default()
    };
    (0..USERS).map(user).collect()
}

#[tokio::test]
async fn a_thousand_sessions_keep_their_node_and_their_log_in_through_either_edge() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        nodes.push(node(name, &redis).await);
    }
    let edges = [
        Edge::start(&nodes, OLD).await,
        Edge::start(&nodes, OLD).await,
    ];
    for edge in &edges {
        edge.until_usable(nodes.len()).await;
    }
    let both = edges.each_ref().map(|edge| edge.address);
    let balancer = TcpBalancer::start(both.to_vec()).await;
    let mut users = users();
    visit(&mut users, &[balancer.address; 2]).await;
    visit(&mut users, &both).await;
    for user in &users {
        assert_eq!(
            (user.homes.len(), user.log_ins),
            (1, 1),
            "one node, one log-in: {user:?}"
        );
    }
    let at = |users: &[User], name: &str| users.iter().filter(|u| u.homes[0] == name).count();
    for node in &nodes {
        let share = at(&users, node.name);
        assert!(share > USERS / 8, "{} has {share} sessions", node.name);
    }

    nodes[0].process.kill().await;
    visit(&mut users, &[balancer.address; 2]).await;
    visit(&mut users, &both).await;
    let moved = AtomicUsize::new(0);
    let moves_once = |user: &User| {
        let was_there = user.homes[0] == "a";
        moved.fetch_add(usize::from(was_there), Ordering::Relaxed);
        let homes = 1 + usize::from(was_there);
        assert_eq!((user.homes.len(), user.log_ins), (homes, 1), "{user:?}");
    };
    users.iter().for_each(moves_once);
    assert!(moved.load(Ordering::Relaxed) > 0);

    // A third edge signs with a new key, and still knows the old one. A fourth knows only the new one,
    // and what the third made of the cookies.
    for keys in [format!("{NEW}, {OLD}"), NEW.to_owned()] {
        let edge = Edge::start(&nodes, &keys).await;
        edge.until_usable(nodes.len() - 1).await;
        visit(&mut users, &[edge.address; 2]).await;
        users.iter().for_each(moves_once);
    }
}

#[tokio::test]
async fn the_demonstration_keeps_its_user_logged_in() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let mut demonstration = Process::start_program(program(), &[&redis.url()]);
    let (status, lines) = demonstration.ended().await;
    assert!(status.success(), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("after:  200 OK") && last.ends_with(": ada"),
        "{lines:#?}"
    );
}

const USERS: usize = 1_000;
/// Users that visit at once.
const AT_ONCE: usize = 32;
const OLD: &str = "\"0101010101010101010101010101010101010101010101010101010101010101\"";
const NEW: &str = "\"0202020202020202020202020202020202020202020202020202020202020202\"";
