//! The PROXY protocol over real sockets: what reaches the application, the log, the backend and the hash.
#![cfg(feature = "full")]

mod axum_listener;
mod hostile;
mod senders;
mod to_backends;

use std::{convert::Infallible, future::IntoFuture, net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Backend, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    balance::{BalanceLayer, ConsistentHash, HashKey},
    context::{ConnInfo, ConnectionEvent, ConnectionEvents, TrustedPeers},
    health::HealthLayer,
    proxy_protocol::{ProxyHeader, ProxyProtocolLayer},
    tls::{Certificate, Certificates, TlsConfig, TlsLayer},
};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tower::service_fn;

use crate::support::{Origin, Written, pki};

/// A server behind the layer that answers with what it knows of the client.
struct Server {
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<ConnectionEvent>,
    /// The method of each request, what the application saw, and the peer.
    requests: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(layer: ProxyProtocolLayer, tls: Option<TlsLayer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let (record, requests) = mpsc::unbounded_channel();
        let app = service_fn(move |request: Request<evenkeel::server::Body>| {
            let conn = ConnInfo::of(request.extensions()).unwrap();
            let (seen, peer) = (describe(conn), conn.peer().address().unwrap());
            let _ = record.send(format!("{} {seen} via {peer}", request.method()));
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(seen)))) }
        });
        let serve = evenkeel::serve(listener, app);
        let task = match tls {
            Some(tls) => {
                let serve = serve.layer(tls).layer(layer).events(Events(sender));
                tokio::spawn(serve.into_future())
            }
            None => {
                let serve = serve.layer(layer).events(Events(sender));
                tokio::spawn(serve.into_future())
            }
        };
        Self {
            address,
            events,
            requests,
            task,
        }
    }

    /// Returns the kind and the detail of the event that comes next.
    async fn event(&mut self) -> (&'static str, String) {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await;
        let event = event.expect("an event must come").unwrap();
        (event.kind.as_str(), event.detail.into_owned())
    }

    /// Sends these bytes, and returns all that comes back.
    async fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may have closed before the last byte.
        let _ = stream.write_all(bytes).await;
        read_all(&mut stream).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Events(mpsc::UnboundedSender<ConnectionEvent>);

impl ConnectionEvents for Events {
    fn connection_ended(&self, event: &ConnectionEvent) {
        let _ = self.0.send(event.clone());
    }
}

/// What the application sees: the client, the destination, and the header.
fn describe(conn: &ConnInfo) -> String {
    let (client, destination) = (conn.client().unwrap(), conn.destination().unwrap());
    let Some(header) = ProxyHeader::of(conn) else {
        return format!("{client} {destination} no header");
    };
    let mut text = format!("{client} {destination} v{}", header.version());
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    add("local", header.is_local().then(String::new));
    add(
        "unix",
        header.unix_paths().map(|p| p.0.display().to_string()),
    );
    add("authority", header.authority().map(str::to_owned));
    add("alpn", header.alpn().map(string));
    add("id", header.unique_id().map(string));
    if let Some(ssl) = header.ssl() {
        add("tls", ssl.version().map(str::to_owned));
        add("cipher", ssl.cipher().map(str::to_owned));
        add("verified", Some(ssl.is_client_verified().to_string()));
        add("cn", ssl.common_name().map(str::to_owned));
    }
    text
}

async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    // A reset ends the answer as well.
    let _ = read.expect("the connection must end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The body of a 200.
fn body(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    answer.split_once("\r\n\r\n").unwrap().1
}

fn layer() -> ProxyProtocolLayer {
    ProxyProtocolLayer::new(TrustedPeers::new(["127.0.0.0/8", "::1"]).unwrap())
}

fn tls(authority: &pki::Authority) -> TlsLayer {
    let issued = authority.issue(&["localhost"]);
    let certificate = Certificate::pem(issued.chain, issued.key);
    TlsLayer::new(TlsConfig::new(Certificates::new([certificate]).unwrap()))
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let head = [command, family];
    [b"\r\n\r\n\0\r\nQUIT\n", &head[..], &length, rest].concat()
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const LINE: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n";
/// 203.0.113.7:50000 to 192.0.2.1:443.
const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0xc3, 0x50, 0x01, 0xbb];
/// A machine that compiles something else takes its time.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn both_versions_name_the_client() {
    let server = Server::start(layer(), None).await;
    let mut ipv6 = Vec::new();
    for address in ["2001:db8::7", "2001:db8::1"] {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        ipv6.extend_from_slice(&address.octets());
    }
    ipv6.extend_from_slice(&[0xc3, 0x50, 0x01, 0xbb]);
    let ipv6_line = "PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n";
    let fields = [
        &IPV4[..],
        b"\x02\0\x0bwww.example",
        b"\x20\0\x0f\x01\0\0\0\x01\x21\0\x07TLSv1.3",
    ];
    for (header, seen) in [
        (LINE.into(), "203.0.113.7:50000 192.0.2.1:443 v1"),
        (v2(0x21, 0x11, &IPV4), "203.0.113.7:50000 192.0.2.1:443 v2"),
        (ipv6_line.into(), "[2001:db8::7]:50000 [2001:db8::1]:443 v1"),
        (
            v2(0x21, 0x21, &ipv6),
            "[2001:db8::7]:50000 [2001:db8::1]:443 v2",
        ),
        (
            v2(0x21, 0x11, &fields.concat()),
            "203.0.113.7:50000 192.0.2.1:443 v2 authority=www.example tls=TLSv1.3 verified=false",
        ),
    ] {
        // In one segment, and a byte at a time.
        let bytes = [&header[..], REQUEST.as_bytes()].concat();
        assert_eq!(body(&server.talk(&bytes).await), seen);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in bytes {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(body(&read_all(&mut stream).await), seen);
    }
}

#[tokio::test]
async fn a_header_without_addresses_leaves_the_peer() {
    let server = Server::start(layer(), None).await;
    let mut unix = [0; 216];
    unix[..9].copy_from_slice(b"/run/from");
    for (header, seen) in [
        ("PROXY UNKNOWN\r\n".into(), "v1"),
        ("PROXY UNKNOWN 1 2 3 4 5 6 7\r\n".into(), "v1"),
        (v2(0x20, 0x00, &[]), "v2 local="),
        (v2(0x20, 0x11, &IPV4), "v2 local="),
        (v2(0x21, 0x00, &[]), "v2"),
        (v2(0x21, 0x31, &unix), "v2 unix=/run/from"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let own = stream.local_addr().unwrap();
        let bytes = [&header[..], REQUEST.as_bytes()].concat();
        stream.write_all(&bytes).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert_eq!(body(&answer), format!("{own} {} {seen}", server.address));
    }
}

#[tokio::test]
async fn the_header_stands_before_the_handshake() {
    let authority = pki::Authority::new();
    let mut server = Server::start(layer(), Some(tls(&authority))).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(LINE.as_bytes()).await.unwrap();
    let mut client = authority.client();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = pki::handshake(stream, client, "localhost").await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(body(&answer), "203.0.113.7:50000 192.0.2.1:443 v1");

    // No header: the ClientHello is refused.
    let stream = TcpStream::connect(server.address).await.unwrap();
    let client = authority.client_of(&[&rustls::version::TLS13]);
    assert!(pki::handshake(stream, client, "localhost").await.is_err());
    assert_eq!(server.event().await.0, "proxy_header");
}

#[tokio::test]
async fn log_backend_and_hash_see_the_client() {
    let origin = |name: &'static str| {
        Origin::serve(move |request| {
            let chain = request.headers()["x-forwarded-for"].to_str().unwrap();
            let seen = format!("{name} {chain}");
            async move { Response::new(Full::new(Bytes::from(seen))) }
        })
    };
    let origins = [origin("a").await, origin("b").await, origin("c").await];
    let backends = ["a", "b", "c"].into_iter().zip(&origins);
    let backends = backends.map(|(id, origin)| Backend::new(id, &origin.url()).unwrap());
    let pool = Pool::new(backends).unwrap();
    let lines = Written::default();
    let sink = Lines::writer(lines.clone()).unwrap();
    let log = AccessLogLayer::new(sink.clone());
    let strategy = ConsistentHash::new(HashKey::Client);
    let balancer = LoadBalancer::builder(pool.clone())
        .access_log(log.clone())
        .balance(BalanceLayer::new(pool.clone()).strategy(strategy))
        .unwrap()
        .health(HealthLayer::new(pool).no_checks())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = evenkeel::serve(listener, balancer.build()).layer(layer());
    tokio::spawn(serve.events(log).into_future());

    let mut homes = std::collections::BTreeMap::new();
    for nth in 0..60 {
        let client = format!("203.0.113.{}", nth % 20);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let line = format!("PROXY TCP4 {client} 192.0.2.1 {} 443\r\n", 50_000 + nth);
        let bytes = [line.as_bytes(), REQUEST.as_bytes()].concat();
        stream.write_all(&bytes).await.unwrap();
        let answer = read_all(&mut stream).await;
        let (home, chain) = body(&answer).split_once(' ').unwrap();
        assert_eq!(chain, client, "X-Forwarded-For");
        let first = homes.entry(client).or_insert_with(|| home.to_owned());
        assert_eq!(first, home, "a client has one home");
    }
    let used: std::collections::BTreeSet<_> = homes.values().collect();
    assert_eq!(used.len(), 3, "they spread: {homes:?}");
    assert!(sink.flush());
    let written = lines.take();
    let written = String::from_utf8(written).unwrap();
    assert_eq!(written.lines().count(), 60);
    for (nth, line) in written.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["client"], format!("203.0.113.{}", nth % 20), "{line}");
        assert_eq!(line["peer"], "127.0.0.1", "{line}");
    }

    // A refused header has a line, too.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PROXY nonsense\r\n").await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    assert!(sink.flush());
    let line: Value = serde_json::from_slice(&lines.take()).unwrap();
    assert_eq!(line["outcome"], "proxy_header", "{line}");
    assert_eq!(line["client"], "127.0.0.1", "{line}");
    assert_eq!(line["detail"], "version 1: Header has an invalid protocol.");
}
