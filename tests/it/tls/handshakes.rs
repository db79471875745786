//! What a handshake settles, and that requests learn it.

use std::process::Stdio;

use rcgen::PKCS_RSA_SHA256;
use rustls::{
    ServerConfig,
    client::Resumption,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::process::Command;

use super::*;
use crate::support::pki::{connect, test_provider};

#[tokio::test]
async fn a_foreign_connection_service_sees_the_session() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    // Key exchange that a quantum computer cannot undo is preferred; TLS 1.2 has none.
    for (version, name, cipher, group) in [
        (
            &TLS13,
            "TLSv1.3",
            "TLS_AES_256_GCM_SHA384",
            "X25519MLKEM768",
        ),
        (
            &TLS12,
            "TLSv1.2",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "x25519",
        ),
    ] {
        let client = http1(authority.client_of(&[version]));
        let mut stream = connect(server.address, client, "localhost").await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                get(&mut stream).await,
                format!(
                    "{name} {cipher} {group} alpn=http/1.1 sni=localhost resumed=false \
                     certificates=0 client=-"
                ),
                "every request of the connection sees the session"
            );
        }
    }
}

#[tokio::test]
async fn alpn_takes_the_first_of_ours_and_refuses_strangers() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let mut server = Server::start(TlsLayer::new(config(&issued))).await;
    let mut client = authority.client();
    for (offered, selected) in [
        (&["http/1.1", "h2"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        client.alpn_protocols = offered.iter().map(|n| n.as_bytes().to_vec()).collect();
        let stream = connect(server.address, client.clone(), "localhost")
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), selected, "{offered:?}");
    }
    client.alpn_protocols = vec![b"spdy/3".to_vec()];
    let refused = connect(server.address, client, "localhost").await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    let event = server.event().await;
    assert_eq!(event.kind.as_str(), "tls_handshake");
    assert_eq!(event.server_name.as_deref(), Some("localhost"), "{event:?}");

    let config = config(&issued).alpn(["acme"]).unwrap();
    let server = Server::start(TlsLayer::new(config)).await;
    let mut client = authority.client();
    client.alpn_protocols = vec![b"acme".to_vec()];
    let stream = connect(server.address, client, "localhost").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme"[..]));
}

#[tokio::test]
async fn tickets_resume_sessions_unless_switched_off() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    for tickets in [true, false] {
        let server = Server::start(TlsLayer::new(config(&issued).tickets(tickets))).await;
        for version in [&TLS12, &TLS13] {
            let mut client = http1(authority.client_of(&[version]));
            client.resumption = Resumption::in_memory_sessions(8);
            let client = Arc::new(client);
            let mut seen = Vec::new();
            for _ in 0..2 {
                let stream = connect(server.address, client.clone(), "localhost").await;
                let described = get(&mut stream.unwrap()).await;
                seen.push(described.contains("resumed=true"));
            }
            assert_eq!(seen, [false, tickets], "{version:?}, tickets {tickets}");
        }
    }
}

#[tokio::test]
async fn client_certificates_reach_the_request() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let roots = Arc::new(authority.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, test_provider());
    let config = ServerConfig::builder_with_provider(test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![issued.certificate()], issued.key())
        .unwrap();
    let mut server = Server::start(TlsLayer::from_rustls(config)).await;
    let own = authority.issue(&["client"]);
    let mut client = rustls::ClientConfig::builder_with_provider(test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_client_auth_cert(vec![own.certificate()], own.key())
        .unwrap();
    client.alpn_protocols = Vec::new();
    let mut stream = connect(server.address, client, "localhost").await.unwrap();
    let described = get(&mut stream).await;
    assert!(described.contains("alpn=- sni=localhost"), "{described}");
    assert!(
        described.contains("certificates=1 client=CN="),
        "{described}"
    );

    // In TLS 1.3 a client learns of its refusal after the handshake.
    let stream = connect(server.address, authority.client(), "localhost").await;
    if let Ok(mut stream) = stream {
        assert!(stream.read_u8().await.is_err());
    }
    let event = server.event().await;
    assert!(event.detail.contains("certificates"), "{event:?}");
}

/// A provider of the process would be the program's choice, and rustls panics where two are there.
#[tokio::test]
async fn no_provider_is_installed_for_the_process() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    let client = authority.client();
    assert!(connect(server.address, client, "localhost").await.is_ok());
    let _tls = evenkeel::connect::ClientTls::new();
    let _danger = evenkeel::connect::DangerousClientTls::without_verification();
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn versions_below_the_least_are_refused() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    for least in ["1.2", "1.3"] {
        let config = config(&issued).min_version(least.parse().unwrap());
        let mut server = Server::start(TlsLayer::new(config)).await;
        for version in ["-tls1_1", "-tls1_2", "-tls1_3"] {
            let ok = s_client(server.address, &[version, "-cipher", "DEFAULT@SECLEVEL=0"]).await;
            let may = version == "-tls1_3" || (version == "-tls1_2" && least == "1.2");
            assert_eq!(ok, may, "openssl {version} where {least} is the least");
            if !may {
                let event = server.event().await;
                assert_eq!(event.kind.as_str(), "tls_handshake");
            }
        }
    }
}

#[tokio::test]
async fn suites_without_forward_secrecy_are_refused() {
    let authority = Authority::new();
    let issued = authority.issue_with(&["localhost"], &PKCS_RSA_SHA256);
    let server = Server::start(TlsLayer::new(config(&issued))).await;
    for (cipher, may) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", true),
        ("AES128-GCM-SHA256", false),
        ("ECDHE-RSA-AES128-SHA", false),
    ] {
        let ok = s_client(server.address, &["-tls1_2", "-cipher", cipher]).await;
        assert_eq!(ok, may, "openssl -cipher {cipher}");
    }
}

#[tokio::test]
async fn curl_speaks_both_http_versions() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(config(&authority.issue(&["localhost"])))).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    for (version, alpn) in [("--http1.1", "http/1.1"), ("--http2", "h2")] {
        let output = Command::new("curl")
            .args(["-sS", version, "--cacert"])
            .arg(&ca)
            .arg(format!("https://localhost:{}/", server.address.port()))
            .arg("--resolve")
            .arg(format!("localhost:{}:127.0.0.1", server.address.port()))
            .kill_on_drop(true)
            .output()
            .await
            .expect("curl is there");
        let described = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("alpn={alpn} sni=localhost");
        assert!(described.contains(&wanted), "{described} {output:?}");
    }
}

/// Whether openssl's client ends the handshake.
async fn s_client(address: SocketAddr, options: &[&str]) -> bool {
    let status = Command::new("openssl")
        .args(["s_client", "-brief", "-connect", &address.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    status.await.expect("openssl is there").success()
}
