//! Certificates of clients: required, optional, revoked, and what requests learn of them.

use evenkeel::tls::{ClientAuth, ClientRoots};
use rustls::ClientConfig;

use super::*;
use crate::support::pki::connect;

/// What a client with this certificate gets, or the reason why its handshake or first read fails.
async fn answer(server: &Server, client: ClientConfig) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = connect(server.address, http1(client), "localhost")
        .await
        .map_err(failed)?;
    // In TLS 1.3 a client learns of its refusal after the handshake.
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed)?;
    Ok(answer)
}

#[tokio::test]
async fn a_required_certificate_is_verified_and_reaches_the_request() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let issued = authority.issue(&["localhost"]);
    // Several roots in one text.
    let roots = [Authority::new().pem(), clients.pem()].concat();
    let auth = ClientAuth::required(ClientRoots::pem(roots.clone())).unwrap();
    let mut server = Server::start(TlsLayer::new(config(&issued).client_auth(auth))).await;
    let own = clients.issue_of(&["app.test"], |params| {
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::OrganizationName, "Example");
        name.push(rcgen::DnType::CommonName, "app-1");
        params.serial_number = Some(vec![0x2a].into());
    });
    let seen = answer(&server, authority.client_with(&own)).await.unwrap();
    let wanted = "certificates=1 client=CN=app-1,O=Example DNS:app.test 2a";
    assert!(seen.contains(wanted), "{seen}");

    // None, one of another authority, an expired one, one that is not for clients.
    let expired = clients.issue_of(&["app.test"], |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let server_only = clients.issue_of(&["app.test"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let foreign = others.intermediate().issue(&["app.test"]);
    for (client, alert, detail) in [
        (authority.client(), "CertificateRequired", "no certificates"),
        (
            authority.client_with(&foreign),
            "UnknownCA",
            "UnknownIssuer",
        ),
        (
            authority.client_with(&expired),
            "CertificateExpired",
            "expired",
        ),
        (
            authority.client_with(&server_only),
            "",
            "extended key usage",
        ),
    ] {
        let error = answer(&server, client).await.unwrap_err();
        assert!(error.contains(alert), "{detail}: {error}");
        let event = server.event().await;
        let said = event.detail.to_lowercase();
        assert!(said.contains(&detail.to_lowercase()), "{event:?}");
    }

    let auth = ClientAuth::optional(ClientRoots::pem(roots)).unwrap();
    let server = Server::start(TlsLayer::new(config(&issued).client_auth(auth))).await;
    let seen = answer(&server, authority.client()).await.unwrap();
    assert!(seen.contains("certificates=0 client=-"), "{seen}");
    let seen = answer(&server, authority.client_with(&own)).await.unwrap();
    assert!(seen.contains("client=CN=app-1"), "{seen}");
    let error = answer(&server, authority.client_with(&foreign)).await;
    assert!(error.unwrap_err().contains("UnknownCA"));
}

#[tokio::test]
async fn revocation_lists_and_roots_are_read_again() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let (roots, crl) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    std::fs::write(&roots, clients.pem()).unwrap();
    std::fs::write(&crl, clients.revoke(&[1])).unwrap();
    let source = ClientRoots::files([&roots]).crl_files([&crl]);
    let auth = ClientAuth::required(source).unwrap();
    let config = config(&authority.issue(&["localhost"])).client_auth(auth.clone());
    let mut server = Server::start(TlsLayer::new(config)).await;
    let issue = |serial| {
        let change = |params: &mut rcgen::CertificateParams| {
            params.serial_number = Some(vec![serial].into());
        };
        authority.client_with(&clients.issue_of(&["app.test"], change))
    };
    let (revoked, valid) = (issue(1), issue(2));
    let error = answer(&server, revoked.clone()).await.unwrap_err();
    assert!(error.contains("CertificateRevoked"), "{error}");
    assert!(server.event().await.detail.contains("Revoked"));
    assert!(answer(&server, valid.clone()).await.is_ok());

    assert!(!auth.reload().unwrap(), "nothing changed");
    std::fs::write(&crl, clients.revoke(&[2])).unwrap();
    assert!(auth.reload().unwrap());
    assert!(answer(&server, revoked.clone()).await.is_ok());
    assert!(answer(&server, valid.clone()).await.is_err());

    // What is wrong is said, and the last good is kept.
    std::fs::write(&crl, "nonsense").unwrap();
    let error = auth.reload().unwrap_err();
    assert_eq!(error.field(), "crl");
    assert!(
        error.message().contains("crl.pem: no revocation list"),
        "{error}"
    );
    assert!(answer(&server, valid.clone()).await.is_err());

    // Watched, roots as well.
    let watcher = auth.watch(Duration::from_millis(20));
    std::fs::write(&crl, clients.revoke(&[3])).unwrap();
    let changed = async { while answer(&server, valid.clone()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, changed)
        .await
        .expect("the change must be seen");
    drop(watcher);
}

#[test]
fn what_is_wrong_with_roots_is_said_clearly() {
    let pem = Authority::new().pem();
    for (source, field, words) in [
        (
            ClientRoots::pem(""),
            "client_roots",
            "no certificate is there",
        ),
        (
            ClientRoots::files(["/nowhere"]),
            "client_roots",
            "/nowhere: No such file",
        ),
        (ClientRoots::files::<&str>([]), "client_roots", "1 or more"),
        (
            ClientRoots::pem(pem.clone()).crl_pem(""),
            "crl",
            "no revocation list",
        ),
        (
            ClientRoots::pem(pem)
                .crl_pem("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
            "crl",
            "",
        ),
    ] {
        let error = ClientAuth::required(source).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(
            error.message().contains(words),
            "{words:?} is not in {error}"
        );
    }
}
