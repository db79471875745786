//! One id for a request: the client's `X-Request-Id`, the log's and the backend's.

use http::{HeaderName, header};

use super::*;

/// Sends a request from this peer with these ids; returns the logged id, and the ids that the service
/// below the log saw.
async fn ids(
    layer: AccessLogLayer,
    log: &Log,
    peer: &str,
    sent: &[&[u8]],
) -> (String, Vec<String>) {
    let service = layer.layer(service_fn(|request: Request<_>| async move {
        let _: &evenkeel::access_log::RequestBody<Empty<Bytes>> = request.body();
        let seen = request.headers().get_all("x-request-id").iter();
        let seen: Vec<_> = seen.map(|id| id.to_str().unwrap().to_owned()).collect();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(seen.join("\n")))))
    }));
    let mut request = get("/");
    for id in sent {
        let id = HeaderValue::from_bytes(id).unwrap();
        request.headers_mut().append("x-request-id", id);
    }
    let peer = Peer::Tcp(format!("{peer}:1234").parse().unwrap());
    let local = Peer::Tcp("[::1]:443".parse().unwrap());
    request.extensions_mut().insert(ConnInfo::new(peer, local));
    let response = service.oneshot(request).await.unwrap();
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    let logged = log.one()["request_id"].as_str().unwrap().to_owned();
    (logged, seen.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn the_log_and_the_backend_see_the_same_request_id() {
    const PROXY: &str = "10.1.2.3";
    const CLIENT: &str = "192.0.2.9";
    let long = [b'x'; 129];
    let wrong: [&[&[u8]]; 5] = [&[b""], &[&long], &[b"a b"], &[b"\xffa"], &[b"a", b"b"]];
    for pass in [false, true] {
        let of_proxies = |log: &Log| {
            let layer = log.layer().pass_request_id(pass);
            layer.trust_request_id_from(|peer| peer.to_string() == PROXY)
        };
        // A trusted id stays as it is.
        let log = Log::new();
        let (logged, seen) = ids(of_proxies(&log), &log, PROXY, &[b"abc-1"]).await;
        assert_eq!((&*logged, &*seen), ("abc-1", &["abc-1".to_owned()][..]));
        let log = Log::new();
        let layer = log.layer().pass_request_id(pass).trust_request_id(true);
        let (logged, seen) = ids(layer, &log, CLIENT, &[b"abc-1"]).await;
        assert_eq!((&*logged, &*seen), ("abc-1", &["abc-1".to_owned()][..]));
        // Anything else is replaced, or removed.
        let others = wrong.map(|sent| (PROXY, sent)).into_iter();
        let clients: [&[&[u8]]; 2] = [&[], &[b"abc-1"]];
        for (peer, sent) in others.chain(clients.map(|sent| (CLIENT, sent))) {
            let log = Log::new();
            let (logged, seen) = ids(of_proxies(&log), &log, peer, sent).await;
            let made = logged.len() == 32 && logged.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(made, "{logged:?} of {sent:?}");
            match pass {
                true => assert_eq!(seen, [logged], "{sent:?}"),
                false => assert_eq!(seen, [""; 0], "{sent:?}"),
            }
        }
    }
}

#[tokio::test]
async fn made_request_ids_are_unique() {
    let mut all = std::collections::HashSet::new();
    for _ in 0..1_000 {
        let log = Log::new();
        let layer = log.layer().pass_request_id(true);
        let (logged, seen) = ids(layer, &log, "192.0.2.9", &[]).await;
        assert_eq!(seen, std::slice::from_ref(&logged));
        assert!(all.insert(logged));
    }
}

#[tokio::test]
async fn settings_pass_ids_on_and_trust_ids_of_trusted_peers() {
    use evenkeel::settings::Settings;
    let origin = crate::support::Origin::serve(|request| async move {
        let id = request.headers().get("x-request-id");
        let id = id.map_or("none", |id| id.to_str().unwrap()).to_owned();
        Response::new(Full::new(Bytes::from(id)))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.jsonl");
    for (key, trusted, peer, wanted) in [
        ("", "10.0.0.0/8", "10.1.1.1", "abc-1"),
        ("", "10.0.0.0/8", "192.0.2.9", "made"),
        ("", "", "10.1.1.1", "made"),
        ("pass_request_id = false", "10.0.0.0/8", "10.1.1.1", "abc-1"),
        ("pass_request_id = false", "10.0.0.0/8", "192.0.2.9", "none"),
    ] {
        let trusted = if trusted.is_empty() {
            "[]".to_owned()
        } else {
            format!("[{trusted:?}]")
        };
        let settings = Settings::from_toml(&format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\n[[pool.backends]]\nid = \"a\"\n\
             url = {:?}\n[proxy]\ntrusted = {trusted}\n[access_log]\nfile = {file:?}\n{key}\n",
            origin.url()
        ))
        .unwrap();
        let pool = settings.pool();
        let (sink, log) = settings.access_log().unwrap().unwrap();
        let balancer = settings.load_balancer(&pool).access_log(log).build();
        let mut request = get("/");
        let id = HeaderValue::from_static("abc-1");
        request.headers_mut().insert("x-request-id", id);
        let peer = Peer::Tcp(format!("{peer}:1").parse().unwrap());
        let local = Peer::Tcp("127.0.0.1:2".parse().unwrap());
        request.extensions_mut().insert(ConnInfo::new(peer, local));
        // The proxy is trusted, and the client that it speaks for need not be.
        let client = HeaderValue::from_static("198.51.100.7");
        request.headers_mut().insert("x-forwarded-for", client);
        let response = balancer.oneshot(request).await.unwrap();
        let seen = response.into_body().collect().await.unwrap().to_bytes();
        assert!(sink.flush());
        let lines = std::fs::read_to_string(&file).unwrap();
        let line: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        match wanted {
            "made" => assert_eq!(line["request_id"].as_str().unwrap().as_bytes(), seen),
            _ => assert_eq!(seen, wanted),
        }
        assert_eq!(
            line["request_id"] == "abc-1",
            wanted == "abc-1",
            "{key:?} {peer:?}"
        );
    }
}

/// Sends a request with this id in `field`; returns the logged id, and those that the client gets back.
async fn returned(
    layer: AccessLogLayer,
    log: &Log,
    field: &str,
    sent: &str,
) -> (String, Vec<String>) {
    let name: HeaderName = field.parse().unwrap();
    let below = name.clone();
    let service = layer.layer(service_fn(move |request: Request<_>| {
        let _: &evenkeel::access_log::RequestBody<Empty<Bytes>> = request.body();
        let mut response = Response::new(Empty::<Bytes>::new());
        // A backend that has an id of its own.
        response
            .headers_mut()
            .insert(below.clone(), HeaderValue::from_static("of the backend"));
        async { Ok::<_, Infallible>(response) }
    }));
    let mut request = get("/");
    request.headers_mut().insert(name, sent.parse().unwrap());
    let response = service.oneshot(request).await.unwrap();
    let ids = response.headers().get_all(field).iter();
    let ids = ids.map(|id| id.to_str().unwrap().to_owned()).collect();
    (log.one()["request_id"].as_str().unwrap().to_owned(), ids)
}

#[tokio::test]
async fn the_client_gets_the_logged_id_back_by_choice() {
    for field in ["x-request-id", "x-correlation-id"] {
        let layer = |log: &Log| {
            let named = log.layer().request_id_field(field.parse().unwrap());
            named.unwrap().return_request_id(true)
        };
        let log = Log::new();
        let (logged, ids) = returned(layer(&log), &log, field, "not-trusted").await;
        assert_eq!((logged.len(), ids), (32, vec![logged]));
        let log = Log::new();
        let trusts = layer(&log).trust_request_id(true);
        let (logged, ids) = returned(trusts, &log, field, "abc-1").await;
        assert_eq!((&*logged, ids), ("abc-1", vec!["abc-1".to_owned()]));
        let log = Log::new();
        let off = layer(&log).return_request_id(false);
        let (_, ids) = returned(off, &log, field, "abc-1").await;
        assert_eq!(ids, ["of the backend"]);
    }
}

#[test]
fn a_field_with_another_meaning_does_not_carry_the_id() {
    for field in [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH] {
        let refused = Log::new()
            .layer()
            .request_id_field(field.clone())
            .unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("request_id_field") && text.contains(field.as_str()),
            "{text}"
        );
    }
}
