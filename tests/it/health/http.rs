//! What an HTTP check wants of an answer, and the way that it takes.

use std::sync::Mutex;

use evenkeel::{connect::TargetOverride, pool::Protocol};

use super::*;
use crate::support::{Act, Scripted};

fn answer(status: u16, fields: &[(&str, &str)], body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// Answers the same to each.
async fn always(
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> Origin {
    Origin::serve(move |_| async move { answer(status, fields, body) }).await
}

fn protocols() -> Vec<Protocol> {
    if cfg!(all(feature = "proxy", feature = "http2")) {
        vec![Protocol::Http1, Protocol::Http2]
    } else {
        vec![Protocol::Http1]
    }
}

#[tokio::test]
async fn a_body_is_judged_within_its_bound_in_either_version() {
    let long: &'static str = format!("{}ready", "x".repeat(100_000)).leak();
    let origin = always(200, &[], long).await;
    for protocol in protocols() {
        let backend = || backend("a", origin.address).protocol(protocol);
        for (limit, passes) in [(200_000, true), (64 * 1_024, false)] {
            let wants = HttpCheck::new()
                .body_limit(limit)
                .unwrap()
                .body_contains("ready");
            let report = check(&wants, backend()).await;
            assert_eq!(report.is_pass(), passes, "{protocol:?} {limit}: {report:?}");
        }
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let wants = HttpCheck::new().body_matches(move |body| {
            counted.store(body.len(), Relaxed);
            false
        });
        let report = check(&wants, backend()).await;
        assert_eq!((report.is_pass(), report.reason().code), (false, "L7RSP"));
        assert_eq!(seen.load(Relaxed), 64 * 1_024, "what is longer is cut");
    }
}

#[tokio::test]
async fn a_user_agent_of_ones_own_is_the_only_one_in_either_version() {
    let origin = Origin::serve(|request| async move {
        let agents = request.headers().get_all(header::USER_AGENT).iter();
        let agents: Vec<_> = agents.map(|agent| agent.to_str().unwrap()).collect();
        answer(200, &[("x-agents", &agents.join(","))], "")
    })
    .await;
    let own = HeaderValue::from_static("probe/1");
    let named = HttpCheck::new().header(header::USER_AGENT, own).unwrap();
    let ours = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));
    for protocol in protocols() {
        for (asks, wanted) in [(&named, "probe/1"), (&HttpCheck::new(), ours)] {
            let wants = asks
                .clone()
                .headers_match(move |headers| headers["x-agents"] == wanted);
            let backend = backend("a", origin.address).protocol(protocol);
            let report = check(&wants, backend).await;
            assert!(report.is_pass(), "{protocol:?} {wanted}: {report:?}");
        }
    }
}

#[tokio::test]
async fn what_the_answer_says_reaches_the_report_in_either_version() {
    let degraded = always(200, &[("x-evenkeel-health", "degraded=0.25")], "").await;
    let gone = always(404, &[], "").await;
    let failed = always(
        503,
        &[
            ("x-evenkeel-failed-dependency", "postgres, mail"),
            ("retry-after", "9"),
        ],
        "",
    )
    .await;
    let orders = always(200, &[("x-service", "orders")], "").await;
    for protocol in protocols() {
        let at = |origin: &Origin| backend("a", origin.address).protocol(protocol);
        let report = check(&HttpCheck::new(), at(&degraded)).await;
        assert_eq!((report.is_pass(), report.capacity()), (true, 0.25));

        let drains = HttpCheck::new().draining([404..=404]).unwrap();
        let report = check(&drains, at(&gone)).await;
        assert!(report.is_pass() && report.is_draining(), "{report:?}");

        let report = check(&HttpCheck::new(), at(&failed)).await;
        assert_eq!(report.dependency().map(|d| &**d), Some("postgres"));
        assert_eq!(report.retry_after(), Some(Duration::from_secs(9)));
        assert_eq!(report.status(), Some(StatusCode::SERVICE_UNAVAILABLE));

        let name: ::http::HeaderName = "x-service".parse().unwrap();
        for (wanted, passes) in [("orders", true), ("billing", false)] {
            let value = HeaderValue::from_static(wanted);
            let known = HttpCheck::new().identity(name.clone(), value);
            let report = check(&known, at(&orders)).await;
            assert_eq!(report.is_pass(), passes, "{protocol:?} {report:?}");
        }
        let report = check(&HttpCheck::new().identity_by_id(name), at(&orders)).await;
        assert_eq!(
            (report.reason().code, &*report.reason().detail),
            (
                "L7RSP",
                "GET /health: another server answered: x-service is \"orders\", not \"a\""
            )
        );
    }
}

#[tokio::test]
async fn a_pooled_check_keeps_one_connection_until_it_fails() {
    for protocol in protocols() {
        let status = Arc::new(Mutex::new(200));
        let answers = status.clone();
        let origin = Origin::serve(move |_| {
            let status = *answers.lock().unwrap();
            async move { answer(status, &[], "fine") }
        })
        .await;
        let backend = backend("a", origin.address).protocol(protocol);
        let pooled = HttpCheck::new().pooled();
        for _ in 0..5 {
            assert!(check(&pooled, backend.clone()).await.is_pass());
        }
        assert_eq!(origin.connections(), 1, "{protocol:?}");
        *status.lock().unwrap() = 503;
        let report = check(&pooled, backend.clone()).await;
        assert_eq!(report.reason().code, "L7STS");
        *status.lock().unwrap() = 200;
        assert!(check(&pooled, backend.clone()).await.is_pass());
        assert_eq!(origin.connections(), 2, "after a failure it is a new one");
        // Drained, it lets go of what is idle.
        let pool = Pool::new([backend.clone()]).unwrap();
        pool.start_maintenance("a").unwrap();
        assert!(check(&pooled, backend.clone()).await.is_pass());
        assert_eq!(origin.connections(), 3);
        // Kept by a check that began before the address changed.
        let other = always(200, &[], "").await;
        pool.upsert(self::backend("a", other.address).protocol(protocol));
        let moved = pool.snapshot().get("a").unwrap().clone();
        assert!(check(&pooled, backend).await.is_pass());
        assert_eq!(other.connections(), 0);
        assert!(check(&pooled, moved).await.is_pass());
        assert_eq!(other.connections(), 1, "the check goes to the new address");
    }
}

#[tokio::test]
async fn a_body_that_decides_nothing_is_not_waited_for() {
    const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    const LONG_BODY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\nhello";
    const FAILING: &[u8] =
        b"HTTP/1.1 503 x\r\ncontent-type: text/html\r\ncontent-length: 300000\r\n\r\n";
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for (wire, passes) in [
        (ENDLESS, true),
        (LONG_BODY, true),
        (FAILING, false),
        (INTERIM, true),
    ] {
        let origin = Scripted::play(vec![Act::Send(wire)]).await;
        let backend = backend("a", origin.address);
        let pooled = HttpCheck::new().pooled();
        for _ in 0..2 {
            let asked = check(&pooled, backend.clone());
            let report = timeout(LONG / 2, asked).await;
            let report = report.expect("the head decides");
            assert_eq!(report.is_pass(), passes, "{report:?}");
            assert_eq!(report.reason().code, if passes { "L7OK" } else { "L7STS" });
        }
        let connections = if wire == INTERIM { 1 } else { 2 };
        assert_eq!(
            origin.connections(),
            connections,
            "a connection that owes a body is not kept"
        );
    }
}

#[tokio::test]
async fn chunks_that_came_along_leave_the_connection_usable() {
    const WHOLE: &[u8] =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let origin = Scripted::play(vec![Act::Send(WHOLE)]).await;
    let backend = backend("a", origin.address);
    let (plain, judging) = (
        HttpCheck::new().pooled(),
        HttpCheck::new().pooled().body_contains("hello"),
    );
    for _ in 0..3 {
        assert!(check(&plain, backend.clone()).await.is_pass());
        assert!(check(&judging, backend.clone()).await.is_pass());
    }
    assert_eq!(origin.connections(), 2, "one for each check");
}

#[tokio::test]
async fn a_failure_waits_for_the_dependency_that_its_body_names() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1_024]).await;
        let body = br#"{"dependencies":{"pg":{"status":"fail"}}}"#;
        let head = format!(
            "HTTP/1.1 503 x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        for part in [head.as_bytes(), &body[..10], &body[10..]] {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = stream.read(&mut [0; 1]).await;
    });
    let report = check(&HttpCheck::new(), backend("a", address)).await;
    assert_eq!(report.dependency().map(|d| &**d), Some("pg"));
}

#[tokio::test]
async fn a_failure_is_its_status_whatever_its_body_does() {
    const ENDLESS: &[u8] = b"HTTP/1.1 503 x\r\ncontent-type: application/json\r\n\
        content-length: 300\r\n\r\n{\"dependencies\"";
    const WRONG: &[u8] = b"HTTP/1.1 503 x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\nnonsense\r\n";
    for act in [
        Act::Send(ENDLESS),
        Act::SendAndClose(ENDLESS),
        Act::Send(WRONG),
    ] {
        let origin = Scripted::play(vec![act]).await;
        let deadline = Instant::now() + Duration::from_secs(2);
        let target = Target::new(backend("a", origin.address), deadline);
        let report = HttpCheck::new().check(&target).await;
        assert!(Instant::now() < deadline, "the prober still waits then");
        assert_eq!(report.reason().code, "L7STS", "{report:?}");
        assert_eq!(report.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(report.dependency().is_none());
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_no_failure() {
    const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let origin = Scripted::play(vec![
        Act::SendAndClose(FINE),
        Act::Send(FINE),
        // Reads the request, and closes without an answer: what an idle time-out just then does.
        Act::SendAndClose(b""),
        Act::Send(FINE),
        Act::SendAndClose(b""),
        Act::SendAndClose(b""),
    ])
    .await;
    let backend = backend("a", origin.address);
    let pooled = HttpCheck::new().pooled();
    for (nth, connections) in [1, 2, 3].into_iter().enumerate() {
        let report = check(&pooled, backend.clone()).await;
        assert!(report.is_pass(), "{nth}: {report:?}");
        assert_eq!(origin.connections(), connections, "{nth}");
        // The end of the first has to arrive.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let report = check(&pooled, backend.clone()).await;
    assert_eq!(
        report.reason().code,
        "L7RSP",
        "a new connection's end counts"
    );
}

#[tokio::test]
async fn a_check_may_ask_elsewhere() {
    let origin = Origin::named("a").await;
    let target_override = TargetOverride::new()
        .host("127.0.0.1")
        .unwrap()
        .port(origin.address.port())
        .unwrap();
    let asks = HttpCheck::new().target_override(target_override.clone());
    // The backend's own address is reserved for documentation: no host answers there.
    let far = || Backend::new("a", "http://192.0.2.1:1").unwrap();
    assert!(check(&asks, far()).await.is_pass());
    let report = check(
        &TcpCheck::new().target_override(target_override.clone()),
        far(),
    )
    .await;
    assert_eq!(report.reason().code, "L4OK");
    let socket = far().unix_socket("/nowhere/at/all");
    assert!(check(&asks, socket).await.is_pass(), "not at its socket");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_check_may_name_the_certificate_itself() {
    use evenkeel::connect::{ClientTls, Connector};
    use tokio_rustls::TlsAcceptor;

    use crate::support::pki::{Authority, test_provider};

    let authority = Authority::new();
    let issued = authority.issue(&["checks.example"]);
    let config = rustls::ServerConfig::builder_with_provider(test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate()], issued.key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = names.clone();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            seen.lock().unwrap().push(name);
            let _ = stream.read(&mut [0; 1_024]).await;
            let fine = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(fine).await;
            let _ = stream.shutdown().await;
        }
    });
    let tls = ClientTls::roots_pem(authority.pem().as_bytes()).unwrap();
    let asks = HttpCheck::new().connector(Connector::new().tls(tls));
    let backend = || Backend::new("a", &format!("https://{address}")).unwrap();
    let report = check(&asks, backend()).await;
    assert_eq!(report.reason().code, "L6RSP", "its name is not an address");
    let named = TargetOverride::new().server_name("checks.example").unwrap();
    let report = check(&asks.target_override(named), backend()).await;
    assert!(report.is_pass(), "{report:?}");
    assert_eq!(*names.lock().unwrap(), [Some("checks.example".to_owned())]);
}

#[tokio::test]
async fn a_post_without_content_says_so() {
    const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for (method, says) in [(Method::POST, true), (Method::GET, false)] {
        let origin = Scripted::play(vec![Act::Send(FINE)]).await;
        let asks = HttpCheck::new().method(method);
        assert!(check(&asks, backend("a", origin.address)).await.is_pass());
        let head = origin.last_head();
        assert_eq!(head.contains("content-length: 0\r\n"), says, "{head}");
    }
}
