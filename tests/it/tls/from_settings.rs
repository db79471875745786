//! `[listen.tls]` and `[proxy.tls]`: what a file says is what handshakes follow.
#![cfg(all(feature = "serde", feature = "proxy", feature = "http2"))]

use std::fs;

use evenkeel::settings::Settings;
use rustls::client::Resumption;

use super::*;
use crate::support::pki::connect;

#[tokio::test]
async fn handshakes_follow_the_settings() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["open.test", "secret.test"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [
        ("cert.pem", &issued.chain),
        ("key.pem", &issued.key),
        ("clients.pem", &authority.pem()),
        (
            "tickets.key",
            &"0123456789abcdef0123456789abcdef\n".to_owned(),
        ),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let text = format!(
        r#"
[[listen]]
address = "127.0.0.1:0"
[listen.tls]
certificates = [{{ chain = {:?}, key = {:?} }}]
strict_sni = true
ticket_secret_files = [{:?}]
hosts = [{{ name = "secret.test", client_ca = [{:?}], min_version = "1.3" }}]
[pool]
[[pool.backends]]
id = "a"
url = "http://127.0.0.1:1"
"#,
        path("cert.pem"),
        path("key.pem"),
        path("tickets.key"),
        path("clients.pem"),
    );
    let settings = Settings::from_toml(&text).unwrap();
    let (layer, certificates) = settings.tls(0).unwrap().unwrap();
    let (other_layer, _other) = settings.tls(0).unwrap().unwrap();
    let server = Server::start(layer).await;
    let other = Server::start(other_layer).await;

    // The ticket of one instance is good at the other.
    let mut client = http1(authority.client());
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for (server, resumed) in [(&server, "resumed=false"), (&other, "resumed=true")] {
        let stream = connect(server.address, client.clone(), "open.test").await;
        let seen = get(&mut stream.unwrap()).await;
        assert!(seen.contains(resumed), "{seen}");
    }
    let unknown = connect(server.address, authority.client(), "unknown.test").await;
    assert!(unknown.unwrap_err().to_string().contains("AccessDenied"));
    let tls12 = authority.client_of(&[&rustls::version::TLS12]);
    let old = connect(server.address, tls12, "secret.test").await;
    assert!(old.unwrap_err().to_string().contains("ProtocolVersion"));

    // The roots of clients are read again together with the certificates.
    let own = http1(authority.client_with(&clients.issue(&["me"])));
    let served = async |client: rustls::ClientConfig| {
        let mut stream = connect(server.address, client, "secret.test")
            .await
            .unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    assert!(served(own.clone()).await.is_err());
    fs::write(path("clients.pem"), clients.pem()).unwrap();
    assert!(certificates.reload().unwrap());
    let answer = served(own).await.unwrap();
    assert!(answer.contains("certificates=1"), "{answer}");

    // A file that is not there is named, once.
    let missing = text.replace("clients.pem", "missing.pem");
    let settings = Settings::from_toml(&missing).unwrap();
    let error = settings.tls(0).unwrap_err().to_string();
    let wanted = "line 8: [listen.tls] hosts: client_roots: ";
    assert!(
        error.contains(wanted) && error.contains("missing.pem"),
        "{error}"
    );
    assert_eq!(Settings::mistakes(&missing).len(), 1);
}

#[tokio::test]
async fn a_host_follows_its_own_revocation_lists_else_those_of_the_listener() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["open.test", "own.test", "repeats.test"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [
        ("cert.pem", issued.chain),
        ("key.pem", issued.key),
        ("clients.pem", clients.pem()),
        ("one.pem", clients.revoke(&[1])),
        ("two.pem", clients.revoke(&[2])),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let text = format!(
        r#"
[[listen]]
address = "127.0.0.1:0"
[listen.tls]
certificates = [{{ chain = {:?}, key = {:?} }}]
client_ca = [{:?}]
client_crl = [{:?}]
hosts = [
    {{ name = "own.test", client_crl = [{:?}] }},
    {{ name = "repeats.test", client_auth = "required" }},
]
[pool]
[[pool.backends]]
id = "a"
url = "http://127.0.0.1:1"
"#,
        path("cert.pem"),
        path("key.pem"),
        path("clients.pem"),
        path("one.pem"),
        path("two.pem"),
    );
    let settings = Settings::from_toml(&text).unwrap();
    let (layer, _certificates) = settings.tls(0).unwrap().unwrap();
    let server = Server::start(layer).await;
    for (host, serial, accepted) in [
        ("open.test", 1, false),
        ("open.test", 2, true),
        ("own.test", 1, true),
        ("own.test", 2, false),
        ("repeats.test", 1, false),
        ("repeats.test", 2, true),
    ] {
        let own = clients.issue_of(&["me"], |params| {
            params.serial_number = Some(vec![serial].into());
        });
        let client = http1(authority.client_with(&own));
        let answer = async {
            let mut stream = connect(server.address, client, host).await?;
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        };
        let answer = answer.await;
        assert_eq!(answer.is_ok(), accepted, "{host}, {serial}: {answer:?}");
    }
}
