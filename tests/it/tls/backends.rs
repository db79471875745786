//! TLS to backends, and the certificates of clients that a backend learns of.
#![cfg(all(
    feature = "proxy",
    feature = "server",
    feature = "http1",
    feature = "http2"
))]

use evenkeel::{
    Backend, ErrorKind, LoadBalancer, Pool,
    connect::{ClientTls, Connector, DangerousClientTls},
    context::{Selected, TrustedPeers},
    proxy::{ClientCertFields, Proxy},
    tls::{ClientAuth, ClientRoots},
};
use http::Request;
use http_body_util::BodyExt;

use super::*;
use crate::support::{Act, Scripted, pki::connect};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What the backend knows of the session, or the kind of the error.
async fn session(server: &Server, tls: &ClientTls) -> Result<String, ErrorKind> {
    let url = format!("https://127.0.0.1:{}", server.address.port());
    let backend = Backend::new("a", &url).unwrap();
    let mut request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    request
        .headers_mut()
        .insert("host", "a.test".parse().unwrap());
    request.extensions_mut().insert(Selected(backend));
    // Each proxy has connections of its own.
    let proxy = Proxy::new().connector(Connector::new().tls(tls.clone()));
    let response = proxy.oneshot(request).await.map_err(|error| error.kind())?;
    let body = response.into_body().collect().await.unwrap();
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_backend_is_verified_by_the_name_that_is_set() {
    let authority = Authority::new();
    let server = Server::start(TlsLayer::new(config(&authority.issue(&["app.test"])))).await;
    let roots = || ClientTls::roots_pem(authority.pem().as_bytes()).unwrap();
    let named = roots().server_name("app.test").unwrap();
    let seen = session(&server, &named).await.unwrap();
    assert!(
        seen.contains("alpn=h2 sni=app.test resumed=false"),
        "{seen}"
    );
    let seen = session(&server, &named).await.unwrap();
    assert!(seen.contains("resumed=true"), "{seen}");
    let danger = DangerousClientTls::without_verification();
    for (tls, verified, case) in [
        (roots(), false, "the address of the URL"),
        (
            roots().server_name("other.test").unwrap(),
            false,
            "another name",
        ),
        (
            ClientTls::new().server_name("app.test").unwrap(),
            false,
            "Mozilla's roots",
        ),
        (danger, true, "no verification"),
    ] {
        let seen = session(&server, &tls).await;
        match verified {
            true => assert!(seen.is_ok(), "{case}: {seen:?}"),
            false => assert_eq!(seen.unwrap_err(), ErrorKind::ConnectTls, "{case}"),
        }
    }
}

#[tokio::test]
async fn a_backend_may_ask_for_a_certificate() {
    let authority = Authority::new();
    let auth = ClientAuth::required(ClientRoots::pem(authority.pem())).unwrap();
    let config = config(&authority.issue(&["127.0.0.1"])).client_auth(auth);
    let server = Server::start(TlsLayer::new(config)).await;
    let tls = ClientTls::roots_pem(authority.pem().as_bytes()).unwrap();
    assert!(session(&server, &tls).await.is_err());
    let own = authority.issue_of(&["balancer.test"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let (chain, key) = (own.chain.as_bytes(), own.key.as_bytes());
    let proven = tls.clone().client_certificate(chain, key).unwrap();
    let seen = session(&server, &proven).await.unwrap();
    assert!(
        seen.contains("certificates=1 client= DNS:balancer.test"),
        "{seen}"
    );

    let other = authority.issue(&["other.test"]);
    for (chain, key, words) in [
        (chain, other.key.as_bytes(), "does not belong"),
        (chain, chain, "no private key"),
        (key, key, "no PEM certificate"),
    ] {
        let error = tls.clone().client_certificate(chain, key).unwrap_err();
        assert_eq!(error.field(), "client_certificate");
        assert!(error.message().contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_roots_of_the_platform_are_there() {
    // The package ca-certificates, which curl needs as well.
    match ClientTls::platform_roots() {
        Ok(tls) => {
            let authority = Authority::new();
            let issued = authority.issue(&["127.0.0.1"]);
            let server = Server::start(TlsLayer::new(config(&issued))).await;
            let error = session(&server, &tls).await.unwrap_err();
            assert_eq!(
                error,
                ErrorKind::ConnectTls,
                "a test's root is not among them"
            );
        }
        Err(error) => assert!(error.message().contains("the platform has none"), "{error}"),
    }
}

/// What the backend gets from a client, certificate fields in any spelling included.
async fn head_with(fields: ClientCertFields, has_certificate: bool) -> (String, String) {
    let (authority, clients) = (Authority::new(), Authority::new());
    let intermediate = clients.intermediate();
    let mut own = intermediate.issue(&["app.test"]);
    let leaf = own.certificate();
    own.chain.push_str(&intermediate.pem());
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let url = format!("http://{}", origin.address);
    let pool = Pool::new([Backend::new("a", &url).unwrap()]).unwrap();
    let proxy = Proxy::new()
        .client_cert_fields(fields)
        .trusted_peers(TrustedPeers::new(["127.0.0.0/8"]).unwrap());
    let balancer = LoadBalancer::builder(pool).proxy(proxy).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let auth = ClientAuth::optional(ClientRoots::pem(clients.pem())).unwrap();
    let tls = TlsLayer::new(config(&authority.issue(&["localhost"])).client_auth(auth));
    let serving = tokio::spawn(evenkeel::serve(listener, balancer).layer(tls).into_future());
    let client = match has_certificate {
        true => authority.client_with(&own),
        false => authority.client(),
    };
    let mut stream = connect(address, http1(client), "localhost").await.unwrap();
    let sent = "GET / HTTP/1.1\r\nhost: localhost\r\nclient-cert: :forged:\r\n\
                client_cert: :forged:\r\nClient-Cert-Chain: :forged:\r\nclient_cert_chain: x\r\n\r\n";
    request(&mut stream, sent).await;
    serving.abort();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &leaf);
    (origin.last_head(), encoded)
}

#[tokio::test]
async fn a_backend_learns_the_certificate_of_the_client_by_choice() {
    for (fields, has_certificate, leaf, chain) in [
        (ClientCertFields::None, true, false, false),
        (ClientCertFields::Leaf, true, true, false),
        (ClientCertFields::Chain, true, true, true),
        (ClientCertFields::Chain, false, false, false),
    ] {
        let (head, certificate) = head_with(fields, has_certificate).await;
        let case = format!("{fields:?}, certificate {has_certificate}: {head}");
        assert!(
            !head.contains("forged") && !head.contains("client_cert"),
            "{case}"
        );
        let field = format!("\r\nclient-cert: :{certificate}:\r\n");
        assert_eq!(head.contains(&field), leaf, "{case}");
        assert_eq!(head.contains("client-cert: "), leaf, "{case}");
        assert_eq!(head.contains("client-cert-chain: :"), chain, "{case}");
    }
}
