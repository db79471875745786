use std::{
    convert::Infallible,
    future::IntoFuture,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::Router;
use evenkeel::{
    Backend, Pool,
    endpoints::{Dependency, Endpoints, EndpointsLayer, HealthService, Readiness},
    health::{Checks, Prober},
    pool::{EventKind, Events, HealthStatus},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::{Layer, ServiceExt, service_fn};

fn readiness() -> (Pool, Readiness) {
    let pool = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    (pool.clone(), Readiness::new(pool))
}

async fn ask(readiness: &Readiness, method: &str, path: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(())
        .unwrap();
    let response = Endpoints::new(readiness.clone())
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

#[tokio::test]
async fn ready_means_that_a_backend_is_usable() {
    let (pool, readiness) = readiness();
    assert_eq!(ask(&readiness, "GET", "/live").await.0, 200);
    let (status, text) = ask(&readiness, "GET", "/ready").await;
    assert_eq!(
        (status, text.as_str()),
        (
            200,
            "{\"ready\":true,\"usable\":1,\"backends\":1,\"reasons\":[]}\n"
        )
    );
    pool.start_maintenance("a").unwrap();
    let (status, text) = ask(&readiness, "GET", "/ready").await;
    assert_eq!(status, 503);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["reasons"][0], "no usable backend");
    pool.mark_ready("a").unwrap();
    let prober = pool.attach_prober();
    assert!(
        ask(&readiness, "GET", "/ready")
            .await
            .1
            .contains("first check")
    );
    drop(prober);
    assert_eq!(
        ask(&readiness, "HEAD", "/ready").await,
        (200, String::new())
    );
    assert_eq!(ask(&readiness, "POST", "/ready").await.0, 405);
    assert_eq!(ask(&readiness, "GET", "/metrics").await.0, 404);
}

#[tokio::test]
async fn a_shutdown_fails_readiness_first_and_liveness_never() {
    let (_pool, readiness) = readiness();
    readiness.fail("a \"reason\"\n");
    let (status, text) = ask(&readiness, "GET", "/ready").await;
    assert_eq!(status, 503);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["reasons"][0], "a \"reason\"\n");
    assert_eq!(ask(&readiness, "GET", "/live").await.0, 200);
    readiness.restore("a \"reason\"\n");
    assert_eq!(ask(&readiness, "GET", "/ready").await.0, 200);
}

#[tokio::test]
async fn in_front_of_a_service_of_another_crate_it_responds_to_its_own_paths() {
    let (_pool, readiness) = readiness();
    let inner = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("inner"))))
    });
    let (both, moved) = (EndpointsLayer::new(readiness.clone()), "/-/ready");
    let live = "{\"live\":true}\n";
    let ready = "{\"ready\":true,\"usable\":1,\"backends\":1,\"reasons\":[]}\n";
    for (layer, path, wanted) in [
        (both.clone(), "/live", live),
        (both.clone(), "/ready", ready),
        (both.clone(), "/lively", "inner"),
        (both.clone(), "/", "inner"),
        (both.clone().ready_path(moved).unwrap(), moved, ready),
        (both.clone().ready_path(moved).unwrap(), "/ready", "inner"),
        (both.clone().no_live(), "/live", "inner"),
        (both.clone().no_live(), "/ready", ready),
        (both.no_live().no_ready(), "/ready", "inner"),
    ] {
        let request = Request::get(path).body(()).unwrap();
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, wanted, "{path}");
    }
    for path in ["", "ready", "/re ady", "/ready?x", "/ready#x"] {
        let error = EndpointsLayer::new(readiness.clone()).ready_path(path);
        assert_eq!(error.unwrap_err().field(), "ready", "{path:?}");
    }
}

/// An application in axum whose health depends on a listener at `database`.
async fn application(database: SocketAddr, runs: &Arc<AtomicUsize>) -> (SocketAddr, HealthService) {
    let runs = runs.clone();
    let connect = move || {
        runs.fetch_add(1, Relaxed);
        async move { TcpStream::connect(database).await.map(drop) }
    };
    let health = HealthService::new([Dependency::new("database", connect).unwrap()])
        .and_then(|health| health.cache(Duration::from_millis(50)))
        .unwrap();
    let app = Router::new().route_service("/health", health.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    (address, health)
}

/// Accepts connections and never writes.
async fn database(address: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async move { while listener.accept().await.is_ok() {} };
    (address, tokio::spawn(accepting))
}

async fn becomes(events: &mut Events, id: &str, to: HealthStatus) -> String {
    let change = async {
        loop {
            let event = events.next().await.unwrap();
            match event.kind {
                EventKind::Health(change) if event.backend.id() == id && change.to == to => {
                    return change.reason.to_string();
                }
                _ => {}
            }
        }
    };
    let change = timeout(Duration::from_secs(30), change).await;
    change.expect("health must change")
}

#[tokio::test]
async fn a_backend_is_down_while_its_database_is() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let (own, accepting) = database(anywhere).await;
    let (other, _other) = database(anywhere).await;
    let runs = Arc::default();
    let (a, _) = application(own, &runs).await;
    let (b, _) = application(other, &Arc::default()).await;
    let member = |id, address| Backend::new(id, &format!("http://{address}")).unwrap();
    let pool = Pool::new([member("a", a), member("b", b)]).unwrap();
    let mut events = pool.subscribe();
    let checks = Checks::new()
        .interval(Duration::from_secs(1))
        .changing_interval(Duration::from_millis(20))
        .timeout(Duration::from_millis(900));
    let _prober = Prober::start(&pool, checks).unwrap();
    becomes(&mut events, "a", HealthStatus::Healthy).await;
    assert!(runs.load(Relaxed) > 0, "the check must reach the database");

    accepting.abort();
    assert!(accepting.await.unwrap_err().is_cancelled());
    let reason = becomes(&mut events, "a", HealthStatus::Unhealthy).await;
    assert!(reason.starts_with("L7STS"), "{reason}");
    let usable = |pool: &Pool, id: &str| pool.snapshot().get(id).unwrap().is_usable();
    assert!(!usable(&pool, "a") && usable(&pool, "b"));

    let (_, _again) = database(own).await;
    becomes(&mut events, "a", HealthStatus::Healthy).await;
    assert!(usable(&pool, "a"));
}
