//! `HstsLayer` and `HttpsRedirectLayer`, each alone around a service of another crate.

use evenkeel::tls::{HstsLayer, HttpsRedirectLayer};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;

use super::*;

#[tokio::test]
async fn hsts_is_sent_over_tls_alone() {
    let plain = HstsLayer::new();
    let long = HstsLayer::new()
        .max_age(Duration::from_secs(63_072_000))
        .include_subdomains(true)
        .preload(true);
    for (layer, conn, value) in [
        (&plain, Some(over_tls()), Some("max-age=31536000")),
        (
            &long,
            Some(over_tls()),
            Some("max-age=63072000; includeSubDomains; preload"),
        ),
        (&plain, Some(cleartext()), None),
        (&plain, None, None),
    ] {
        let service = layer.layer(service_fn(|_| async { ok(Response::builder()) }));
        let response = service.oneshot(request("/", conn)).await.unwrap();
        let seen = response.headers().get(header::STRICT_TRANSPORT_SECURITY);
        assert_eq!(seen.map(|v| v.to_str().unwrap()), value);
    }
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn the_balancers_own_errors_have_hsts_too() {
    use evenkeel::{Backend, LoadBalancer, Pool};

    let url = format!("http://{}", crate::support::refused());
    let pool = Pool::new([Backend::new("a", &url).unwrap()]).unwrap();
    let service = HstsLayer::new().layer(LoadBalancer::builder(pool).build());
    let mut request = Request::get("/").header("host", "a.test");
    request.extensions_mut().unwrap().insert(over_tls());
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let seen = &response.headers()[header::STRICT_TRANSPORT_SECURITY];
    assert_eq!(seen, "max-age=31536000");
}

#[tokio::test]
async fn the_applications_own_hsts_is_left() {
    let service = HstsLayer::new().layer(service_fn(|_| async {
        ok(Response::builder().header(header::STRICT_TRANSPORT_SECURITY, "max-age=0"))
    }));
    let response = service
        .oneshot(request("/", Some(over_tls())))
        .await
        .unwrap();
    let all = response
        .headers()
        .get_all(header::STRICT_TRANSPORT_SECURITY);
    assert_eq!(all.iter().collect::<Vec<_>>(), ["max-age=0"]);
}

#[tokio::test]
async fn cleartext_is_redirected_and_tls_is_served() {
    let service = HttpsRedirectLayer::new()
        .port(8443)
        .layer(service_fn(|_| async { ok(Response::builder()) }));
    for (path, conn, status, location) in [
        (
            "/a?b",
            Some(cleartext()),
            308,
            Some("https://a.test:8443/a?b"),
        ),
        ("/a?b", None, 308, Some("https://a.test:8443/a?b")),
        ("/a?b", Some(over_tls()), 200, None),
        (
            "/.well-known/acme-challenge/x",
            Some(cleartext()),
            200,
            None,
        ),
        (
            "/.well-known/other",
            None,
            308,
            Some("https://a.test:8443/.well-known/other"),
        ),
    ] {
        let mut request = request(path, conn);
        *request.method_mut() = Method::POST;
        request
            .headers_mut()
            .insert(header::HOST, "a.test".parse().unwrap());
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let seen = response.headers().get(header::LOCATION);
        assert_eq!(seen.map(|v| v.to_str().unwrap()), location, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, if status == 200 { "inner" } else { "" });
    }
    let bad = service.oneshot(request("/", None)).await.unwrap();
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST, "no Host");
    let body = bad.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"The request names no valid host"));
}

fn ok(response: http::response::Builder) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(response.body(Full::from("inner")).unwrap())
}

fn request(path: &str, conn: Option<ConnInfo>) -> Request<()> {
    let mut request = Request::get(path).body(()).unwrap();
    if let Some(conn) = conn {
        request.extensions_mut().insert(conn);
    }
    request
}

fn cleartext() -> ConnInfo {
    ConnInfo::new(Peer::Unknown, Peer::Unknown)
}

fn over_tls() -> ConnInfo {
    let conn = cleartext();
    conn.set_tls(TlsInfo::default());
    conn
}
