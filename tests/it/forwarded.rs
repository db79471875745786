use std::convert::Infallible;

use bytes::Bytes;
use evenkeel::{
    context::{ConnInfo, Peer, TrustedPeers},
    forwarded::{ClientField, ForwardedLayer},
};
use http::{Request, Response, header};
use http_body_util::{Empty, Full};
use tower::{Layer, ServiceExt, service_fn};

fn trusted(networks: &[&str]) -> TrustedPeers {
    TrustedPeers::new(networks).unwrap()
}

fn came_by(peer: &str) -> ConnInfo {
    ConnInfo::new(Peer::Tcp(peer.parse().unwrap()), Peer::Unknown)
}

/// Returns the client that a service below the layer sees.
async fn seen(layer: &ForwardedLayer, request: Request<()>) -> Option<String> {
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let client = ConnInfo::client_of(request.extensions());
        Ok::<_, Infallible>(Response::new(client.map(|client| client.to_string())))
    }));
    service.oneshot(request).await.unwrap().into_body()
}

#[tokio::test]
async fn alone_around_a_foreign_service_it_names_the_client_behind_trusted_hops() {
    let layer = ForwardedLayer::new(trusted(&["10.0.0.0/8"]));
    let other = layer.clone().field(ClientField::Forwarded);
    let none = ForwardedLayer::new(TrustedPeers::default());
    let (hop, outsider) = ("10.0.0.1:5", "198.51.100.1:5");
    let x = "x-forwarded-for";
    for (layer, peer, fields, client) in [
        (&layer, hop, &[(x, "9.9.9.9")][..], "9.9.9.9:0"),
        (
            &layer,
            hop,
            &[(x, "1.1.1.1, 9.9.9.9, 10.0.0.2")],
            "9.9.9.9:0",
        ),
        // The lines of a field are one list.
        (
            &layer,
            hop,
            &[(x, "1.1.1.1"), (x, "9.9.9.9"), (x, "10.0.0.2")],
            "9.9.9.9:0",
        ),
        (&layer, hop, &[(x, "1.1.1.1"), (x, "")], "1.1.1.1:0"),
        (&layer, hop, &[], hop),
        (&layer, hop, &[(x, "unknown")], hop),
        // The field that hops do not write is the client's.
        (&layer, hop, &[("forwarded", "for=9.9.9.9")], hop),
        (&other, hop, &[(x, "9.9.9.9")], hop),
        (
            &other,
            hop,
            &[("forwarded", "for=9.9.9.9;proto=https")],
            "9.9.9.9:0",
        ),
        (&layer, outsider, &[(x, "9.9.9.9")], outsider),
        (&none, hop, &[(x, "9.9.9.9")], hop),
    ] {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request.extensions_mut().insert(came_by(peer));
        let found = seen(layer, request).await;
        assert_eq!(found.as_deref(), Some(client), "{peer} {fields:?}");
    }
    let request = Request::get("/").header(x, "9.9.9.9").body(()).unwrap();
    assert_eq!(seen(&layer, request).await, None, "no hop is known");
}

#[tokio::test]
async fn the_proxy_protocol_names_the_hop_before() {
    let layer = ForwardedLayer::new(trusted(&["10.0.0.0/8"]));
    for (declared, client) in [
        ("10.0.0.7:1", "9.9.9.9:0"),
        ("203.0.113.7:1", "203.0.113.7:1"),
    ] {
        let conn = came_by("192.0.2.1:1");
        conn.set_client(declared.parse().unwrap());
        let request = Request::get("/").header("x-forwarded-for", "9.9.9.9");
        let request = request.extension(conn).body(()).unwrap();
        assert_eq!(seen(&layer, request).await.as_deref(), Some(client));
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn under_axum_the_connection_extension_stays_unchanged() {
    let layer = ForwardedLayer::new(trusted(&["10.0.0.0/8"]));
    let conn = came_by("10.0.0.1:5");
    for client in ["9.9.9.8", "9.9.9.9"] {
        let request = Request::get("/").header("x-forwarded-for", client);
        let request = request.extension(axum::extract::ConnectInfo(conn.clone()));
        let found = seen(&layer, request.body(()).unwrap()).await;
        assert_eq!(found, Some(format!("{client}:0")));
    }
    assert_eq!(conn.client(), "10.0.0.1:5".parse().ok());
    assert_eq!(conn.forwarded_client(), None);
}

/// One connection of a trusted balancer carries requests of many clients: the log, the hash and the
/// backend are about those.
#[cfg(all(feature = "server", feature = "access-log"))]
#[tokio::test]
async fn each_request_of_another_balancer_has_a_client_of_its_own() {
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };

    use evenkeel::{
        Backend, LoadBalancer, Pool,
        access_log::{AccessLogLayer, Lines},
        balance::{BalanceLayer, ConsistentHash, HashKey},
        health::HealthLayer,
        proxy::Proxy,
    };
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    use tokio::net::{TcpListener, TcpStream};

    use crate::support::{Origin, Written};

    const X_FORWARDED_FOR: &str = "x-forwarded-for";
    let seen_chains = Arc::new(Mutex::new(Vec::new()));
    let origin = |name: &'static str| {
        let seen_chains = seen_chains.clone();
        Origin::serve(move |request| {
            let fields = &request.headers()[X_FORWARDED_FOR];
            seen_chains
                .lock()
                .unwrap()
                .push(fields.to_str().unwrap().to_owned());
            async move { Response::new(Full::new(Bytes::from_static(name.as_bytes()))) }
        })
    };
    let origins = [origin("a").await, origin("b").await, origin("c").await];
    let backends = ["a", "b", "c"].into_iter().zip(&origins);
    let backends = backends.map(|(id, origin)| Backend::new(id, &origin.url()).unwrap());
    let pool = Pool::new(backends).unwrap();
    let lines = Written::default();
    let sink = Lines::writer(lines.clone()).unwrap();
    let strategy = ConsistentHash::new(HashKey::Client);
    let balancer = LoadBalancer::builder(pool.clone())
        .access_log(AccessLogLayer::new(sink.clone()))
        .balance(BalanceLayer::new(pool.clone()).strategy(strategy))
        .unwrap()
        .health(HealthLayer::new(pool).no_checks())
        .unwrap()
        .proxy(Proxy::new().trusted_peers(trusted(&["127.0.0.0/8"])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, balancer.build()).into_future());

    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut homes = BTreeSet::new();
    let mut wanted = Vec::new();
    for nth in 0..40 {
        // Each fourth comes of the balancer itself.
        let client = (nth % 4 > 0).then(|| format!("203.0.113.{}", nth % 20));
        let mut request = Request::get("/").header(header::HOST, "a.test");
        if let Some(client) = &client {
            request = request.header(X_FORWARDED_FOR, client);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let home = response.into_body().collect().await.unwrap().to_bytes();
        homes.insert((client.clone(), home));
        wanted.push(client);
    }
    let clients: BTreeSet<_> = homes.iter().map(|(client, _)| client).collect();
    assert_eq!(
        homes.len(),
        clients.len(),
        "a client has one home: {homes:?}"
    );
    let used: BTreeSet<_> = homes.iter().map(|(_, home)| home).collect();
    assert_eq!(used.len(), 3, "they spread: {homes:?}");

    let seen_chains = seen_chains.lock().unwrap();
    for (client, seen) in wanted.iter().zip(&*seen_chains) {
        let chain = client.as_ref().map(|client| format!("{client}, 127.0.0.1"));
        assert_eq!(*seen, chain.unwrap_or_else(|| "127.0.0.1".into()));
    }
    assert!(sink.flush());
    let text = String::from_utf8(lines.take()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    assert_eq!(lines.len(), wanted.len());
    for (client, line) in wanted.iter().zip(&lines) {
        let is_forwarded = client.is_some();
        assert_eq!(line["client"], client.as_deref().unwrap_or("127.0.0.1"));
        assert_eq!(line["peer"] == "127.0.0.1", is_forwarded, "{line}");
    }
}
