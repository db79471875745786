//! TLS around a connection service and around an axum listener, with real clients.
#![cfg(feature = "__tls")]

mod acme;
mod axum_listener;
mod backends;
mod certificates;
mod client_auth;
mod clients;
mod expiry;
mod failures;
mod from_settings;
mod handshakes;
mod hostile;
mod hsts_and_redirect;
mod on_demand;
mod policies;
mod sessions;
mod under_serve;
mod watching;

use std::{convert::Infallible, future::IntoFuture, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    context::{Conn, ConnInfo, ConnectionEvent, ConnectionEvents, GracefulShutdown, Peer, TlsInfo},
    tls::{Certificate, Certificates, TlsConfig, TlsLayer, TlsStream},
};
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn as http_service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::support::pki::{Authority, Issued};

/// A TLS server in the first world: a foreign connection service (hyper, here) under the layer.
/// It answers every request with what it knows of the session.
struct Server {
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<ConnectionEvent>,
    shutdown: Arc<GracefulShutdown>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(layer: TlsLayer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let sink: Arc<dyn ConnectionEvents> = Arc::new(Events(sender));
        let service = layer.layer(service_fn(serve));
        let shutdown = Arc::new(GracefulShutdown::new());
        let drains = shutdown.clone();
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let info = ConnInfo::new(Peer::Tcp(peer), Peer::Tcp(address));
                let conn = Conn::new(stream, info)
                    .with_events(sink.clone())
                    .with_shutdown(drains.signal());
                running.spawn(service.clone().oneshot(conn));
            }
        });
        Self {
            address,
            events,
            shutdown,
            task,
        }
    }

    /// The event that comes next.
    async fn event(&mut self) -> ConnectionEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event must come").unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(conn: Conn<TlsStream<TcpStream>>) -> Result<(), BoxError> {
    let info = conn.info.clone();
    let service = http_service_fn(move |_| {
        let described = describe(info.tls().expect("the handshake is over before a request"));
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(described)))) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(conn.io), service)
        .await
}

fn describe(tls: &TlsInfo) -> String {
    format!(
        "{} {} {} alpn={} sni={} resumed={} certificates={} client={}",
        tls.version,
        tls.cipher,
        tls.key_exchange.unwrap_or("-"),
        String::from_utf8_lossy(tls.alpn.as_deref().unwrap_or(b"-")),
        tls.sni.as_deref().unwrap_or("-"),
        tls.resumed,
        tls.client_certificates.len(),
        tls.client.as_ref().map_or_else(
            || "-".to_owned(),
            |client| format!(
                "{} {} {}",
                client.subject,
                client.names.join(" "),
                client.serial
            )
        ),
    )
}

/// Sends a request over an open stream of HTTP/1.1 and returns the answer's body.
async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    request(stream, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await
}

async fn request(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let length = name.eq_ignore_ascii_case("content-length");
                length.then(|| value.parse::<usize>().unwrap())
            });
            if length.is_some_and(|length| body.len() >= length) {
                return body.to_owned();
            }
        }
        let read = stream.read_buf(&mut answer).await.unwrap();
        assert!(read > 0, "the answer must be whole: {answer:?}");
    }
}

struct Events(mpsc::UnboundedSender<ConnectionEvent>);

impl ConnectionEvents for Events {
    fn connection_ended(&self, event: &ConnectionEvent) {
        let _ = self.0.send(event.clone());
    }
}

fn config(issued: &Issued) -> TlsConfig {
    TlsConfig::new(certificates(&[issued]))
}

fn certificates(issued: &[&Issued]) -> Certificates {
    let pem = |issued: &&Issued| Certificate::pem(issued.chain.clone(), issued.key.clone());
    Certificates::new(issued.iter().map(pem)).unwrap()
}

/// Clients whose ALPN says HTTP/1.1.
fn http1(mut client: rustls::ClientConfig) -> rustls::ClientConfig {
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client
}

/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(30);
