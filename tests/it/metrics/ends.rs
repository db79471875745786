//! Each way in which a request ends, over real sockets; and many at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use evenkeel::{
    proxy::Proxy,
    tls::{Certificate, Certificates, TlsConfig, TlsLayer},
};
use tower::{Layer, ServiceBuilder};
use tower_http::timeout::TimeoutLayer;

use super::*;
use crate::support::pki::{self, Authority};

/// Asserts that one request was counted, with this status and this outcome.
async fn one(world: &World, status: &str, outcome: &str) -> Series {
    let series = world.at_rest().await;
    series.adds_up();
    let of = |name, label: &str, value| series.sum(name, &[&format!("{label}=\"{value}\"")]);
    assert_eq!(
        of("evenkeel_requests_total", "status", status),
        1.0,
        "{series:?}"
    );
    assert_eq!(
        of("evenkeel_request_outcomes_total", "outcome", outcome),
        1.0,
        "{series:?}"
    );
    assert_eq!(series.sum("evenkeel_requests_accepted_total", &[]), 1.0);
    series
}

async fn scripted(act: Act) -> (Scripted, World) {
    let backend = Scripted::play(vec![act]).await;
    let url = format!("http://{}", backend.address);
    let world = World::new(&[("a", url)], keep).await;
    (backend, world)
}

#[tokio::test]
async fn the_class_of_a_status_is_the_backend_s() {
    for (status, class) in [(204, "2xx"), (304, "3xx"), (404, "4xx"), (500, "5xx")] {
        let origin = statuses().await;
        let world = World::new(&[("a", origin.url())], keep).await;
        world.get(&format!("/{status}")).await;
        let series = one(&world, class, "ok").await;
        let labels = format!("backend=\"a\",status=\"{class}\"");
        assert_eq!(series.get("evenkeel_backend_requests_total", &labels), 1.0);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure_of_its_backend() {
    let broken = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let (_backend, world) = scripted(Act::SendAndClose(broken)).await;
    world.get("/").await;
    let series = one(&world, "2xx", "response_body").await;
    let labels = "backend=\"a\",outcome=\"response_body\"";
    assert_eq!(series.get("evenkeel_backend_attempts_total", labels), 1.0);
    assert_eq!(
        series.get("evenkeel_backend_request_outcomes_total", labels),
        1.0
    );
}

#[tokio::test]
async fn a_backend_that_hangs_is_a_time_out() {
    let backend = Scripted::play(vec![Act::Hang]).await;
    let url = format!("http://{}", backend.address);
    let world = World::new(&[("a", url)], |builder, _| {
        let proxy = Proxy::new().response_timeout(Duration::from_millis(100));
        builder.proxy(proxy.unwrap())
    })
    .await;
    assert!(world.get("/").await.starts_with("HTTP/1.1 504 "));
    let series = one(&world, "5xx", "response_head_timeout").await;
    assert_eq!(
        series.get(
            "evenkeel_backend_time_to_first_byte_seconds_count",
            "backend=\"a\""
        ),
        0.0
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_not_the_backend_s_failure() {
    let (backend, world) = scripted(Act::Hang).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let asked = |_: &Series| !backend.heads.lock().unwrap().is_empty();
    let series = world.until("the backend is asked", asked).await;
    assert_eq!(series.sum("evenkeel_requests_in_flight", &[]), 1.0);
    assert_eq!(
        series.get("evenkeel_backend_requests_in_flight", "backend=\"a\""),
        1.0
    );
    drop(client);
    let series = one(&world, "none", "client_abort").await;
    let labels = "backend=\"a\",outcome=\"cancelled\"";
    assert_eq!(series.get("evenkeel_backend_attempts_total", labels), 1.0);
}

#[tokio::test]
async fn without_a_backend_only_the_listener_counts() {
    let world = World::new(&[("a", "http://127.0.0.1:1".into())], keep).await;
    world.pool.start_maintenance("a").unwrap();
    assert!(world.get("/").await.starts_with("HTTP/1.1 503 "));
    let series = one(&world, "5xx", "no_backend").await;
    assert_eq!(series.sum("evenkeel_backend_requests_total", &[]), 0.0);
}

#[tokio::test]
async fn a_tunnel_is_in_flight_until_it_closes() {
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n";
    let (_backend, world) = scripted(Act::Send(switch)).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut response = vec![0; switch.len().min(12)];
    client.read_exact(&mut response).await.unwrap();
    assert_eq!(response, b"HTTP/1.1 101");
    let series = world.series();
    assert_eq!(series.sum("evenkeel_requests_in_flight", &[]), 1.0);
    assert_eq!(series.sum("evenkeel_backend_connections_open", &[]), 1.0);
    drop(client);
    let series = one(&world, "1xx", "ok").await;
    assert_eq!(
        series.sum("evenkeel_request_duration_seconds_count", &[]),
        0.0
    );
    assert_eq!(
        series.sum("evenkeel_backend_time_to_first_byte_seconds_count", &[]),
        1.0
    );
    let closed = |series: &Series| series.sum("evenkeel_backend_connections_open", &[]) == 0.0;
    world
        .until("the connection to the backend closes", closed)
        .await;
}

#[tokio::test]
async fn a_request_that_an_outer_layer_ends_is_not_the_client_s_doing() {
    let backend = Scripted::play(vec![Act::Hang]).await;
    let url = format!("http://{}", backend.address);
    let pool = Pool::new([Backend::new("a", &url).unwrap()]).unwrap();
    let stats = Stats::new(pool.clone());
    let health = HealthLayer::new(pool.clone()).no_checks();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(health)
        .unwrap()
        .metrics(MetricsLayer::new(stats.clone()))
        .unwrap()
        .build();
    let status = http::StatusCode::GATEWAY_TIMEOUT;
    let outer = TimeoutLayer::with_status_code(status, Duration::from_millis(100));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = ServiceBuilder::new().layer(outer).service(balancer);
    let task = tokio::spawn(evenkeel::serve(listener, service).into_future());
    let service = MetricsService::new(stats);
    let world = World {
        address,
        pool,
        service,
        task,
    };
    assert!(world.get("/").await.starts_with("HTTP/1.1 504 "));
    one(&world, "5xx", "timeout").await;
}

#[tokio::test]
async fn handshakes_and_refused_requests_are_counted_by_listener() {
    let origin = Origin::named("a").await;
    let pool = Pool::new([Backend::new("a", &origin.url()).unwrap()]).unwrap();
    let stats = Stats::new(pool.clone());
    let layer = MetricsLayer::new(stats.clone());
    let health = HealthLayer::new(pool.clone()).no_checks();
    let balancer = LoadBalancer::builder(pool.clone()).health(health).unwrap();
    let balancer = balancer.metrics(layer.clone()).unwrap().build();
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let certificate = Certificate::pem(issued.chain.clone(), issued.key.clone());
    let tls = TlsLayer::new(TlsConfig::new(Certificates::new([certificate]).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = evenkeel::serve(listener, balancer).layer(tls).events(layer);
    let task = tokio::spawn(serve.into_future());
    let service = MetricsService::new(stats);
    let world = World {
        address,
        pool,
        service,
        task,
    };
    // One configuration for all connections: the later ones resume the session of the first.
    let mut client = authority.client();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut stream = pki::connect(address, client.clone(), "localhost")
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut response))
            .await
            .unwrap();
    }
    // No TLS at all.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    let closed = |series: &Series| {
        series.sum("evenkeel_connections_opened_total", &[]) == 3.0
            && series.sum("evenkeel_connections_open", &[]) == 0.0
    };
    let series = world.until("all connections close", closed).await;
    let count = |name, labels: &[&str]| series.sum(name, labels);
    let version = "version=\"TLSv1.3\"";
    assert_eq!(
        count(
            "evenkeel_tls_handshakes_total",
            &[version, "resumed=\"false\""]
        ),
        1.0
    );
    assert_eq!(
        count(
            "evenkeel_tls_handshakes_total",
            &[version, "resumed=\"true\""]
        ),
        1.0
    );
    let failures = "evenkeel_connection_failures_total";
    assert_eq!(count(failures, &["reason=\"tls_handshake\""]), 1.0);
    assert_eq!(count(failures, &["reason=\"bad_request\""]), 1.0);
    assert_eq!(
        count("evenkeel_requests_accepted_total", &[]),
        1.0,
        "the others are no requests"
    );
}

/// Clients that stay and clients that leave, while scrapes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sums_hold_in_every_scrape_under_load() {
    let (a, b) = (Origin::named("a").await, statuses().await);
    let hung = Scripted::play(vec![Act::Hang]).await;
    let hung = format!("http://{}", hung.address);
    let backends = [("a", a.url()), ("b", b.url()), ("hung", hung)];
    let world = Arc::new(
        World::new(&backends, |builder, pool| {
            let health = HealthLayer::new(pool).no_checks().no_outliers();
            builder.health(health).unwrap()
        })
        .await,
    );
    let over = Arc::new(AtomicBool::new(false));
    let scrapes = {
        let (world, over) = (world.clone(), over.clone());
        tokio::spawn(async move {
            let mut scrapes = 0;
            while !over.load(Relaxed) {
                world.series().adds_up();
                scrapes += 1;
                tokio::task::yield_now().await;
            }
            scrapes
        })
    };
    let (clients, each) = (8, 60);
    let running = (0..clients).map(|_| {
        let address = world.address;
        tokio::spawn(async move {
            for n in 0..each {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = b"GET /404 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                stream.write_all(head).await.unwrap();
                // The backend that hangs never answers; every other client leaves at once.
                let mut response = Vec::new();
                if n % 2 == 0 {
                    let limit = Duration::from_millis(100);
                    let _ = timeout(limit, stream.read_to_end(&mut response)).await;
                }
            }
        })
    });
    for client in running.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let closed = |series: &Series| series.sum("evenkeel_connections_open", &[]) == 0.0;
    world.until("the connections close", closed).await;
    // The last record may be half written, and its lease is given back after it.
    let leases = || -> u64 {
        let pool = world.pool.snapshot();
        pool.backends().iter().map(Backend::requests).sum()
    };
    let settled = |series: &Series| {
        let sum = |name| series.sum(name, &[]);
        let attempts = sum("evenkeel_backend_attempts_total");
        sum("evenkeel_requests_in_flight") == 0.0
            && sum("evenkeel_backend_requests_in_flight") == 0.0
            && sum("evenkeel_request_outcomes_total") == sum("evenkeel_requests_total")
            && sum("evenkeel_request_duration_seconds_count") == sum("evenkeel_requests_total")
            && attempts == sum("evenkeel_backend_requests_total")
            && attempts == leases() as f64
    };
    let series = world.until(
        "every record is whole, and the pool counts the same",
        settled,
    );
    let series = series.await;
    over.store(true, Relaxed);
    assert!(scrapes.await.unwrap() > 10, "scrapes went on meanwhile");
    series.adds_up();
    let ended = series.sum("evenkeel_requests_total", &[]);
    assert_eq!(series.sum("evenkeel_request_outcomes_total", &[]), ended);
    assert_eq!(
        series.sum("evenkeel_request_duration_seconds_count", &[]),
        ended
    );
    assert!(
        ended > f64::from(clients * each / 2),
        "those that waited were accepted: {ended}"
    );
    // Each request has one attempt or, where a client left before the pick, none.
    let attempts = series.sum("evenkeel_backend_attempts_total", &[]);
    let at_backends = series.sum("evenkeel_backend_requests_total", &[]);
    assert_eq!(attempts, at_backends);
    assert!(at_backends <= ended, "{at_backends} of {ended}");
    assert!(
        series.sum(
            "evenkeel_request_outcomes_total",
            &["outcome=\"client_abort\""]
        ) > 0.0
    );
}

#[tokio::test]
async fn the_layer_works_alone_under_another_server() {
    let stats = Stats::new(Pool::new([]).unwrap());
    let layer = MetricsLayer::new(stats.clone());
    let named = layer.clone().listener("named");
    let app = || axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    for service in [layer.layer(app()), named.layer(app())] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback_service(service);
        tokio::spawn(axum::serve(listener, app).into_future());
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("hello"), "{response}");
    }
    let series = Series::parse(&MetricsService::new(stats).text());
    series.adds_up();
    for name in ["unknown", "named"] {
        let labels = format!("listener=\"{name}\",status=\"2xx\"");
        assert_eq!(
            series.get("evenkeel_requests_total", &labels),
            1.0,
            "{series:?}"
        );
    }
}
