//! The whole stack in one process: three backends, a certificate, TLS, sticky sessions, health
//! checks and failover. One backend dies and comes back while requests flow.
//!
//! ```sh
//! cargo run --features full --example quickstart
//! curl -k https://127.0.0.1:8443/                       # again and again: round robin
//! curl -k -c jar -b jar https://127.0.0.1:8443/         # with the cookie: one node
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    access_log::{AccessLogLayer, JsonLines},
    health::{Checks, HealthLayer},
    pool::EventKind,
    sticky::{Keys, StickyLayer},
    tls::{Certificate, Certificates, HstsLayer, HttpsRedirectLayer, TlsConfig, TlsLayer},
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{interval, sleep},
};
use tower::{Layer, ServiceExt};

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut nodes = Vec::new();
    for name in ["node-a", "node-b", "node-c"] {
        nodes.push(Node::start(name, (Ipv4Addr::LOCALHOST, 0).into()).await?);
    }
    let backends = nodes
        .iter()
        .map(|node| Backend::new(node.name, &format!("http://{}", node.address)));
    let pool = Pool::new(backends.collect::<Result<Vec<_>, _>>()?)?;

    let log =
        std::env::temp_dir().join(format!("evenkeel-quickstart-{}.jsonl", std::process::id()));
    let key: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
    let checks = Checks::new()
        .interval(Duration::from_secs(1))
        .timeout(Duration::from_millis(500));
    let balancer = LoadBalancer::builder(pool.clone())
        .access_log(AccessLogLayer::new(JsonLines::file(&log)?).node("quickstart"))
        .sticky(StickyLayer::new(pool.clone(), Keys::new(key)))
        .health(HealthLayer::new(pool.clone()).checks(checks)?)
        .build();

    let secure = listener(8443).await?;
    let https = secure.local_addr()?;
    let clear = listener(8080).await?;
    let http = clear.local_addr()?;
    let app = HstsLayer::new().layer(balancer.clone());
    let tls = TlsLayer::new(TlsConfig::new(self_signed()?));
    tokio::spawn(evenkeel::serve(secure, app).layer(tls).into_future());
    let redirect = HttpsRedirectLayer::new()
        .port(https.port())
        .layer(balancer.clone());
    tokio::spawn(evenkeel::serve(clear, redirect).into_future());

    greet(https, http, &log.display().to_string());
    tokio::spawn(tell(pool));
    let tally = Tally::default();
    tokio::spawn(traffic(balancer, tally.clone()));
    tokio::select! {
        result = experiment(&mut nodes[1], tally.clone()) => result?,
        () = ended()? => {}
    }
    ended()?.await;
    say(&format!("\nbye: {}", tally.line()));
    Ok(())
}

/// Stops a backend under load, and brings it back.
async fn experiment(node: &mut Node, tally: Tally) -> Result<(), BoxError> {
    let watch = async |seconds: u32| {
        for _ in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            say(&format!("            {}", tally.line()));
        }
    };
    watch(3).await;
    node.stop();
    say(&format!(
        "  {} stopped: its connections are gone, its port refuses",
        node.name
    ));
    watch(5).await;
    *node = Node::start(node.name, node.address).await?;
    say(&format!("  {} started again", node.name));
    watch(5).await;
    let failed = tally.failed();
    say(&format!(
        "\n{}: {failed} of {} requests failed. Still serving; Ctrl-C ends it.",
        if failed == 0 { "done" } else { "WRONG" },
        tally.total(),
    ));
    Ok(())
}

/// Twenty requests a second, with the load balancer as a client.
async fn traffic(balancer: LoadBalancer, tally: Tally) {
    let mut ticks = interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        let (balancer, tally) = (balancer.clone(), tally.clone());
        tokio::spawn(async move {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = http::Uri::from_static("http://quickstart/");
            let Ok(response) = balancer.oneshot(request).await;
            let status = response.status();
            let name = response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            match name {
                Ok(name) if status == StatusCode::OK => {
                    let name = String::from_utf8_lossy(&name);
                    tally.count(name.split_whitespace().last().unwrap_or("?"));
                }
                _ => tally.count(FAILED),
            }
        });
    }
}

/// What the pool says of itself.
async fn tell(pool: Pool) {
    let mut events = pool.subscribe();
    drop(pool);
    while let Some(event) = events.next().await {
        if let EventKind::Health(change) = event.kind {
            say(&format!(
                "  {} is {} ({})",
                event.backend.id(),
                change.to.as_str(),
                change.reason
            ));
        }
    }
}

fn greet(https: SocketAddr, http: SocketAddr, log: &str) {
    say(&format!(
        "evenkeel balances over three nodes.\n\n\
         \x20 https://{https}/    (http://{http}/ redirects to it)\n\n\
         Try, in another terminal:\n\n\
         \x20 curl -k https://{https}/                       # again and again: round robin\n\
         \x20 curl -k -c jar -b jar https://{https}/         # keeps its cookie: one node\n\
         \x20 curl -ki http://{http}/                        # 308 to https\n\
         \x20 tail -f {log}\n\n\
         Meanwhile 20 requests a second flow, and one node dies and comes back:\n"
    ));
}

/// One backend: an application of its own, with a health page.
struct Node {
    name: &'static str,
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Node {
    async fn start(name: &'static str, address: SocketAddr) -> Result<Self, BoxError> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let app = Router::new()
            .route("/health", get(|| async { "fine\n" }))
            .fallback(move || async move { format!("hello from {name}\n") });
        let task = tokio::spawn(evenkeel::serve(listener, app).into_future());
        Ok(Self {
            name,
            address,
            task,
        })
    }

    /// Cuts everything off, as a crash does.
    fn stop(&self) {
        self.task.abort();
    }
}

/// Requests by who answered.
#[derive(Clone, Default)]
struct Tally {
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Tally {
    fn count(&self, name: &str) {
        *self.lock().entry(name.to_owned()).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    fn failed(&self) -> u64 {
        self.lock().get(FAILED).copied().unwrap_or(0)
    }

    fn line(&self) -> String {
        let counts = self.lock();
        let parts = ["node-a", "node-b", "node-c", FAILED]
            .map(|name| format!("{name} {:>4}", counts.get(name).copied().unwrap_or(0)));
        parts.join("   ")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FAILED: &str = "failed";

/// The usual port, or a free one where that is taken.
async fn listener(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    }
}

fn self_signed() -> Result<Certificates, BoxError> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let pem = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
    Ok(Certificates::new([pem])?)
}

/// Ends with Ctrl-C or SIGTERM.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
fn say(text: &str) {
    println!("{text}");
}
