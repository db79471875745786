//! Backends whose conduct can be changed, the whole stack behind a listener, and clients, all
//! over sockets of this machine.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::IntoFuture,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{Backend, LoadBalancer, Pool, health::Checks, pool::Snapshot};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Channel, Empty, Full, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http1::SendRequest, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// What a backend does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    /// Answers 200 with its name, after this long.
    Answer(Duration),
    /// Closes the connection without an answer.
    HangUp,
    /// Waits for another conduct.
    Hold,
    /// Answers, and lets the bodies of `/stream` wait for another conduct.
    HoldStreams,
    /// Answers with this status, after this long.
    Refuse(StatusCode, Duration),
}

pub(super) const AT_ONCE: Conduct = Conduct::Answer(Duration::ZERO);

/// A backend that answers `/health` by whether it is well, whatever its conduct.
pub(super) struct Node {
    pub(super) name: &'static str,
    url: String,
    seen: Arc<Seen>,
    conduct: watch::Sender<Conduct>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    ill: AtomicBool,
    /// Checks apart.
    requests: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    open: AtomicUsize,
}

impl Node {
    pub(super) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (conduct, conducts) = watch::channel(AT_ONCE);
        let seen = Arc::<Seen>::default();
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, conducts) = (noted.clone(), conducts.clone());
                running.spawn(async move {
                    seen.open.fetch_add(1, Relaxed);
                    let answer = hyper::service::service_fn(|request| {
                        answer(name, request, seen.clone(), conducts.clone())
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                    seen.open.fetch_sub(1, Relaxed);
                });
            }
        });
        Self {
            name,
            url,
            seen,
            conduct,
            task,
        }
    }

    pub(super) async fn start_all<const N: usize>(names: [&'static str; N]) -> Vec<Self> {
        let mut nodes = Vec::new();
        for name in names {
            nodes.push(Self::start(name).await);
        }
        nodes
    }

    pub(super) fn backend(&self) -> Backend {
        Backend::new(self.name, &self.url).unwrap()
    }

    pub(super) fn conduct(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }

    /// Sets how checks are answered.
    pub(super) fn well(&self, well: bool) {
        self.seen.ill.store(!well, Relaxed);
    }

    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(Relaxed)
    }

    /// Returns the most requests that were there at a time.
    pub(super) fn most_at_once(&self) -> usize {
        self.seen.most_at_once.load(Relaxed)
    }

    pub(super) async fn until_open(&self, count: usize) {
        let what = format!("{count} connections to {}", self.name);
        patiently(&what, || self.seen.open.load(Relaxed) == count).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
    seen: Arc<Seen>,
    mut conducts: watch::Receiver<Conduct>,
) -> io::Result<Reply> {
    let say = |status| {
        let mut reply = Response::new(Full::from(name).boxed());
        *reply.status_mut() = status;
        reply
    };
    if request.uri().path() == "/health" {
        return Ok(say(match seen.ill.load(Relaxed) {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        }));
    }
    seen.requests.fetch_add(1, Relaxed);
    if request.uri().path() == "/stream" {
        return Ok(Response::new(stream(conducts).boxed()));
    }
    let at_once = seen.at_once.fetch_add(1, Relaxed) + 1;
    seen.most_at_once.fetch_max(at_once, Relaxed);
    let held = conducts.wait_for(|conduct| *conduct != Conduct::Hold).await;
    let conduct = *held.map_err(io::Error::other)?;
    let reply = match conduct {
        Conduct::Hold | Conduct::HangUp => Err(io::ErrorKind::ConnectionAborted.into()),
        Conduct::HoldStreams => Ok(say(StatusCode::OK)),
        Conduct::Answer(after) => {
            pause(after).await;
            Ok(say(StatusCode::OK))
        }
        Conduct::Refuse(status, after) => {
            pause(after).await;
            Ok(say(status))
        }
    };
    seen.at_once.fetch_sub(1, Relaxed);
    reply
}

/// A body that begins at once and ends when it is no longer held.
fn stream(mut conducts: watch::Receiver<Conduct>) -> Channel<Bytes, Infallible> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        let _ = sender.send_data(Bytes::from_static(b"begun, ")).await;
        let over = |conduct: &Conduct| *conduct != Conduct::HoldStreams;
        let _ = conducts.wait_for(over).await;
        let _ = sender.send_data(Bytes::from_static(b"ended")).await;
    });
    body
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// The stack under a server of its own.
pub(super) struct Edge {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Edge {
    pub(super) async fn open(balancer: LoadBalancer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = evenkeel::serve(listener, balancer).into_future();
        let task = tokio::spawn(async move {
            serve.await.unwrap();
        });
        Self { address, task }
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Sends so many requests from each of so many clients, one after the other.
    pub(super) async fn load(&self, clients: usize, each: usize) -> Tally {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let mut client = self.client().await;
            running.spawn(async move {
                let mut tally = Tally::default();
                for _ in 0..each {
                    tally.count(&client.get("/").await);
                }
                tally
            });
        }
        let tallies = timeout(PATIENCE, running.join_all()).await;
        Tally::sum(tallies.expect("the load must end"))
    }

    /// Keeps so many clients busy until it is ended.
    pub(super) async fn keep_busy(&self, clients: usize) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let mut client = self.client().await;
            let (stop, done) = (stop.clone(), Arc::clone(&done));
            running.spawn(async move {
                let mut tally = Tally::default();
                while !stop.load(Relaxed) {
                    tally.count(&client.get("/").await);
                    done.fetch_add(1, Relaxed);
                    // Others have to do, too.
                    sleep(Duration::from_millis(1)).await;
                }
                tally
            });
        }
        Busy {
            stop,
            done,
            running,
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A load that runs.
pub(super) struct Busy {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    running: JoinSet<Tally>,
}

impl Busy {
    /// Waits until so many more were answered.
    pub(super) async fn more(&self, count: usize) {
        let wanted = self.done.load(Relaxed) + count;
        patiently("more answers", || self.done.load(Relaxed) >= wanted).await;
    }

    pub(super) async fn end(self) -> Tally {
        self.stop.store(true, Relaxed);
        let tallies = timeout(PATIENCE, self.running.join_all()).await;
        Tally::sum(tallies.expect("the load must end"))
    }
}

/// A client with one connection that is kept.
pub(super) struct Client {
    sender: SendRequest<Empty<Bytes>>,
}

/// What a client got.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
    pub(super) retry_after: Option<String>,
    /// The pair alone.
    pub(super) cookie: Option<String>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, header::ACCEPT, "*/*").await
    }

    pub(super) async fn get_with(
        &mut self,
        path: &str,
        name: header::HeaderName,
        value: &str,
    ) -> Answer {
        let answer = async {
            let (head, body) = self.begin(path, name, value).await.into_parts();
            let field = |name| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
            let cookie: Option<String> = field(header::SET_COOKIE);
            let body = body.collect().await.unwrap().to_bytes();
            Answer {
                status: head.status,
                body: String::from_utf8(body.to_vec()).unwrap(),
                retry_after: field(header::RETRY_AFTER),
                cookie: cookie.map(|pair| pair.split(';').next().unwrap().to_owned()),
            }
        };
        timeout(PATIENCE, answer).await.expect("an answer")
    }

    /// Returns what came with the head.
    pub(super) async fn begin(
        &mut self,
        path: &str,
        name: header::HeaderName,
        value: &str,
    ) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        let request = Request::get(path)
            .header(header::HOST, "edge")
            .header(name, value)
            .body(Empty::new())
            .unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    /// Returns the cookie of a new session on one of these backends.
    pub(super) async fn session_on(&mut self, names: &[&str]) -> (String, String) {
        for _ in 0..100 {
            let answer = self.get("/").await;
            if names.contains(&answer.body.as_str()) {
                return (answer.body, answer.cookie.expect("a cookie"));
            }
        }
        panic!("no session on {names:?}");
    }
}

/// How often each backend answered; anything but 200 stands under its status.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    by: BTreeMap<String, usize>,
}

impl Tally {
    fn sum(all: Vec<Self>) -> Self {
        let mut sum = Self::default();
        for (name, count) in all.into_iter().flat_map(|tally| tally.by) {
            *sum.by.entry(name).or_default() += count;
        }
        sum
    }

    pub(super) fn count(&mut self, answer: &Answer) {
        let backend = match answer.status {
            StatusCode::OK => answer.body.clone(),
            status => status.as_str().to_owned(),
        };
        *self.by.entry(backend).or_default() += 1;
    }

    /// Returns how many of these there were.
    pub(super) fn of(&self, names: &[&str]) -> usize {
        names.iter().filter_map(|name| self.by.get(*name)).sum()
    }

    pub(super) fn all(&self) -> usize {
        self.by.values().sum()
    }

    /// In percent.
    pub(super) fn share(&self, names: &[&str]) -> f64 {
        100.0 * self.of(names) as f64 / self.all() as f64
    }

    pub(super) fn answered_by(&self) -> Vec<&str> {
        self.by.keys().map(String::as_str).collect()
    }
}

/// Soon, with a time-out that a machine under load does not reach three times in a row.
pub(super) fn checks() -> Checks {
    Checks::new()
        .interval(Duration::from_millis(400))
        .changing_interval(Duration::from_millis(20))
        .timeout(Duration::from_millis(390))
        .fall(3)
        .rise(1)
}

/// Waits for events of the pool until it is as wanted.
pub(super) async fn until(pool: &Pool, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
    let mut events = pool.subscribe();
    let wait = async {
        while !wanted(&pool.snapshot()) {
            events.next().await.expect("the pool is there");
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what}: {:?}", &*pool.snapshot()));
}

/// Waits for a state that no event announces.
pub(super) async fn patiently(what: &str, wanted: impl Fn() -> bool) {
    let wait = async {
        while !wanted() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("no {what}"));
}

/// For what should be there at once, on a machine that has a lot to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
