//! The promises of the room's docs.

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream as Session;

use super::*;

#[test]
fn the_table_of_defaults_says_what_the_code_does() {
    let docs = include_str!("mod.rs");
    let timeout = layer::HANDSHAKE_TIMEOUT.as_secs();
    let alpn: Vec<_> = config::ALPN
        .iter()
        .map(|name| format!("`{}`", String::from_utf8_lossy(name)))
        .collect();
    for row in [
        format!("| versions | {} and 1.3;", config::MIN_VERSION),
        format!("| ALPN | {} |", alpn.join(", ")),
        format!("| handshake time-out, from TCP accept | {timeout} s |"),
        format!("| handshakes at once | {} |", layer::MAX_HANDSHAKES),
        format!("[`RELOAD_INTERVAL`] is {} s |", RELOAD_INTERVAL.as_secs()),
        format!("| HSTS `max-age` | {} s |", hsts::HSTS_MAX_AGE.as_secs()),
        format!(
            "| port that cleartext is sent to | {} |",
            https_redirect::HTTPS_PORT
        ),
    ] {
        assert!(docs.contains(&row), "the docs must say: {row}");
    }
}

#[test]
fn types_can_be_shared_and_are_small() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<TlsLayer>();
    shared::<Tls<()>>();
    shared::<Certificates>();
    shared::<HstsLayer>();
    shared::<HttpsRedirectLayer>();
    sent::<TlsStream<TcpStream>>();
    assert!(
        size_of::<TlsStream<TcpStream>>() <= 24,
        "the stream is moved about"
    );
    let handshake = size_of::<handshake::Handshake<TcpStream>>();
    assert!(handshake <= 2_048, "{handshake} bytes a handshake");
    let session = size_of::<Session<TcpStream>>();
    assert!(session <= 1_536, "{session} bytes a session");
}
