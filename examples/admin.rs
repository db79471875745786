//! The operator's page of a pool: three backends of its own, the whole stack in front of them, a client
//! that keeps them busy, and a listener for operators with `/status`, `/metrics`, `/live` and `/ready`.
//!
//! ```sh
//! cargo run --features full --example admin
//! # open the printed page; the token is printed, too. Or:
//! curl -H 'authorization: Bearer open-sesame-0123456789' -d deadline=1m \
//!     http://127.0.0.1:9900/backends/b/drain
//! curl -s http://127.0.0.1:9900/status.json
//! curl -X POST http://127.0.0.1:3000/break       # one backend fails its checks; again to recover
//! ```
#![expect(clippy::print_stdout, reason = "an example prints its addresses")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
    routing::{get, post},
};
use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    admin::Admin,
    endpoints::{EndpointsLayer, Readiness},
    health::{Checks, HealthLayer},
    metrics::{MetricsLayer, MetricsService},
    pool::Locality,
    stats::Stats,
    sticky::{Keys, StickyLayer},
};
use http_body_util::BodyExt;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{interval, sleep},
};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = Pool::new([
        backend("a", 4).await?.locality(Locality::new("eu/1a")?),
        backend("b", 9).await?.locality(Locality::new("eu/1b")?),
        backend("c", 25).await?.weight(2)?.max_in_flight(100)?,
    ])?;
    let stats = Stats::new(pool.clone());
    let checks = Checks::new().interval(Duration::from_millis(500));
    let checks = checks.timeout(Duration::from_millis(400));
    let balancer = LoadBalancer::builder(pool.clone())
        .metrics(MetricsLayer::new(stats.clone()))?
        .sticky(StickyLayer::new(pool.clone(), Keys::new(random_key())).insecure()?)?
        .health(HealthLayer::new(pool.clone()).checks(checks)?)?
        .build();

    // For operators: a listener that clients cannot reach. A real token comes from a secret store.
    let admin = Admin::new(pool.clone())
        .name("example")
        .stats(stats.clone())?
        .metrics(MetricsService::new(stats))
        .token("example", TOKEN)?;
    let readiness = Readiness::new(pool);
    let operators = EndpointsLayer::new(readiness.clone()).layer(admin.clone());

    let (front, back) = (listen(3000).await?, listen(9900).await?);
    println!("requests: http://{}", front.local_addr()?);
    println!("page:     http://{}/status", back.local_addr()?);
    println!("token:    {TOKEN}");
    for number in 0..8 {
        tokio::spawn(client(balancer.clone(), number));
    }

    let (stop, stopped) = watch::channel(());
    let front = evenkeel::serve(front, balancer).shutdown(stop_signal(stopped.clone()));
    let back = evenkeel::serve(back, operators).shutdown(stop_signal(stopped));
    let terminated = async move {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        readiness.fail("shutting down");
        // The pages of operators would hold the server until its drain time-out.
        admin.close();
        drop(stop);
        Ok(())
    };
    tokio::try_join!(front, back, terminated)?;
    Ok(())
}

/// Starts a backend whose responses take about this long.
async fn backend(id: &'static str, millis: u64) -> Result<Backend, BoxError> {
    let listener = listen(0).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let is_broken = Arc::new(AtomicBool::new(false));
    let (of_health, of_toggle) = (is_broken.clone(), is_broken);
    let health = move || async move {
        match of_health.load(Relaxed) {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        }
    };
    let toggle = move || async move {
        let was_broken = of_toggle.fetch_xor(true, Relaxed);
        format!(
            "{id} {}\n",
            if was_broken { "recovers" } else { "is broken" }
        )
    };
    let hello = move || async move {
        let spread = fastrand::u64(0..=millis);
        sleep(Duration::from_millis(millis / 2 + spread)).await;
        match fastrand::u32(0..400) {
            0 => (StatusCode::INTERNAL_SERVER_ERROR, "no luck\n".to_owned()),
            _ => (StatusCode::OK, format!("hello from {id}\n")),
        }
    };
    let app = Router::new()
        .route("/health", get(health))
        .route("/break", post(toggle))
        .fallback(get(hello));
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(Backend::new(id, &url)?)
}

/// Sends requests of sessions of its own, each of which ends after a while.
async fn client(mut balancer: LoadBalancer, number: u64) {
    let mut cookie = None;
    let mut tick = interval(Duration::from_millis(40 + 10 * number));
    loop {
        tick.tick().await;
        let mut request = Request::new(Body::empty());
        if let Some(cookie) = cookie.take_if(|_| fastrand::u32(0..20) > 0) {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let sent = request.headers().get(header::COOKIE).cloned();
        let response = balancer.send(request).await;
        let set = response.headers().get(header::SET_COOKIE);
        let pair = set.and_then(|set| set.as_bytes().split(|&b| b == b';').next());
        cookie = pair.and_then(|pair| pair.try_into().ok()).or(sent);
        // A response that is not read to its end would count as given up.
        let _ = response.into_body().collect().await;
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(at(port)).await {
        Ok(listener) => Ok(listener),
        // Another program has the port.
        Err(_) => TcpListener::bind(at(0)).await,
    }
}

fn random_key() -> [u8; 32] {
    std::array::from_fn(|_| fastrand::u8(..))
}

async fn stop_signal(mut stopped: watch::Receiver<()>) {
    // Ends when the sender is dropped.
    while stopped.changed().await.is_ok() {}
}

const TOKEN: &str = "open-sesame-0123456789";
