//! The header that backends get.

use evenkeel::{
    connect::{Connector, ProxyVersion},
    health::{Checks, HttpCheck},
    pool::{Protocol, ProxyProtocol},
    proxy::Proxy,
};

use super::{
    senders::{Sender, not_run},
    *,
};

/// A balancer in front of this backend, which sends the header; with TLS if there is an authority.
async fn front(backend: Backend, connector: Connector, tls: Option<TlsLayer>) -> SocketAddr {
    let pool = Pool::new([backend]).unwrap();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool).no_checks())
        .unwrap()
        .proxy(Proxy::new().connector(connector));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = evenkeel::serve(listener, balancer.build());
    match tls {
        Some(tls) => tokio::spawn(serve.layer(tls).into_future()),
        None => tokio::spawn(serve.into_future()),
    };
    address
}

fn backend(server: &Server) -> Backend {
    Backend::new("a", &format!("http://{}", server.address)).unwrap()
}

/// Sends a request on a connection that is kept, and returns the body of the answer.
async fn ask(stream: &mut TcpStream) -> String {
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 1_024];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await;
        let read = read.expect("an answer").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            return body.to_owned();
        }
    }
}

#[tokio::test]
async fn a_backend_sees_each_client_on_connections_of_its_own() {
    for (version, name) in [(ProxyVersion::V1, "v1"), (ProxyVersion::V2, "v2")] {
        let mut server = Server::start(layer(), None).await;
        let connector = Connector::new().proxy_protocol(version);
        let address = front(backend(&server), connector, None).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..4 {
            for client in &mut clients {
                let own = client.local_addr().unwrap();
                assert_eq!(ask(client).await, format!("{own} {address} {name}"));
            }
        }
        let mut connections = std::collections::BTreeSet::new();
        while let Ok(request) = server.requests.try_recv() {
            let (_, peer) = request.split_once(" via ").unwrap();
            connections.insert(peer.to_owned());
        }
        assert_eq!(
            connections.len(),
            3,
            "a client's connection is reused by it alone"
        );
    }
}

#[tokio::test]
async fn the_facts_of_tls_reach_a_backend_over_tls() {
    let authority = pki::Authority::new();
    let mut inside = rustls::ClientConfig::builder_with_provider(pki::test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    inside.resumption = rustls::client::Resumption::disabled();
    // The backend offers HTTP/2 as well, which clients would share.
    let server = Server::start(layer(), Some(tls(&authority))).await;
    let url = format!("https://localhost:{}", server.address.port());
    let connector = Connector::new()
        .proxy_protocol(ProxyVersion::V2)
        .tls(evenkeel::connect::ClientTls::from_config(&inside));
    let backend = Backend::new("a", &url).unwrap();
    let address = front(backend, connector, Some(tls(&authority))).await;

    let stream = TcpStream::connect(address).await.unwrap();
    let own = stream.local_addr().unwrap();
    let mut client = authority.client_of(&[&rustls::version::TLS13]);
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = pki::handshake(stream, client, "localhost").await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    let seen = body(&answer);
    let expected =
        format!("{own} {address} v2 authority=localhost alpn=http/1.1 tls=TLSv1.3 cipher=TLS_");
    assert!(seen.starts_with(&expected), "{seen}, not {expected}");
    assert!(seen.ends_with(" verified=false"), "{seen}");
}

#[tokio::test]
async fn checks_send_local_and_unknown() {
    for (version, name) in [(ProxyVersion::V1, " v1"), (ProxyVersion::V2, " v2 local=")] {
        let mut server = Server::start(layer(), None).await;
        let pool = Pool::new([backend(&server)]).unwrap();
        let check = HttpCheck::new().connector(Connector::new().proxy_protocol(version));
        let checks = Checks::new().with_check(check);
        let health = HealthLayer::new(pool).checks(checks).unwrap();
        let _service = tower::Layer::layer(&health, service_fn(async |_: ()| Ok::<_, ()>(())));
        let seen = tokio::time::timeout(LIMIT, server.requests.recv()).await;
        let seen = seen.expect("a check must come").unwrap();
        assert!(seen.starts_with("GET 127.0.0.1:"), "{seen}");
        assert!(seen.contains(&format!("{name} via ")), "{seen}");
    }
}

#[tokio::test]
async fn each_backend_gets_what_it_wants() {
    // Two that require a header, of which one inherits it, and one that takes a header for nonsense.
    let (own, inherits) = (
        Server::start(layer(), None).await,
        Server::start(layer(), None).await,
    );
    let plain = Origin::named("plain").await;
    let member = |id: &str, address: SocketAddr, header| {
        let backend = Backend::new(id, &format!("http://{address}")).unwrap();
        backend.proxy_protocol(header)
    };
    let pool = Pool::new([
        member("own", own.address, ProxyProtocol::V1),
        member("inherits", inherits.address, ProxyProtocol::Inherited),
        member("plain", plain.address, ProxyProtocol::Off),
    ])
    .unwrap();
    let connector = Connector::new().proxy_protocol(ProxyVersion::V2);
    let check = HttpCheck::new().connector(connector.clone());
    let checks = Checks::new().with_check(check);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool.clone()).checks(checks).unwrap())
        .unwrap()
        .proxy(Proxy::new().connector(connector));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, balancer.build()).into_future());
    // The checks pass at all three, whose headers they send as requests do.
    let usable = async {
        while pool.snapshot().usable() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, usable)
        .await
        .expect("all pass their checks");

    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    // The second change is an operator's: the idle connection began with another header.
    for (header, version) in [(ProxyProtocol::V1, "v1"), (ProxyProtocol::V2, "v2")] {
        pool.upsert(member("own", own.address, header));
        for client in &mut clients {
            let peer = client.local_addr().unwrap();
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.push(ask(client).await);
            }
            answers.sort();
            let mut wanted = vec![
                format!("{peer} {address} {version}"),
                format!("{peer} {address} v2"),
                "plain".to_owned(),
            ];
            wanted.sort();
            assert_eq!(answers, wanted, "each backend has its turn");
        }
    }
}

#[tokio::test]
async fn haproxy_reads_the_header() {
    let authority = pki::Authority::new();
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let Some(haproxy) = Sender::haproxy_backend() else {
            return not_run("haproxy");
        };
        let backend = Backend::new("a", &format!("http://{}", haproxy.address)).unwrap();
        let connector = Connector::new().proxy_protocol(version);
        let address = front(backend.clone(), connector.clone(), None).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..2 {
            for client in &mut clients {
                let own = client.local_addr().unwrap();
                assert_eq!(ask(client).await, format!("{own} {address} "));
            }
        }

        let address = front(backend, connector, Some(tls(&authority))).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let own = stream.local_addr().unwrap();
        let mut client = authority.client();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut stream = pki::handshake(stream, client, "localhost").await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        let authority = ["", "localhost"][usize::from(version == ProxyVersion::V2)];
        assert_eq!(body(&answer), format!("{own} {address} {authority}"));
    }
}

#[tokio::test]
async fn a_backend_of_http2_is_refused() {
    let server = Server::start(layer(), None).await;
    let connector = Connector::new().proxy_protocol(ProxyVersion::V2);
    let backend = backend(&server).protocol(Protocol::Http2);
    let address = front(backend, connector, None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
}
