//! Requests to the examples: a connection each.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::BoxError;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, channel::Channel};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::process::PATIENCE;
use crate::support::pki;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Which backend answered; a name is wanted.
    pub(crate) fn backend(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.header("x-backend").to_owned()
    }
}

/// Gets a page in cleartext.
pub(crate) async fn try_get(address: SocketAddr, path: &str) -> Result<Answer, BoxError> {
    let stream = TcpStream::connect(address).await?;
    exchange(stream, false, &address.to_string(), path, "").await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    try_get(address, path).await.unwrap()
}

/// Posts nothing, with a bearer token unless it is empty.
pub(crate) async fn post(address: SocketAddr, path: &str, token: &str) -> Answer {
    post_form(address, path, token, "").await
}

/// Posts the fields of a form, if there are any.
pub(crate) async fn post_form(address: SocketAddr, path: &str, token: &str, form: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let authorization = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let content = match form {
        "" => "",
        _ => "content-type: application/x-www-form-urlencoded\r\n",
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}{content}content-length: {}\r\n\
         connection: close\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        headers: HeaderMap::new(),
        body: body.to_owned(),
    }
}

/// Gets a page with a new connection and nothing else between the clock and the answer; returns
/// both. It blocks.
pub(crate) fn get_bare(address: SocketAddr) -> (String, Duration) {
    let began = Instant::now();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer, began.elapsed())
}

/// Gets a page over TLS, as `localhost`, with the protocol that ALPN selects, and a cookie.
pub(crate) async fn get_tls(
    address: SocketAddr,
    config: ClientConfig,
    path: &str,
    cookie: &str,
) -> Answer {
    let stream = pki::connect(address, config, "localhost").await.unwrap();
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let host = format!("localhost:{}", address.port());
    exchange(stream, http2, &host, path, cookie).await.unwrap()
}

/// A client of TLS that resumes its sessions.
pub(crate) struct ResumingClient(Arc<ClientConfig>);

impl ResumingClient {
    pub(crate) fn new(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::in_memory_sessions(8);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(config))
    }

    /// Gets a page with a connection of its own; returns what its handshake was.
    pub(crate) async fn handshake(&self, address: SocketAddr) -> HandshakeKind {
        let stream = pki::connect(address, self.0.clone(), "localhost").await;
        let mut stream = stream.unwrap();
        let head = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        stream.get_ref().1.handshake_kind().unwrap()
    }
}

/// Returns what the API of an operator says of a backend.
pub(crate) async fn backend_status(admin: SocketAddr, id: &str) -> Value {
    let status: Value = serde_json::from_str(&get(admin, "/status.json").await.body).unwrap();
    let mut backends = status["backends"].as_array().unwrap().iter();
    backends.find(|found| found["id"] == id).unwrap().clone()
}

/// Has this many bytes echoed; returns how many came back.
pub(crate) async fn echo(address: SocketAddr, bytes: usize) -> usize {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(conn);
    let (mut upload, body) = Channel::<Bytes, Infallible>::new(1);
    let piece = Bytes::from(vec![b'x'; 64 * 1_024]);
    let sent = tokio::spawn(async move {
        for _ in 0..bytes / piece.len() {
            upload.send_data(piece.clone()).await.unwrap();
        }
    });
    let request = Request::post("/echo").header(header::HOST, "a").body(body);
    let answer = async {
        let mut body = sender
            .send_request(request.unwrap())
            .await
            .unwrap()
            .into_body();
        let mut back = 0;
        while let Some(frame) = body.frame().await {
            back += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        back
    };
    let back = timeout(PATIENCE, answer).await.expect("an end");
    sent.await.unwrap();
    back
}

/// Posts over one connection of HTTP/1.1 until a response says that it closes.
pub(crate) async fn post_until_told(address: SocketAddr, answered: Arc<AtomicUsize>) {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(conn);
    let posting = async {
        loop {
            let request = Request::post("/").header(header::HOST, "a");
            let request = request.body(Full::new(Bytes::from("hi"))).unwrap();
            let answer = sender.send_request(request).await.expect("no loss");
            let closes = answer.headers().get(header::CONNECTION).cloned();
            assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
            answer.into_body().collect().await.expect("no loss");
            answered.fetch_add(1, SeqCst);
            if closes.is_some_and(|value| value == "close") {
                return;
            }
            sender.ready().await.expect("not before it says so");
        }
    };
    timeout(PATIENCE, posting).await.expect("the event arrives");
}

/// Posts over one connection of HTTP/2 until a GOAWAY.
pub(crate) async fn post_until_goaway(address: SocketAddr, answered: Arc<AtomicUsize>) {
    let io = TcpStream::connect(address).await.unwrap();
    let (client, conn) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(conn);
    let posting = async {
        while let Ok(mut ready) = client.clone().ready().await {
            let request = Request::post("http://a/").body(()).unwrap();
            let Ok((answer, mut body)) = ready.send_request(request, false) else {
                return;
            };
            let _ = body.send_data(Bytes::from("hi"), true);
            match answer.await {
                Ok(answer) => assert_eq!(answer.status(), StatusCode::OK, "{answer:?}"),
                // Behind the last stream that the GOAWAY names.
                Err(error) => return assert!(error.is_go_away() && error.is_remote(), "{error}"),
            }
            answered.fetch_add(1, SeqCst);
        }
    };
    timeout(PATIENCE, posting).await.expect("the event arrives");
}

/// What `curl -k` trusts: every certificate.
pub(crate) fn insecure() -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(pki::test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = pki::test_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

async fn exchange<Io>(
    stream: Io,
    http2: bool,
    host: &str,
    path: &str,
    cookie: &str,
) -> Result<Answer, BoxError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let mut request = match http2 {
        true => Request::get(format!("https://{host}{path}")),
        false => Request::get(path).header(header::HOST, host),
    };
    if !cookie.is_empty() {
        request = request.header(header::COOKIE, cookie);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = if http2 {
            let executor = TokioExecutor::new();
            let (mut sender, conn) = hyper::client::conn::http2::handshake(executor, io).await?;
            tokio::spawn(conn);
            sender.send_request(request).await?
        } else {
            let (mut sender, conn) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(conn);
            sender.send_request(request).await?
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, BoxError>(Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body.to_vec())?,
        })
    };
    timeout(PATIENCE, answer).await?
}
