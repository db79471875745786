//! Certificates that are looked up during the handshake: on demand, and for a certificate authority.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use evenkeel::tls::{CertificateFuture, CertificateSource, OnDemand};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{process::Command, sync::Semaphore};

use super::*;
use crate::support::pki::connect;

/// A source whose lookups wait for a permit of the test's.
#[derive(Clone, Default)]
struct Source(Arc<Inner>);

struct Inner {
    certificates: Mutex<HashMap<String, Certificate>>,
    asked: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    permits: Semaphore,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            certificates: Mutex::default(),
            asked: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            permits: Semaphore::new(PERMITS),
        }
    }
}

impl Source {
    fn put(&self, name: &str, certificate: Certificate) {
        let mut certificates = self.0.certificates.lock().unwrap();
        certificates.insert(name.to_owned(), certificate);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl CertificateSource for Source {
    fn certificate(&self, server_name: &str) -> CertificateFuture {
        let (source, name) = (self.clone(), server_name.to_owned());
        CertificateFuture::new(async move {
            let inner = &source.0;
            inner.asked.fetch_add(1, Ordering::SeqCst);
            let running = inner.running.fetch_add(1, Ordering::SeqCst) + 1;
            inner.most.fetch_max(running, Ordering::SeqCst);
            let _permit = inner.permits.acquire().await?;
            inner.running.fetch_sub(1, Ordering::SeqCst);
            if name.starts_with("broken") {
                return Err("the store is down".into());
            }
            Ok(inner.certificates.lock().unwrap().get(&name).cloned())
        })
    }
}

fn pem(issued: &Issued) -> Certificate {
    Certificate::pem(issued.chain.clone(), issued.key.clone())
}

async fn shown(
    server: &Server,
    authority: &Authority,
    name: &str,
) -> Result<CertificateDer<'static>, String> {
    let stream = connect(server.address, authority.client(), name).await;
    let stream = stream.map_err(|error| format!("{error:?}"))?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
}

#[tokio::test]
async fn a_name_without_a_certificate_is_looked_up_once() {
    let authority = Authority::new();
    let listed = authority.issue(&["listed.test"]);
    let found = authority.issue(&["found.test"]);
    let all = certificates(&[&listed]);
    let source = Source::default();
    source.put("found.test", pem(&found));
    source.put("wrong.test", pem(&listed));
    all.on_demand(OnDemand::new(source.clone()));
    let server = Server::start(TlsLayer::new(TlsConfig::new(all.clone()))).await;
    assert_eq!(
        shown(&server, &authority, "listed.test").await.unwrap(),
        listed.certificate()
    );
    assert_eq!(source.asked(), 0, "the list has the name");

    // Ten clients at once: one lookup, for which the others wait.
    let seen = all_shown(&server, &authority, &["found.test"; 10]).await;
    assert_eq!(seen, vec![found.certificate(); 10]);
    assert_eq!(source.asked(), 1);
    let infos = all.in_force();
    assert_eq!(infos.len(), 2);
    assert_eq!(infos[1].id.as_deref(), Some("found.test"));

    // No certificate, a source that fails, a certificate for another name: the first is shown, and the
    // name is not looked up again for a while.
    for name in ["none.test", "broken.test", "wrong.test"] {
        let before = source.asked();
        for _ in 0..2 {
            let error = shown(&server, &authority, name).await.unwrap_err();
            assert!(error.contains("NotValidForName"), "{name}: {error}");
        }
        assert_eq!(source.asked(), before + 1, "{name}");
    }
}

#[tokio::test]
async fn lookups_have_a_cap_and_a_deadline_and_strict_sni_refuses_what_is_not_found() {
    let authority = Authority::new();
    let found = authority.issue(&["a.test", "b.test", "c.test", "d.test"]);
    let all = Certificates::empty();
    let source = Source::default();
    for name in ["a.test", "b.test", "c.test", "d.test"] {
        source.put(name, pem(&found));
    }
    let options = OnDemand::new(source.clone()).max_lookups(2).unwrap();
    let options = options.max_certificates(2).unwrap();
    all.on_demand(options.clone());
    let config = TlsConfig::new(all.clone()).strict_sni(true);
    let server = Server::start(TlsLayer::new(config)).await;
    let names = ["a.test", "b.test", "c.test", "d.test"];
    let seen = all_shown(&server, &authority, &names).await;
    assert_eq!(seen, vec![found.certificate(); 4]);
    assert!(source.0.most.load(Ordering::SeqCst) <= 2, "two at once");
    assert_eq!(source.asked(), 4);
    assert_eq!(all.in_force().len(), 2, "the cap holds");

    // A store that never answers: the lookup ends, and the handshake goes on without a certificate.
    source.0.permits.forget_permits(PERMITS);
    all.on_demand(options.timeout(Duration::from_millis(50)));
    let error = shown(&server, &authority, "a.test").await.unwrap_err();
    assert!(error.contains("AccessDenied"), "{error}");
    assert!(OnDemand::new(source.clone()).max_lookups(0).is_err());
    assert!(OnDemand::new(source).max_certificates(0).is_err());
}

#[tokio::test]
async fn a_wildcard_takes_one_place_for_all_names_that_clients_invent() {
    let authority = Authority::new();
    let wild = authority.issue(&["*.a.test"]);
    let both = authority.issue(&["*.b.test", "b.test"]);
    let all = Certificates::empty();
    let source = Source::default();
    let invented: Vec<_> = (0..20).map(|n| format!("n{n}.a.test")).collect();
    for name in &invented {
        source.put(name, pem(&wild));
    }
    for name in ["b.test", "x.b.test", "y.b.test"] {
        source.put(name, pem(&both));
    }
    let options = OnDemand::new(source.clone()).max_certificates(3).unwrap();
    all.on_demand(options.max_age(Duration::from_secs(3_600)));
    let config = TlsConfig::new(all.clone()).strict_sni(true);
    let server = Server::start(TlsLayer::new(config)).await;
    for name in ["b.test", "x.b.test", "y.b.test", "b.test"] {
        let seen = shown(&server, &authority, name).await.unwrap();
        assert_eq!(seen, both.certificate(), "{name}");
    }
    assert_eq!(source.asked(), 2, "the name, and one under the wildcard");
    for name in &invented {
        let seen = shown(&server, &authority, name).await.unwrap();
        assert_eq!(seen, wild.certificate(), "{name}");
    }
    assert_eq!(source.asked(), 3);
    let ids = |all: &Certificates| {
        let infos = all.in_force();
        let mut ids: Vec<_> = infos.iter().map(|i| i.id.clone().unwrap()).collect();
        ids.sort();
        ids
    };
    let wanted: [Box<str>; 3] = ["*.a.test".into(), "*.b.test".into(), "b.test".into()];
    assert_eq!(ids(&all), wanted, "none made room for an invented name");
    // A wildcard stands for one label.
    for name in ["a.test", "x.y.a.test"] {
        assert!(shown(&server, &authority, name).await.is_err(), "{name}");
    }
    assert_eq!(ids(&all), wanted);
}

#[tokio::test]
async fn failures_for_invented_names_are_logged_now_and_then() {
    let authority = Authority::new();
    let all = Certificates::empty();
    all.on_demand(OnDemand::new(Source::default()));
    let server = Server::start(TlsLayer::new(TlsConfig::new(all))).await;
    let (log, _subscriber) = expiry::Log::start();
    for n in 0..5 {
        let name = format!("broken{n}.test");
        assert!(shown(&server, &authority, &name).await.is_err());
    }
    assert_eq!(log.count("no certificate on demand"), 1);
}

#[tokio::test]
async fn certificates_come_and_go_at_run_time() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let all = Certificates::empty();
    let server = Server::start(TlsLayer::new(TlsConfig::new(all.clone()))).await;
    let error = shown(&server, &authority, "a.test").await.unwrap_err();
    assert!(error.contains("AccessDenied"), "{error}");
    for issued in [&first, &second] {
        all.insert("a", pem(issued)).unwrap();
        let seen = shown(&server, &authority, "a.test").await.unwrap();
        assert_eq!(seen, issued.certificate());
        assert_eq!(all.in_force().len(), 1, "the same identifier replaces");
    }
    let other = authority.issue(&["b.test"]);
    all.replace([pem(&other)]).unwrap();
    let infos = all.in_force();
    assert_eq!(infos.len(), 2, "a new list keeps what was inserted");
    assert_eq!(
        (infos[0].id.as_deref(), infos[1].id.as_deref()),
        (None, Some("a"))
    );
    assert_eq!(*infos[0].names, [Box::from("b.test")]);
    assert_ne!(infos[0].fingerprint, infos[1].fingerprint);
    assert!(
        infos
            .iter()
            .all(|info| info.key == "ECDSA" && info.not_before < info.not_after)
    );
    let error = all.insert("a", Certificate::pem("", "")).unwrap_err();
    assert_eq!(error.field(), "chain");
    assert_eq!(
        shown(&server, &authority, "a.test").await.unwrap(),
        second.certificate()
    );
    // Beside certificates that are inserted, the list may be empty.
    assert!(all.replace([]).is_err());
    all.clear_list();
    assert_eq!(all.in_force().len(), 1);
    let error = shown(&server, &authority, "b.test").await.unwrap_err();
    assert!(error.contains("NotValidForName"), "{error}");
    assert!(all.remove("a") && !all.remove("a"));
    assert!(shown(&server, &authority, "a.test").await.is_err());
}

#[tokio::test]
async fn a_certificate_authority_checks_a_name_by_tls_alpn_01() {
    let authority = Authority::new();
    let all = certificates(&[&authority.issue(&["a.test"])]);
    let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    let key = KeyPair::generate().unwrap();
    let challenge = params.self_signed(&key).unwrap();
    let source = Source::default();
    source.put(
        "a.test",
        Certificate::pem(challenge.pem(), key.serialize_pem()),
    );
    let mut server = Server::start(TlsLayer::new(TlsConfig::new(all.clone()))).await;
    let (ok, text) = check(server.address, "a.test", "acme-tls/1").await;
    assert!(!ok, "nothing answers checks yet: {text}");
    let event = server.event().await;
    assert_eq!(event.kind.as_str(), "tls_handshake");

    all.answer_challenges(source.clone());
    let (ok, text) = check(server.address, "a.test", "acme-tls/1").await;
    assert!(ok && text.contains("ALPN protocol: acme-tls/1"), "{text}");
    let shown = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    assert_eq!(shown, *challenge.der());
    let (ok, text) = check(server.address, "b.test", "acme-tls/1").await;
    assert!(!ok, "no challenge for that name: {text}");
    assert_eq!(source.asked(), 2);
    // Other clients never see it.
    for protocols in ["http/1.1", "acme-tls/1,http/1.1"] {
        let (ok, text) = check(server.address, "a.test", protocols).await;
        assert!(ok && text.contains("ALPN protocol: http/1.1"), "{text}");
        assert_ne!(
            CertificateDer::from_pem_slice(text.as_bytes()).unwrap(),
            *challenge.der()
        );
    }
    assert_eq!(source.asked(), 2);
}

/// What openssl's client says of the handshake, and whether it ends well.
async fn check(address: SocketAddr, name: &str, protocols: &str) -> (bool, String) {
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address.to_string(),
            "-servername",
            name,
        ])
        .args(["-alpn", protocols])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("openssl is there");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The certificates that clients see which connect at the same time.
async fn all_shown(
    server: &Server,
    authority: &Authority,
    names: &[&'static str],
) -> Vec<CertificateDer<'static>> {
    let mut clients = JoinSet::new();
    for &name in names {
        let (address, client) = (server.address, authority.client());
        clients.spawn(async move {
            let stream = connect(address, client, name).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0].clone()
        });
    }
    clients.join_all().await
}

/// More than any test takes.
const PERMITS: usize = 1_000;
