//! What an operator orders, over real sockets: drain, maintenance, evacuation, and their undoing.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    pool::{Drained, Locality},
    sticky::StickyLayer,
};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;

use super::{quiet, sticky};

/// A backend that says its name, after a while where `/slow` is asked for; it knows how many
/// connections are open.
struct Counted {
    url: String,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Counted {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                counted.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let answer = service_fn(move |request: Request<Incoming>| async move {
                        if request.uri().path() == "/slow" {
                            sleep(SLOW).await;
                        }
                        Ok::<_, Infallible>(Response::new(name.to_owned()))
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                    counted.fetch_sub(1, Relaxed);
                });
            }
        });
        Self { url, open, task }
    }

    async fn until_open(&self, count: usize) {
        let closed = async {
            while self.open.load(Relaxed) != count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let closed = timeout(PATIENCE, closed).await;
        closed.unwrap_or_else(|_| panic!("{} are open, {count} wanted", self.open.load(Relaxed)));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Stage {
    backends: Vec<Counted>,
    pool: Pool,
    balancer: LoadBalancer,
}

impl Stage {
    async fn set() -> Self {
        let mut backends = Vec::new();
        let mut members = Vec::new();
        for (name, place) in [("a", "eu/eu-1"), ("b", "eu/eu-2"), ("c", "us/us-1")] {
            let backend = Counted::start(name).await;
            let member = Backend::new(name, &backend.url).unwrap();
            members.push(member.locality(Locality::new(place).unwrap()));
            backends.push(backend);
        }
        let pool = Pool::new(members).unwrap();
        let sticky: StickyLayer = sticky(&pool);
        let balancer = LoadBalancer::builder(pool.clone())
            .sticky(sticky)
            .unwrap()
            .health(quiet(&pool))
            .unwrap()
            .build();
        Self {
            backends,
            pool,
            balancer,
        }
    }

    /// Returns the backend that answered, and the cookie, if a new one was set.
    async fn ask(&self, path: &str, cookie: &str) -> (String, Option<String>) {
        let request = Request::get(path)
            .header(header::HOST, "a")
            .header(header::COOKIE, cookie)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = self.balancer.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let set = response.headers().get(header::SET_COOKIE);
        let set = set.map(|v| v.to_str().unwrap().split(';').next().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), set)
    }

    /// Returns the cookie of a new session on this backend.
    async fn session_on(&self, name: &str) -> String {
        for _ in 0..9 {
            let (from, cookie) = self.ask("/", "").await;
            if from == name {
                return cookie.unwrap();
            }
        }
        panic!("no session on {name}");
    }

    async fn strangers(&self) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..9 {
            names.push(self.ask("/", "").await.0);
        }
        names.sort();
        names.dedup();
        names
    }
}

#[tokio::test]
async fn a_drained_backend_keeps_its_sessions_until_the_deadline_and_then_none() {
    let stage = Stage::set().await;
    let cookie = stage.session_on("a").await;
    let deadline = Duration::from_millis(700);
    let began = Instant::now();
    let drain = stage.pool.drain("a", deadline).unwrap();
    assert_eq!(stage.strangers().await, ["b", "c"], "no new client");
    let (from, set) = stage.ask("/", &cookie).await;
    if began.elapsed() < deadline {
        assert_eq!((from.as_str(), set), ("a", None), "a session stays");
    }
    sleep(deadline.saturating_sub(began.elapsed())).await;
    let (from, set) = stage.ask("/", &cookie).await;
    assert_ne!(from, "a", "and goes at the deadline");
    let moved = set.expect("with a cookie of the new home");
    for _ in 0..4 {
        let (again, set) = stage.ask("/", &moved).await;
        assert_eq!((again, set), (from.clone(), None), "once");
    }
    drop(drain);
    stage.pool.mark_ready("a").unwrap();
    assert_eq!(stage.strangers().await, ["a", "b", "c"], "undone");
}

#[tokio::test]
async fn a_drain_closes_what_is_idle_and_ends_with_what_runs() {
    let stage = Arc::new(Stage::set().await);
    let cookie = stage.session_on("a").await;
    let slow = {
        let (stage, cookie) = (stage.clone(), cookie.clone());
        tokio::spawn(async move { stage.ask("/slow", &cookie).await })
    };
    // One that runs, and one idle: a second connection, as the first is busy.
    let busy = async {
        while stage.pool.snapshot().get("a").unwrap().in_flight() == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
    stage.ask("/", &cookie).await;
    stage.backends[0].until_open(2).await;

    let drain = stage.pool.drain("a", PATIENCE).unwrap();
    stage.backends[0].until_open(1).await;
    assert_eq!(drain.await, Drained::Empty, "it ends when the request does");
    assert_eq!(slow.await.unwrap().0, "a", "what began must end");
    stage.backends[0].until_open(0).await;

    // Undone while a task waits for its end.
    let slow = {
        let (stage, cookie) = (stage.clone(), cookie.clone());
        stage.pool.mark_ready("a").unwrap();
        tokio::spawn(async move { stage.ask("/slow", &cookie).await })
    };
    stage.backends[0].until_open(1).await;
    let drain = stage.pool.drain("a", PATIENCE).unwrap();
    stage.pool.mark_ready("a").unwrap();
    assert_eq!(drain.await, Drained::Undone);
    assert_eq!(slow.await.unwrap().0, "a");
}

#[tokio::test]
async fn maintenance_moves_sessions_at_once_and_closes_what_is_idle() {
    let stage = Stage::set().await;
    let cookie = stage.session_on("a").await;
    stage.pool.start_maintenance("a").unwrap();
    stage.backends[0].until_open(0).await;
    let (from, set) = stage.ask("/", &cookie).await;
    assert_ne!(from, "a");
    assert!(set.is_some(), "it has a new home");
    assert_eq!(stage.strangers().await, ["b", "c"]);
    stage.pool.mark_ready("a").unwrap();
    assert_eq!(stage.strangers().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_evacuated_region_is_left_at_once_and_nothing_stays_behind() {
    let stage = Arc::new(Stage::set().await);
    let cookies = [stage.session_on("a").await, stage.session_on("b").await];
    let slow = {
        let (stage, cookie) = (stage.clone(), cookies[0].clone());
        tokio::spawn(async move { stage.ask("/slow", &cookie).await })
    };
    let busy = async {
        while stage.pool.snapshot().get("a").unwrap().in_flight() == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
    let europe = Locality::new("eu").unwrap();
    assert_eq!(stage.pool.evacuate(&europe), 2);
    assert_eq!(stage.strangers().await, ["c"]);
    for cookie in cookies {
        let (from, set) = stage.ask("/", &cookie).await;
        assert_eq!(from, "c");
        let (from, set) = stage.ask("/", &set.unwrap()).await;
        assert_eq!((from.as_str(), set), ("c", None), "moved once");
    }
    assert_eq!(slow.await.unwrap().0, "a", "what began must end");
    for backend in &stage.backends[..2] {
        backend.until_open(0).await;
    }
    stage.pool.restore(&europe);
    assert_eq!(stage.strangers().await, ["a", "b", "c"]);
}

/// What a slow answer takes.
const SLOW: Duration = Duration::from_millis(500);
/// For what should be there at once, on a machine that has a lot to do.
const PATIENCE: Duration = Duration::from_secs(60);
