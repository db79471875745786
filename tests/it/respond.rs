mod grpc;
mod layers;

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use evenkeel::{Error, ErrorKind, context::Exchange, respond::RespondLayer};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

fn failing(
    kind: ErrorKind,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Error, Future: Send> + Clone
{
    service_fn(move |_: Request<()>| async move {
        Err(Error::new(kind)
            .with_source("secret")
            .with_retry_after(Duration::from_millis(1_500)))
    })
}

#[tokio::test]
async fn alone_around_a_foreign_service_it_answers_for_what_fails() {
    let mut request = Request::new(());
    let exchange = Exchange::of(request.extensions_mut());
    let service = RespondLayer::new().layer(failing(ErrorKind::NoBackend));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "2", "rounded up");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["content-length"], "24");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        text, "503 Service Unavailable\n",
        "the response has no details of the failure"
    );
    assert_eq!(exchange.failure(), Some(ErrorKind::NoBackend));
}

#[tokio::test]
async fn a_foreign_error_is_a_bad_gateway_and_head_has_no_body() {
    let service = service_fn(|_: Request<()>| async {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("boom"))
    });
    let mut request = Request::new(());
    *request.method_mut() = Method::HEAD;
    let response = RespondLayer::new()
        .layer(service)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()["content-length"], "16");
    assert!(http_body::Body::is_end_stream(response.body()));
}

#[tokio::test]
async fn pages_may_be_ones_own_and_responses_pass() {
    let layer = RespondLayer::new()
        .body("text/html", |status| {
            Bytes::from(format!("<h1>{status}</h1>"))
        })
        .unwrap();
    let response = layer
        .layer(failing(ErrorKind::Connect))
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/html");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "<h1>502 Bad Gateway</h1>");
    let fine = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::from("fine")))
    });
    let response = layer.layer(fine).oneshot(Request::new(())).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "fine"
    );
    assert!(RespondLayer::new().body("a\nb", |_| Bytes::new()).is_err());
}
