//! Clients that are silent, slow, wrong or rude.

use evenkeel::context::ConnectionEventKind;
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::time::{Instant, timeout};

use super::*;
use crate::support::pki::connect;

#[tokio::test]
async fn plaintext_http_is_answered_with_a_hint_to_use_https() {
    let authority = Authority::new();
    let mut server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    // The second has more to say than anyone wants to hear.
    for more in [0, 20_000] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n\r\n{}", "x".repeat(more));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{answer}"
        );
        assert!(body.contains("https://"), "{answer}");
        drop(stream);
        let event = server.event().await;
        assert_eq!(event.kind, ConnectionEventKind::TlsHandshake);
        assert!(event.detail.contains("plaintext HTTP"), "{event:?}");
    }
}

#[tokio::test]
async fn the_deadline_closes_a_client_that_stalls() {
    let authority = Authority::new();
    let limit = Duration::from_millis(300);
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"]))).handshake_timeout(limit);
    let mut server = Server::start(layer).await;
    let hello = client_hello(&authority);
    for (sent, detail) in [
        // No event: browsers open connections ahead that they may never use.
        (&[][..], None),
        (
            &hello[..hello.len() / 2],
            Some("in the middle of its ClientHello"),
        ),
        (&hello[..], Some("did not finish")),
    ] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(began.elapsed() >= limit, "{detail:?}: before the deadline");
        let Some(detail) = detail else {
            continue;
        };
        // The first that comes is this one's: the silent client made none.
        let event = server.event().await;
        assert_eq!(event.kind, ConnectionEventKind::TlsTimeout, "{event:?}");
        assert!(event.detail.contains(detail), "{event:?}");
        assert!(event.duration >= limit, "{event:?}");
    }
}

#[tokio::test]
async fn a_trickle_is_not_an_excuse_but_is_understood() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let layer = TlsLayer::new(config(&issued)).handshake_timeout(Duration::from_millis(300));
    let mut server = Server::start(layer).await;
    let hello = client_hello(&authority);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let trickle = async {
        for byte in &hello {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(trickle, async {
        let event = server.event().await;
        assert_eq!(
            event.kind,
            ConnectionEventKind::TlsTimeout,
            "bytes buy no time"
        );
    });

    // Byte by byte, but in time.
    let server = Server::start(TlsLayer::new(config(&issued))).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in &hello {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let read = timeout(PATIENCE, stream.read_u8()).await.unwrap();
    assert_eq!(read.unwrap(), 0x16, "a ClientHello in pieces is understood");
}

#[tokio::test]
async fn a_large_client_hello_is_understood_and_one_over_the_bound_gets_an_alert() {
    let authority = Authority::new();
    let mut server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    for names in [75, 230] {
        let mut client = authority.client();
        client.alpn_protocols = (0..names).map(|n| format!("{n:0>250}").into()).collect();
        client.alpn_protocols.push(b"http/1.1".to_vec());
        let mut stream = connect(server.address, client, "localhost").await.unwrap();
        assert!(get(&mut stream).await.starts_with("TLSv1.3"));
    }

    // One message of 65,536 bytes, in records of 16 KiB.
    let mut message = b"\x01\x01\x00\x00".to_vec();
    message.resize(4 + 0x1_0000, 0);
    let records = message.chunks(16_384).flat_map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [b"\x16\x03\x01", &length[..], part].concat()
    });
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(&records.collect::<Vec<_>>())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!(answer, b"\x15\x03\x03\x00\x02\x02\x32", "decode_error");
    drop(stream);
    let event = server.event().await;
    assert_eq!(event.kind, ConnectionEventKind::TlsHandshake, "{event:?}");
}

#[tokio::test]
async fn garbage_is_refused_and_a_connection_without_a_byte_is_no_event() {
    let authority = Authority::new();
    let mut server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    // As TCP checks do.
    drop(TcpStream::connect(server.address).await.unwrap());
    for garbage in [
        &b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10 sslv2 hello"[..],
        b"\x16\x03\x01\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x00\x04\x0e\x00\x00\x00",
        b"\0\0\0\0\0\0\0\0",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        let event = server.event().await;
        assert_eq!(event.kind, ConnectionEventKind::TlsHandshake, "{event:?}");
        assert!(
            !event.detail.is_empty() && !event.detail.contains("nothing"),
            "{event:?}"
        );
    }
    assert!(
        server.events.try_recv().is_err(),
        "one event a failure, none for the silent one"
    );
}

#[tokio::test]
async fn silent_and_stalled_clients_delay_no_other_client() {
    let authority = Authority::new();
    // One permit: a client that kept it would delay the others.
    let layer = TlsLayer::new(config(&authority.issue(&["localhost"])))
        .max_handshakes(1)
        .unwrap();
    let server = Server::start(layer).await;
    let _rude = crowd(server.address, &authority).await;
    best_handshake(server.address, &authority).await;
}

#[tokio::test]
async fn a_drain_ends_the_silent_after_a_grace_and_serves_the_others() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    let hello = client_hello(&authority);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut begun = TcpStream::connect(server.address).await.unwrap();
    let mut late = TcpStream::connect(server.address).await.unwrap();
    begun.write_all(&hello[..hello.len() / 2]).await.unwrap();
    while server.shutdown.remaining() < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.shutdown.begin();
    late.write_all(&hello).await.unwrap();
    let read = timeout(PATIENCE, late.read_u8()).await.unwrap();
    assert_eq!(read.unwrap(), 0x16, "a ClientHello may be on its way");
    let mut answer = Vec::new();
    timeout(PATIENCE / 6, silent.read_to_end(&mut answer))
        .await
        .expect("soon")
        .unwrap();
    begun.write_all(&hello[hello.len() / 2..]).await.unwrap();
    let read = timeout(PATIENCE, begun.read_u8()).await.unwrap();
    assert_eq!(read.unwrap(), 0x16, "a handshake that was begun goes on");
}

/// 256 that say nothing, 256 that stop in the middle of their ClientHello, 64 that never answer
/// our flight.
pub(super) async fn crowd(address: SocketAddr, authority: &Authority) -> Vec<TcpStream> {
    let hello = client_hello(authority);
    let mut crowd = Vec::new();
    for (count, sent) in [
        (256, &[][..]),
        (256, &hello[..hello.len() / 2]),
        (64, &hello[..]),
    ] {
        for _ in 0..count {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            crowd.push(stream);
        }
    }
    crowd
}

/// Asserts that another client's handshake is quick: the best of a few, since the machine may be busy.
pub(super) async fn best_handshake(address: SocketAddr, authority: &Authority) {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let began = Instant::now();
        let stream = connect(address, http1(authority.client()), "localhost").await;
        let described = get(&mut stream.unwrap()).await;
        assert!(described.starts_with("TLSv1.3"), "{described}");
        best = best.min(began.elapsed());
        if best < Duration::from_millis(100) {
            return;
        }
    }
    panic!("another's handshake must not wait: {best:?}");
}

pub(super) fn client_hello(authority: &Authority) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(authority.client()), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}
