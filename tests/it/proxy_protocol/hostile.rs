//! Peers that are not trusted, and peers that are slow, silent or malformed.

use super::*;

#[tokio::test]
async fn a_header_from_an_unlisted_peer_is_refused() {
    let elsewhere = || ProxyProtocolLayer::new(TrustedPeers::new(["192.0.2.0/24"]).unwrap());
    let authority = pki::Authority::new();
    let mut clear = Server::start(elsewhere(), None).await;
    let mut secure = Server::start(elsewhere(), Some(tls(&authority))).await;
    for header in [
        LINE.into(),
        "PROXY UNKNOWN\r\n".into(),
        v2(0x21, 0x11, &IPV4),
        v2(0x20, 0, &[]),
    ] {
        let bytes = [&header[..], REQUEST.as_bytes()].concat();
        let answer = clear.talk(&bytes).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{header:?}: {answer:?}"
        );
        assert_eq!(clear.event().await.0, "bad_request");
        let answer = secure.talk(&bytes).await;
        assert!(!answer.contains(" 200 "), "{header:?}: {answer:?}");
        assert_eq!(secure.event().await.0, "tls_handshake");
    }
    // A client that sends none is served as itself.
    let mut stream = TcpStream::connect(clear.address).await.unwrap();
    let own = stream.local_addr().unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(body(&answer), format!("{own} {} no header", clear.address));
}

#[tokio::test]
async fn a_trusted_peer_without_a_header_is_refused_unless_it_is_optional() {
    let mut server = Server::start(layer(), None).await;
    assert_eq!(server.talk(REQUEST.as_bytes()).await, "");
    let (kind, detail) = server.event().await;
    assert_eq!(kind, "proxy_header");
    assert_eq!(detail, "no PROXY protocol header from a trusted peer");

    let server = Server::start(layer().required(false), None).await;
    let answer = server.talk(REQUEST.as_bytes()).await;
    assert!(body(&answer).ends_with("no header"), "{answer}");
    let answer = server.talk(&[LINE, REQUEST].concat().into_bytes()).await;
    assert!(body(&answer).starts_with("203.0.113.7:50000 "), "{answer}");
}

#[tokio::test]
async fn malformed_and_oversized_headers_are_never_served() {
    let mut server = Server::start(layer(), None).await;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    for header in [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 50000\r\n".to_vec(),
        long.into_bytes(),
        v2(0x21, 0x11, &[0; 497]),
        v2(0x21, 0x12, &IPV4),
        v2(0x31, 0x11, &IPV4),
        [LINE.as_bytes(), LINE.as_bytes()].concat(),
    ] {
        let answer = server.talk(&[&header, REQUEST.as_bytes()].concat()).await;
        assert!(!answer.contains(" 200 "), "{header:?}: {answer:?}");
        let (kind, detail) = server.event().await;
        // The second of two headers is a malformed request.
        let twice = header.starts_with(LINE.as_bytes());
        let wanted = if twice { "bad_request" } else { "proxy_header" };
        assert_eq!(kind, wanted, "{header:?}: {detail}");
    }
}

#[tokio::test]
async fn slow_peers_delay_no_other_and_are_closed() {
    let timeout = Duration::from_secs(2);
    let mut server = Server::start(layer().timeout(timeout).unwrap(), None).await;
    let mut slow = Vec::new();
    for nth in 0..200 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let sent = &LINE.as_bytes()[..nth % 40];
        stream.write_all(sent).await.unwrap();
        slow.push(stream);
    }
    let began = tokio::time::Instant::now();
    let answer = server.talk(&[LINE, REQUEST].concat().into_bytes()).await;
    body(&answer);
    assert!(began.elapsed() < timeout, "the slow ones must not delay it");
    for mut stream in slow {
        assert_eq!(read_all(&mut stream).await, "");
    }
    for _ in 0..200 {
        assert_eq!(server.event().await.0, "proxy_timeout");
    }
}
