//! `MetricsService` over HTTP.

use std::convert::Infallible;

use bytes::Bytes;
use evenkeel::metrics::{Family, Value};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tower::ServiceExt;

use super::*;

fn service() -> MetricsService {
    let pool = Pool::new([Backend::new("a\"\\b", "http://127.0.0.1:1").unwrap()]).unwrap();
    MetricsService::new(Stats::new(pool))
}

async fn ask(
    service: &MetricsService,
    method: Method,
    accept: &str,
) -> (http::response::Parts, Bytes) {
    let request = Request::builder()
        .method(method)
        .uri("/metrics")
        .header("accept", accept)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response: Result<_, Infallible> = service.clone().oneshot(request).await;
    let (head, body) = response.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_format_is_the_client_s_choice() {
    let service = service();
    let (head, body) = ask(&service, Method::GET, "*/*").await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(
        head.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert_eq!(head.headers["content-length"], body.len().to_string());
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("# TYPE evenkeel_requests_total counter\n"));
    assert!(!text.contains("# EOF"));
    let (head, body) = ask(
        &service,
        Method::GET,
        "application/openmetrics-text;version=1.0.0",
    )
    .await;
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(head.headers["content-type"], open);
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("# TYPE evenkeel_requests counter\n"));
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("backend=\"a\\\"\\\\b\""), "an id is escaped");
}

#[tokio::test]
async fn head_has_no_body_and_others_are_refused() {
    let service = service();
    let (head, body) = ask(&service, Method::HEAD, "*/*").await;
    assert_eq!((head.status, body.len()), (StatusCode::OK, 0));
    assert_ne!(head.headers["content-length"], "0");
    for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
        let (head, body) = ask(&service, method, "*/*").await;
        assert_eq!(head.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(
            (&head.headers["allow"], body.len()),
            (&"GET, HEAD".parse().unwrap(), 0)
        );
    }
}

#[tokio::test]
async fn a_source_adds_series_of_the_program() {
    let service = service().source(|visitor| {
        let family = Family::gauge("app_certificate_expiry_seconds", "Expiry.").unit("seconds");
        visitor.family(&family);
        visitor.sample(&[("name", "a\nb")], &Value::Gauge(1.5));
    });
    let text = service.text();
    assert!(text.ends_with(
        "# HELP app_certificate_expiry_seconds Expiry.\n\
         # TYPE app_certificate_expiry_seconds gauge\n\
         app_certificate_expiry_seconds{name=\"a\\nb\"} 1.5\n"
    ));
    assert!(
        service
            .open_metrics()
            .contains("# UNIT app_certificate_expiry_seconds seconds\n")
    );
}
