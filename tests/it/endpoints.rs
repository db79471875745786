use std::convert::Infallible;

use evenkeel::{
    Backend, Pool,
    endpoints::{Endpoints, EndpointsLayer, Readiness},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
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
async fn ready_means_that_it_can_route() {
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
    pool.maintenance("a").unwrap();
    let (status, text) = ask(&readiness, "GET", "/ready").await;
    assert_eq!(status, 503);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["reasons"][0], "no usable backend");
    pool.ready("a").unwrap();
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
async fn alone_in_front_of_a_foreign_service_it_answers_its_own_paths() {
    let (_pool, readiness) = readiness();
    let inner = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("inner"))))
    });
    let service = EndpointsLayer::new(readiness).layer(inner);
    for (path, wanted) in [
        ("/live", "{\"live\":true}\n"),
        ("/lively", "inner"),
        ("/", "inner"),
    ] {
        let request = Request::get(path).body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, wanted);
    }
}
