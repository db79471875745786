use std::convert::Infallible;

use evenkeel::{
    Backend, Pool,
    context::{ConnInfo, Exchange, Peer, StickyVerdict},
    sticky::{Keys, StickyLayer},
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, Service, ServiceExt, service_fn};

fn pool() -> Pool {
    Pool::new(["a", "b", "c"].map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap())).unwrap()
}

fn layer(pool: &Pool) -> StickyLayer {
    StickyLayer::new(pool.clone(), Keys::new([7; 32]))
}

/// A balancer of another crate: honours the affinity, else takes the backend with this id.
fn foreign(
    pool: Pool,
    otherwise: &'static str,
) -> impl Service<Request<()>, Response = Response<String>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |mut request: Request<()>| {
        let exchange = Exchange::of(request.extensions_mut());
        let backend = match exchange.affinity() {
            Some(affinity) if affinity.backend.is_usable() => affinity.backend,
            _ => pool.snapshot().get(otherwise).unwrap().clone(),
        };
        exchange.begin_attempt(backend.clone());
        let seen = format!(
            "{:?}",
            request
                .headers()
                .get_all("cookie")
                .iter()
                .collect::<Vec<_>>()
        );
        let mut response = Response::new(seen);
        let id = HeaderValue::from_str(backend.id()).unwrap();
        response.headers_mut().insert("x-backend", id);
        response
            .headers_mut()
            .insert(header::SET_COOKIE, HeaderValue::from_static("theirs=1"));
        async move { Ok(response) }
    })
}

fn request(cookie: Option<&str>) -> Request<()> {
    let mut request = Request::new(());
    if let Some(cookie) = cookie {
        request
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
    }
    request
}

fn set_cookies(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::SET_COOKIE)
        .iter()
        .map(|v| v.to_str().unwrap())
        .collect()
}

fn pair(headers: &HeaderMap) -> String {
    let all = set_cookies(headers);
    let ours = all
        .iter()
        .find(|c| c.starts_with("PROXY_SERVER_ID="))
        .expect("the cookie of the layer");
    ours.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn around_a_balancer_of_another_crate_it_keeps_the_session() {
    let pool = pool();
    let first = layer(&pool)
        .layer(foreign(pool.clone(), "b"))
        .oneshot(request(None))
        .await
        .unwrap();
    let cookies = set_cookies(first.headers());
    assert_eq!(cookies[0], "theirs=1", "the backend's own cookie must stay");
    assert!(
        cookies[1].ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax"),
        "{cookies:?}"
    );
    assert_eq!(first.headers()["cache-control"], "private");

    let cookie = format!("x=1; {}; y=\"2\"", pair(first.headers()));
    let sticky = layer(&pool).layer(foreign(pool.clone(), "c"));
    let again = sticky.oneshot(request(Some(&cookie))).await.unwrap();
    assert_eq!(again.headers()["x-backend"], "b");
    assert_eq!(
        set_cookies(again.headers()),
        ["theirs=1"],
        "a current cookie must not be renewed"
    );
    assert!(!again.headers().contains_key("cache-control"));
    assert_eq!(
        again.body(),
        r#"["x=1; y=\"2\""]"#,
        "the backend must not see the cookie"
    );
}

#[tokio::test]
async fn a_session_whose_backend_is_down_moves_and_stays() {
    let pool = pool();
    let first = layer(&pool)
        .layer(foreign(pool.clone(), "b"))
        .oneshot(request(None))
        .await
        .unwrap();
    pool.start_maintenance("b").unwrap();
    let sticky = layer(&pool).layer(foreign(pool.clone(), "c"));
    let moved = sticky
        .clone()
        .oneshot(request(Some(&pair(first.headers()))))
        .await
        .unwrap();
    assert_eq!(moved.headers()["x-backend"], "c");
    let new = pair(moved.headers());
    assert_ne!(new, pair(first.headers()));
    pool.mark_ready("b").unwrap();
    let stayed = sticky.oneshot(request(Some(&new))).await.unwrap();
    assert_eq!(
        stayed.headers()["x-backend"],
        "c",
        "a session must not move back"
    );
}

#[tokio::test]
async fn a_key_that_was_rotated_keeps_the_session_and_renews_the_cookie() {
    let pool = pool();
    let first = layer(&pool)
        .layer(foreign(pool.clone(), "b"))
        .oneshot(request(None))
        .await
        .unwrap();
    let rotated = StickyLayer::new(pool.clone(), Keys::new([9; 32]).with_older_key([7; 32]));
    let kept = rotated
        .layer(foreign(pool.clone(), "c"))
        .oneshot(request(Some(&pair(first.headers()))))
        .await
        .unwrap();
    assert_eq!(kept.headers()["x-backend"], "b");
    assert_ne!(pair(kept.headers()), pair(first.headers()));
}

#[tokio::test]
async fn a_response_without_a_backend_sets_no_cookie() {
    let pool = pool();
    let unrouted = service_fn(|mut request: Request<()>| {
        let verdict = Exchange::of(request.extensions_mut()).sticky_verdict();
        async move { Ok::<_, Infallible>(Response::new(format!("{verdict:?}"))) }
    });
    let sticky = layer(&pool).layer(unrouted);
    for (cookie, verdict) in [
        (None, StickyVerdict::None),
        (Some("other=1"), StickyVerdict::None),
        (Some("PROXY_SERVER_ID=forged"), StickyVerdict::Invalid),
        (Some("PROXY_SERVER_ID="), StickyVerdict::Invalid),
    ] {
        let response = sticky.clone().oneshot(request(cookie)).await.unwrap();
        assert!(
            set_cookies(response.headers()).is_empty(),
            "no session, no cookie"
        );
        assert_eq!(
            response.body(),
            &format!("{:?}", Some(verdict)),
            "{cookie:?}"
        );
    }
}

#[tokio::test]
async fn attributes_that_browsers_refuse_are_refused() {
    let pool = pool();
    let base = || layer(&pool);
    for (result, field) in [
        (base().cookie_name(""), "cookie"),
        (base().cookie_name("a b"), "cookie"),
        (base().cookie_name("a=b"), "cookie"),
        (base().path("x"), "path"),
        (base().path("/;"), "path"),
        (base().domain("a;b"), "domain"),
        (base().max_age(std::time::Duration::ZERO), "max_age"),
        (
            base().insecure().and_then(|l| l.cookie_name("__Secure-x")),
            "cookie",
        ),
        (
            base().domain("a.b").and_then(|l| l.cookie_name("__Host-x")),
            "cookie",
        ),
        (
            base()
                .insecure()
                .and_then(|l| l.same_site(evenkeel::sticky::SameSite::None)),
            "cookie",
        ),
    ] {
        assert_eq!(result.unwrap_err().field(), field);
    }
}

#[test]
fn a_valid_cookie_costs_no_allocation() {
    let pool = pool();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let first = layer(&pool)
            .layer(foreign(pool.clone(), "b"))
            .oneshot(request(None))
            .await
            .unwrap();
        let cookie = pair(first.headers());
        let member = pool.snapshot().get("b").unwrap().clone();
        let inner = service_fn(move |request: Request<()>| {
            let exchange = request.extensions().get::<Exchange>().unwrap();
            exchange.begin_attempt(member.clone());
            drop(request);
            std::future::ready(Ok::<_, Infallible>(Response::new(())))
        });
        let mut sticky = layer(&pool).layer(inner.clone());
        let prepared = || {
            let mut request = request(Some(&cookie));
            Exchange::of(request.extensions_mut());
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            request.extensions_mut().insert(conn);
            request
        };
        sticky.call(prepared()).await.unwrap();
        let request = prepared();
        let mut call = Some(sticky.call(request));
        let _ = call.take().unwrap().await;
        let request = prepared();
        let with = allocation_counter::measure(|| drop(sticky.call(request)));
        let request = prepared();
        let mut inner = inner;
        let without = allocation_counter::measure(|| drop(inner.call(request)));
        assert_eq!(
            with.count_total, without.count_total,
            "the layer itself must not allocate"
        );
    });
}
