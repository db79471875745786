//! The server over TLS: ALPN selects the protocol, and the stream below buffers what it accepted.
#![cfg(feature = "__tls")]

use evenkeel::tls::{Certificate, Certificates, TlsConfig, TlsLayer};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::support::pki::{self, Authority};

struct Secure {
    address: SocketAddr,
    authority: Authority,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
    seen: Seen,
}

/// Echoes, within short deadlines.
async fn secure() -> Secure {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let certificate = Certificate::pem(issued.chain.clone(), issued.key.clone());
    let config = TlsConfig::new(Certificates::new([certificate]).unwrap());
    let app = service_fn(|request: Request<Body>| async move {
        let conn = ConnInfo::of(request.extensions()).unwrap();
        assert!(conn.tls().is_some(), "every request knows its session");
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let (listener, address) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let seen = Seen::default();
    let serve = evenkeel::serve(listener, app)
        .http(|http| {
            http.head_timeout(Duration::from_secs(1))?
                .idle_timeout(Duration::from_secs(1))
        })
        .unwrap()
        .layer(TlsLayer::new(config))
        .events(seen.clone())
        .shutdown(async {
            let _ = stopped.await;
        });
    Secure {
        address,
        authority,
        stop: Some(stop),
        task: tokio::spawn(serve.into_future()),
        seen,
    }
}

impl Secure {
    async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut client = self.authority.client();
        client.alpn_protocols = vec![alpn.to_vec()];
        pki::connect(self.address, client, "localhost")
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_protocols() {
    let server = secure().await;
    let body = Bytes::from(vec![b'z'; 4 << 20]);
    let io = TokioIo::new(server.connect(b"h2").await);
    let (mut http2, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(conn);
    let io = TokioIo::new(server.connect(b"http/1.1").await);
    let (mut http1, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(conn);
    for _ in 0..2 {
        let post = || {
            Request::post("https://localhost/")
                .header("host", "localhost")
                .body(Full::new(body.clone()))
                .unwrap()
        };
        let both = async {
            let (a, b) = (http2.send_request(post()), http1.send_request(post()));
            let (a, b) = tokio::join!(a, b);
            let (a, b) = tokio::join!(
                a.unwrap().into_body().collect(),
                b.unwrap().into_body().collect()
            );
            (a.unwrap().to_bytes(), b.unwrap().to_bytes())
        };
        let (a, b) = tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("nothing may be left in the session's buffers");
        assert!(a == body && b == body);
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_closed() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let server = secure().await;
        let mut client = server.connect(alpn).await;
        let got = rest(&mut client).await;
        assert!(!got.contains("HTTP/1.1"), "no head began: {got:?}");
        assert!(server.seen.0.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_drain_ends_idle_sessions_and_answers_begun_heads() {
    let mut server = secure().await;
    let mut used = server.connect(b"http/1.1").await;
    let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nping";
    exchange(&mut used, post, b"ping").await;
    let mut begun = server.connect(b"http/1.1").await;
    begun.write_all(&post[..9]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.take();
    // Until the server has seen the signal, it answers as before.
    while TcpStream::connect(server.address).await.is_ok() {}
    let got = exchange(&mut begun, &post[9..], b"ping").await;
    let got = String::from_utf8(got).unwrap();
    assert!(got.contains("connection: close"), "{got}");
    assert_eq!(rest(&mut used).await, "");
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .expect("nothing is left")
        .unwrap()
        .unwrap();
}
