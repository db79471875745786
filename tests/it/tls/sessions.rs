//! Resumption: behind several instances, across hosts, and never for hosts with client certificates.

use evenkeel::tls::{ClientAuth, ClientRoots, HostPolicy, TicketSecret, TlsVersion};
use rustls::{
    ClientConfig,
    client::Resumption,
    version::{TLS12, TLS13},
};

use super::*;
use crate::support::pki::connect;

fn resuming(mut client: ClientConfig) -> Arc<ClientConfig> {
    client = http1(client);
    client.resumption = Resumption::in_memory_sessions(8);
    Arc::new(client)
}

async fn resumes(server: &Server, client: &Arc<ClientConfig>, name: &str) -> bool {
    let stream = connect(server.address, client.clone(), name).await;
    get(&mut stream.unwrap()).await.contains("resumed=true")
}

#[tokio::test]
async fn a_client_resumes_at_another_instance_with_the_same_secret() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let start = |secret: Option<TicketSecret>| {
        let config = match secret {
            Some(secret) => config(&issued).ticket_secret(secret),
            None => config(&issued),
        };
        Server::start(TlsLayer::new(config))
    };
    let (old, new) = ([1; 32], [2; 48]);
    let secret = |bytes: &[u8]| TicketSecret::new(bytes).unwrap();
    for version in [&TLS12, &TLS13] {
        for (first, second, resumed, case) in [
            (Some(secret(&old)), Some(secret(&old)), true, "one secret"),
            (Some(secret(&old)), Some(secret(&new)), false, "two secrets"),
            (None, None, false, "no secret"),
            (
                Some(secret(&old)),
                Some(secret(&new).previous(&old).unwrap()),
                true,
                "the previous secret",
            ),
        ] {
            let client = resuming(authority.client_of(&[version]));
            let (first, second) = (start(first).await, start(second).await);
            assert!(!resumes(&first, &client, "localhost").await, "{case}");
            let seen = resumes(&second, &client, "localhost").await;
            assert_eq!(seen, resumed, "{version:?}: {case}");
        }
    }
}

#[tokio::test]
async fn hosts_with_client_certificates_issue_no_tickets() {
    let authority = Authority::new();
    let issued = authority.issue(&["a.test", "b.test", "c.test"]);
    let auth = ClientAuth::optional(ClientRoots::pem(authority.pem())).unwrap();
    let config = config(&issued)
        .ticket_secret(TicketSecret::new(&[1; 32]).unwrap())
        .client_auth(auth)
        .host("b.test", HostPolicy::new().no_client_auth())
        .unwrap();
    let server = Server::start(TlsLayer::new(config)).await;
    for version in [&TLS12, &TLS13] {
        let client = resuming(authority.client_of(&[version]));
        for (name, resumed) in [("a.test", false), ("b.test", true)] {
            assert!(!resumes(&server, &client, name).await);
            assert_eq!(resumes(&server, &client, name).await, resumed, "{name}");
        }
    }
}

/// A client that was let in at one host must not resume that session at a host with another policy
/// (CVE-2025-23419): openssl sends the ticket of one host with the name of another.
#[tokio::test]
async fn a_session_is_not_resumed_under_another_policy() {
    let authority = Authority::new();
    let issued = authority.issue(&["a.test", "b.test"]);
    let policy = HostPolicy::new().min_version(TlsVersion::V1_2);
    let config = config(&issued)
        .ticket_secret(TicketSecret::new(&[1; 32]).unwrap())
        .host("b.test", policy)
        .unwrap();
    let server = Server::start(TlsLayer::new(config)).await;
    let folder = tempfile::tempdir().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = folder.path().join(version);
        let session = session.to_str().unwrap();
        let options = [version, "-servername", "a.test", "-sess_out", session];
        let seen = s_client(&server, &options).await;
        assert!(seen.contains("resumed=false"), "{seen}");
        for (name, resumed) in [("b.test", false), ("a.test", true)] {
            let options = [version, "-servername", name, "-sess_in", session];
            let seen = s_client(&server, &options).await;
            let wanted = format!("sni={name} resumed={resumed}");
            assert!(seen.contains(&wanted), "{version} {name}: {seen}");
        }
    }
}

/// The answer to a request that openssl's client sends.
async fn s_client(server: &Server, options: &[&str]) -> String {
    let mut child = tokio::process::Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-ign_eof",
            "-connect",
            &server.address.to_string(),
        ])
        .args(options)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is there");
    let mut input = child.stdin.take().unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    input.write_all(request).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    drop(input);
    String::from_utf8(output.unwrap().unwrap().stdout).unwrap()
}
