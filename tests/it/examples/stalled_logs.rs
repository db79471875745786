//! The access log of an `edge` whose reader stalls and comes back: through a named pipe, and over TCP.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    edge::Settings,
    operators::metric,
    process::{Backend, PATIENCE, Process, kill},
};

/// An `edge` with one log, and a client of one connection.
struct World {
    edge: Process,
    admin: SocketAddr,
    client: Client,
    _backend: Backend,
    _settings: Settings,
}

impl World {
    async fn start(output: &str) -> Self {
        let backend = Backend::start("a").await;
        let settings = Settings::new(&format!(
            "[server]\nthreads = 1\nshutdown = {{ lame_duck = \"0s\" }}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n{}\
             [[access_log.outputs]]\n{output}\n[admin]\naddress = \"127.0.0.1:0\"\n",
            backend.settings()
        ));
        let mut edge = Process::start("edge", &[&settings.file()]);
        let admin = edge.address("admin on http://").await;
        let address = edge.address("listening on http://").await;
        Self {
            edge,
            admin,
            client: Client::connect(address).await,
            _backend: backend,
            _settings: settings,
        }
    }

    async fn lines(&self, result: &str) -> u64 {
        let label = format!("result=\"{result}\"");
        metric(self.admin, "evenkeel_log_lines_total", &[&label]).await as u64
    }

    /// Sends requests until the log has lost lines, and said so; returns how long the batches took.
    async fn lose_lines(&mut self) -> Vec<Duration> {
        let mut took = Vec::new();
        while self.lines("dropped").await < 500 {
            assert!(self.client.next < 60_000, "nothing is lost");
            took.extend(self.client.batches(10).await);
        }
        let line = self.edge.line("lines were dropped").await;
        assert!(line.contains("evenkeel::access_log"), "{line}");
        took
    }

    /// Waits until each request so far has its line, written or lost; returns how many were lost.
    async fn settled(&self) -> u64 {
        let began = Instant::now();
        loop {
            let (written, dropped) = (self.lines("written").await, self.lines("dropped").await);
            if written + dropped == self.client.next {
                return dropped;
            }
            let all = self.client.next;
            assert!(
                began.elapsed() < PATIENCE,
                "{written} written, {dropped} dropped of {all}"
            );
        }
    }

    /// Waits until the log takes lines again; returns how many were lost.
    async fn recovered(&mut self) -> u64 {
        let began = Instant::now();
        loop {
            let before = self.lines("dropped").await;
            self.client.batches(1).await;
            if self.lines("dropped").await == before {
                return self.settled().await;
            }
            assert!(began.elapsed() < PATIENCE, "lines are still lost");
        }
    }

    async fn end(mut self) {
        drop(self.client);
        self.edge.signal("-TERM");
        self.edge.must_succeed().await;
    }
}

/// A connection whose requests are numbered.
struct Client {
    stream: tokio::io::BufReader<TcpStream>,
    next: u64,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: tokio::io::BufReader::new(stream),
            next: 0,
        }
    }

    /// Sends batches of requests; returns how long each took to be answered.
    async fn batches(&mut self, count: usize) -> Vec<Duration> {
        let mut took = Vec::new();
        for _ in 0..count {
            let began = Instant::now();
            let batch = async {
                // Long lines, so that a few thousand fill the queue and what is behind it.
                let padding = "x".repeat(PADDING);
                let mut requests = String::new();
                for number in self.next..self.next + BATCH {
                    let path = format!("/{number}/{padding}");
                    requests.push_str(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
                }
                self.stream.write_all(requests.as_bytes()).await.unwrap();
                for _ in 0..BATCH {
                    self.answer().await;
                }
            };
            timeout(PATIENCE, batch)
                .await
                .expect("requests do not wait for the log");
            self.next += BATCH;
            took.push(began.elapsed());
        }
        took
    }

    async fn answer(&mut self) {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let at = head.len();
            self.stream.read_line(&mut head).await.unwrap();
            let line = head[at..].to_lowercase();
            assert!(!line.is_empty(), "closed: {head}");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
    }
}

/// What a reader of the log has written to a file.
struct Copy(PathBuf);

impl Copy {
    /// Waits until it has this many lines, which must be whole and in order; returns their numbers.
    async fn lines(&self, count: u64) -> Vec<u64> {
        let began = Instant::now();
        loop {
            let bytes = fs::read(&self.0).unwrap();
            let seen = memchr::memchr_iter(b'\n', &bytes).count() as u64;
            if seen == count {
                return self.numbers(&bytes);
            }
            assert!(seen < count, "{seen} lines, not {count}");
            assert!(began.elapsed() < PATIENCE, "{seen} lines of {count}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn numbers(&self, bytes: &[u8]) -> Vec<u64> {
        assert!(
            bytes.is_empty() || bytes.ends_with(b"\n"),
            "the last line is whole"
        );
        let mut numbers = Vec::new();
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let entry: Value = serde_json::from_slice(line).expect("a line is whole");
            let path = entry["path"].as_str().unwrap();
            let number = path.split('/').nth(1).unwrap().parse().unwrap();
            assert_eq!(path.len(), format!("/{number}/").len() + PADDING);
            assert!(numbers.last() < Some(&number), "in order, and once");
            numbers.push(number);
        }
        numbers
    }
}

/// A program that reads a pipe; killed when it is dropped.
struct Cat(Child);

impl Cat {
    fn start(pipe: &Path, copy: &Copy) -> Self {
        let copy = File::options()
            .create(true)
            .append(true)
            .open(&copy.0)
            .unwrap();
        let child = Command::new("cat").arg(pipe).stdout(copy).spawn();
        Self(child.unwrap())
    }

    fn signal(&self, name: &str) {
        kill(name, &self.0.id().to_string());
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Asserts that the requests did not wait for a log that took no lines.
fn assert_not_slower(mut quiet: Vec<Duration>, mut stalled: Vec<Duration>) {
    let median = |took: &mut Vec<Duration>| {
        took.sort_unstable();
        took[took.len() / 2]
    };
    let (quiet, stalled) = (median(&mut quiet), median(&mut stalled));
    eprintln!("{BATCH} requests took {quiet:?} before the stall, and {stalled:?} meanwhile");
    // A request that waited for the log would take as long as the stall.
    assert!(
        stalled < 5 * quiet + Duration::from_millis(50),
        "{stalled:?} after {quiet:?}"
    );
}

#[tokio::test]
async fn a_named_pipe_whose_reader_stalls_or_leaves_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let copy = Copy(folder.path().join("copy"));
    // It starts without a reader.
    let mut world = World::start(&format!("file = {path:?}")).await;
    let quiet = world.client.batches(4).await;
    let cat = Cat::start(&path, &copy);
    copy.lines(world.client.next).await;

    // The reader does not read.
    cat.signal("-STOP");
    let stalled = world.lose_lines().await;
    assert_not_slower(quiet, stalled);
    cat.signal("-CONT");
    let dropped = world.recovered().await;
    copy.lines(world.client.next - dropped).await;

    // The reader ends, and another one begins later.
    drop(cat);
    world.client.batches(2).await;
    let _cat = Cat::start(&path, &copy);
    copy.lines(world.client.next - dropped).await;
    assert_eq!(world.settled().await, dropped, "the lines have waited");
    world.end().await;
}

#[tokio::test]
async fn a_tcp_peer_that_stops_reading_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let copy = Copy(folder.path().join("copy"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // So that a few thousand lines fill the connection.
    let socket = socket2::SockRef::from(&listener);
    socket.set_recv_buffer_size(16 * 1_024).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut file = File::create(&copy.0).unwrap();
    let reads = Arc::new((Mutex::new(true), Condvar::new()));
    let gate = reads.clone();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4_096];
        loop {
            drop(
                gate.1
                    .wait_while(gate.0.lock().unwrap(), |reads| !*reads)
                    .unwrap(),
            );
            match stream.read(&mut bytes).unwrap() {
                0 => return,
                read => file.write_all(&bytes[..read]).unwrap(),
            }
        }
    });
    let set = |is_open: bool| {
        *reads.0.lock().unwrap() = is_open;
        reads.1.notify_all();
    };
    let mut world = World::start(&format!("tcp = {address:?}")).await;
    let quiet = world.client.batches(4).await;
    copy.lines(world.client.next).await;

    set(false);
    let stalled = world.lose_lines().await;
    assert_not_slower(quiet, stalled);
    set(true);
    let dropped = world.recovered().await;
    copy.lines(world.client.next - dropped).await;
    world.end().await;
}

/// Requests of a batch.
const BATCH: u64 = 50;
/// Bytes of a path, within the limits of server and log.
const PADDING: usize = 3_000;
