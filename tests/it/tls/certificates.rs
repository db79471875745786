//! Which certificate a client sees, and how they change.

use std::path::Path;

use rcgen::PKCS_RSA_SHA256;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::support::pki::{connect, test_provider};

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let authority = Authority::new();
    let default = authority.issue(&["default.test"]);
    let exact = authority.issue(&["a.example.test", "b.other.test"]);
    let wildcard = authority.issue(&["*.example.test"]);
    let all = certificates(&[&default, &exact, &wildcard]);
    let server = Server::start(TlsLayer::new(TlsConfig::new(all.clone()))).await;
    for (name, shown) in [
        ("default.test", Some(&default)),
        ("a.example.test", Some(&exact)),
        ("A.EXAMPLE.test", Some(&exact)),
        ("b.other.test", Some(&exact)),
        ("b.example.test", Some(&wildcard)),
        // One label only; nor the bare domain.
        ("x.y.example.test", None),
        ("example.test", None),
        ("unknown.test", None),
    ] {
        let seen = shown_to(&server, &authority, name).await;
        match shown {
            Some(issued) => assert_eq!(seen.unwrap(), issued.certificate(), "{name}"),
            // The client refuses the first certificate, which is not for this name.
            None => assert!(seen.unwrap_err().contains("NotValidForName"), "{name}"),
        }
    }

    let strict = TlsConfig::new(all).strict_sni(true);
    let mut server = Server::start(TlsLayer::new(strict)).await;
    let seen = shown_to(&server, &authority, "b.example.test").await;
    assert_eq!(seen.unwrap(), wildcard.certificate());
    // Also those that send no name, since they connect to an address.
    for name in ["unknown.test", "127.0.0.1"] {
        let error = shown_to(&server, &authority, name).await.unwrap_err();
        assert!(error.contains("AccessDenied"), "{name}: {error}");
        let event = server.event().await;
        assert!(event.detail.contains("certificate"), "{event:?}");
    }
}

#[tokio::test]
async fn one_name_may_have_a_certificate_for_each_kind_of_signature() {
    let authority = Authority::new();
    let ecdsa = authority.issue(&["localhost"]);
    let rsa = authority.issue_with(&["localhost"], &PKCS_RSA_SHA256);
    let both = TlsConfig::new(certificates(&[&ecdsa, &rsa]));
    let server = Server::start(TlsLayer::new(both)).await;
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(
        seen.unwrap(),
        ecdsa.certificate(),
        "the first where both fit"
    );
    let mut provider = (*test_provider()).clone();
    let algorithms = &mut provider.signature_verification_algorithms;
    let rsa_only = algorithms.mapping.iter().copied();
    let rsa_only = rsa_only.filter(|(scheme, _)| format!("{scheme:?}").starts_with("RSA"));
    algorithms.mapping = rsa_only.collect::<Vec<_>>().leak();
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let stream = connect(server.address, client, "localhost").await.unwrap();
    let seen = &stream.get_ref().1.peer_certificates().unwrap()[0];
    assert_eq!(*seen, rsa.certificate(), "the first that fits");
}

#[tokio::test]
async fn a_reload_swaps_certificates_under_live_connections() {
    let authority = Authority::new();
    let (old, new) = (
        authority.issue(&["localhost"]),
        authority.issue(&["localhost"]),
    );
    let folder = tempfile::tempdir().unwrap();
    let certificates = files(folder.path(), &old).unwrap();
    let layer = TlsLayer::new(TlsConfig::new(certificates.clone()));
    let server = Server::start(layer).await;
    let client = http1(authority.client());
    let mut live = connect(server.address, client, "localhost").await.unwrap();
    get(&mut live).await;
    assert!(!certificates.reload().unwrap(), "nothing changed");

    write(folder.path(), &new);
    assert!(certificates.reload().unwrap(), "the content changed");
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(seen.unwrap(), new.certificate());
    get(&mut live).await;

    // What is wrong is said, and the last good is kept.
    let path = folder.path().join("key.pem");
    std::fs::write(&path, &old.key).unwrap();
    let error = certificates.reload().unwrap_err();
    assert_eq!(error.field(), "certificates[0].key");
    assert!(error.message().contains("does not belong"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = certificates.reload().unwrap_err().to_string();
    assert!(
        error.contains("key.pem") && error.contains("No such file"),
        "{error}"
    );
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(seen.unwrap(), new.certificate(), "the last good is kept");
    get(&mut live).await;

    let third = authority.issue(&["localhost"]);
    let list = [Certificate::pem(third.chain.clone(), third.key.clone())];
    certificates.replace(list).unwrap();
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(seen.unwrap(), third.certificate());
    assert!(
        certificates.replace([]).is_err(),
        "an empty list is refused"
    );
}

#[tokio::test]
async fn tickets_survive_a_reload() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let certificates = files(folder.path(), &authority.issue(&["localhost"])).unwrap();
    let layer = TlsLayer::new(TlsConfig::new(certificates.clone()));
    let server = Server::start(layer).await;
    let mut client = http1(authority.client());
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for resumed in [false, true] {
        let mut stream = connect(server.address, client.clone(), "localhost")
            .await
            .unwrap();
        let described = get(&mut stream).await;
        assert!(
            described.contains(&format!("resumed={resumed}")),
            "{described}"
        );
        write(folder.path(), &authority.issue(&["localhost"]));
        assert!(certificates.reload().unwrap());
    }
}

#[tokio::test]
async fn files_are_watched_for_content_through_swapped_links() {
    let authority = Authority::new();
    let (old, new) = (
        authority.issue(&["localhost"]),
        authority.issue(&["localhost"]),
    );
    // As Kubernetes mounts a secret: files are links through a link that is swapped whole.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, issued) in [("one", &old), ("two", &new)] {
        std::fs::create_dir(root.join(name)).unwrap();
        write(&root.join(name), issued);
    }
    std::os::unix::fs::symlink("one", root.join("data")).unwrap();
    let data = root.join("data");
    let list = [Certificate::files(
        data.join("chain.pem"),
        data.join("key.pem"),
    )];
    let certificates = Certificates::new(list).unwrap();
    // The watching task runs on the thread of the test.
    let (sender, mut errors) = mpsc::unbounded_channel();
    let subscriber = tracing_subscriber::registry().with(Errors(sender));
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let watch = certificates.watch(Duration::from_millis(20));
    let layer = TlsLayer::new(TlsConfig::new(certificates));
    let server = Server::start(layer).await;
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(seen.unwrap(), old.certificate());
    let served = async |wanted: &Issued| {
        let wanted = wanted.certificate();
        let asking =
            async { while shown_to(&server, &authority, "localhost").await.unwrap() != wanted {} };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.expect("the change must be seen");
    };
    std::os::unix::fs::symlink("two", root.join("next")).unwrap();
    std::fs::rename(root.join("next"), &data).unwrap();
    served(&new).await;

    // A broken file, then a good one again: no restart in between.
    std::fs::write(root.join("two/chain.pem"), "nonsense").unwrap();
    let error = tokio::time::timeout(PATIENCE, errors.recv()).await;
    let error = error.expect("the fault must be logged").unwrap();
    assert!(
        error.contains("two/chain.pem") || error.contains("data/chain.pem"),
        "{error}"
    );
    let seen = shown_to(&server, &authority, "localhost").await;
    assert_eq!(seen.unwrap(), new.certificate(), "the last good is kept");
    write(&root.join("two"), &old);
    served(&old).await;
    drop(watch);
}

#[test]
fn what_is_wrong_is_said_clearly() {
    let authority = Authority::new();
    let good = authority.issue(&["localhost"]);
    let other = authority.issue(&["localhost"]);
    let nameless = authority.issue(&[]);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (chain, key, field, words) in [
        ("", &*good.key, "chain", "no certificate is there"),
        (&*good.key, &*good.key, "chain", "no certificate is there"),
        (garbage, &*good.key, "chain", "cannot be read"),
        (&*nameless.chain, &*nameless.key, "chain", "subjectAltName"),
        (&*good.chain, "", "key", "no private key found"),
        (&*good.chain, &*good.chain, "key", "no private key found"),
        (&*good.chain, encrypted, "key", "encrypted"),
        (&*good.chain, &*other.key, "key", "does not belong"),
    ] {
        let list = [
            Certificate::pem(good.chain.clone(), good.key.clone()),
            Certificate::pem(chain, key),
        ];
        let error = Certificates::new(list).unwrap_err();
        assert_eq!(error.field(), format!("certificates[1].{field}"), "{error}");
        assert!(
            error.message().contains(words),
            "{words:?} is not in {error}"
        );
    }
    let error = Certificates::new([]).unwrap_err().to_string();
    assert!(error.contains("1 or more"), "{error}");
    let missing = Certificate::files("/nowhere/chain.pem", "/nowhere/key.pem");
    let error = Certificates::new([missing]).unwrap_err().to_string();
    assert!(
        error.contains("/nowhere/chain.pem: No such file"),
        "{error}"
    );
    let error = "1.1".parse::<evenkeel::tls::TlsVersion>().unwrap_err();
    assert!(error.to_string().contains("\"1.2\" or \"1.3\""), "{error}");
    let config = TlsConfig::new(certificates(&[&good]));
    assert!(
        config.clone().alpn([""]).is_err(),
        "a name must not be empty"
    );
    assert!(TlsLayer::new(config).max_handshakes(0).is_err());
}

#[test]
fn the_validity_and_the_names_of_a_certificate_are_checked() {
    let authority = Authority::new();
    for (from, until, words) in [
        (
            (2020, 1, 1),
            (2021, 2, 3),
            "expired at 2021-02-03 00:00:00 UTC",
        ),
        (
            (2999, 1, 1),
            (2999, 2, 3),
            "not valid before 2999-01-01 00:00:00 UTC, which is to come",
        ),
    ] {
        let issued = authority.issue_of(&["a.test"], |params| {
            params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
            params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        });
        let certificate = Certificate::pem(issued.chain, issued.key);
        let error = Certificates::new([certificate.clone()]).unwrap_err();
        assert_eq!(error.field(), "certificates[0].chain");
        assert!(error.message().contains(words), "{error}");
        assert!(Certificates::new([certificate.any_validity(true)]).is_ok());
    }
    let issued = authority.issue(&["a.test", "*.b.test"]);
    let certificate = Certificate::pem(issued.chain, issued.key);
    for (name, covers) in [
        ("a.test", true),
        ("A.test", true),
        ("x.b.test", true),
        ("*.b.test", true),
        ("b.test", false),
        ("x.y.b.test", false),
        ("c.test", false),
    ] {
        let made = Certificates::new([certificate.clone().required_names(["a.test", name])]);
        assert_eq!(made.is_ok(), covers, "{name}");
        if let Err(error) = made {
            let wanted = format!("is for a.test, *.b.test; one for {name} is required");
            assert!(error.message().contains(&wanted), "{error}");
        }
    }
}

/// Handshakes go on while one certificate of many changes, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_do_not_wait_for_a_change() {
    let authority = Authority::new();
    let all = certificates(&[&authority.issue(&["localhost"])]);
    let other = authority.issue(&["other.test"]);
    let other = Certificate::pem(other.chain, other.key);
    for n in 0..1_000 {
        all.insert(&n.to_string(), other.clone()).unwrap();
    }
    let server = Server::start(TlsLayer::new(TlsConfig::new(all.clone()))).await;
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (changing, end) = (all.clone(), ended.clone());
    let changes = std::thread::spawn(move || {
        let mut changes = 0;
        while !end.load(std::sync::atomic::Ordering::Relaxed) {
            changing.insert("7", other.clone()).unwrap();
            changes += 1;
        }
        changes
    });
    for _ in 0..50 {
        let seen = shown_to(&server, &authority, "localhost").await;
        assert!(seen.is_ok(), "{seen:?}");
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    let changes: usize = changes.join().unwrap();
    assert!(changes > 1, "{changes} changes");
    assert_eq!(all.in_force().len(), 1_001);
}

#[tokio::test]
async fn a_chain_is_accepted_in_any_order_and_sent_in_the_right_one() {
    let authority = Authority::new();
    let intermediate = authority.intermediate();
    let issued = intermediate.issue(&["localhost"]);
    let leaf = issued.chain.replace('\n', "\r\n");
    let parts = ["\u{feff}text\r\n", &*leaf, "\r\nmore text\r\n", &issued.key];
    for order in [[0, 1], [1, 0]] {
        let chain = [&*intermediate.pem(), &parts.concat()];
        let text = order.map(|n| chain[n]).concat();
        // Chain and key in one text.
        let all = Certificates::new([Certificate::pem(text.clone(), text)]).unwrap();
        let server = Server::start(TlsLayer::new(TlsConfig::new(all))).await;
        let stream = connect(server.address, authority.client(), "localhost").await;
        let stream = stream.unwrap();
        let seen = stream.get_ref().1.peer_certificates().unwrap();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], issued.certificate());
    }
}

#[tokio::test]
async fn a_name_may_have_a_certificate_of_every_kind() {
    let authority = Authority::new();
    let kinds = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ecdsa_secp256r1_sha256"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "ecdsa_secp384r1_sha384"),
        (&rcgen::PKCS_ED25519, "ed25519"),
        (&PKCS_RSA_SHA256, "rsa_pss_rsae_sha256"),
    ];
    let issued = kinds.map(|(kind, _)| authority.issue_with(&["localhost"], kind));
    let all = certificates(&issued.each_ref());
    let kinds_in_force = all.in_force();
    let kinds_in_force: Vec<_> = kinds_in_force.iter().map(|info| info.key).collect();
    assert_eq!(kinds_in_force, ["ECDSA", "ECDSA", "Ed25519", "RSA"]);
    let server = Server::start(TlsLayer::new(TlsConfig::new(all))).await;
    for ((_, scheme), issued) in kinds.iter().zip(&issued) {
        let output = tokio::process::Command::new("openssl")
            .args(["s_client", "-connect", &server.address.to_string()])
            .args(["-servername", "localhost", "-sigalgs", scheme])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = output.await.expect("openssl is there");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{scheme}: {text}");
        let shown = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        assert_eq!(shown, issued.certificate(), "{scheme}");
    }
}

#[test]
fn secrets_stay_out_of_debug_prints() {
    let issued = Authority::new().issue(&["localhost"]);
    let secret = issued.key.lines().nth(1).unwrap().to_owned();
    let certificate = Certificate::pem(issued.chain.clone(), issued.key.clone());
    let config = config(&issued);
    let printed = format!(
        "{certificate:?} {config:?} {:?}",
        TlsLayer::new(config.clone())
    );
    assert!(!printed.contains(&secret), "{printed}");
    assert!(printed.contains("localhost"), "{printed}");
}

/// Passes on the errors that the module logs.
pub(super) struct Errors(pub(super) mpsc::UnboundedSender<String>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let (metadata, mut fields) = (event.metadata(), Fields::default());
        if metadata.target() == "evenkeel::tls" && *metadata.level() == tracing::Level::ERROR {
            event.record(&mut fields);
            let _ = self.0.send(fields.0);
        }
    }
}

#[derive(Default)]
struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

/// The certificate that a client sees, or why it refuses it.
async fn shown_to(
    server: &Server,
    authority: &Authority,
    name: &str,
) -> Result<CertificateDer<'static>, String> {
    let stream = connect(server.address, authority.client(), name).await;
    let stream = stream.map_err(|error| format!("{error:?}"))?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
}

fn files(folder: &Path, issued: &Issued) -> Result<Certificates, evenkeel::ConfigError> {
    write(folder, issued);
    Certificates::new([Certificate::files(
        folder.join("chain.pem"),
        folder.join("key.pem"),
    )])
}

fn write(folder: &Path, issued: &Issued) {
    std::fs::write(folder.join("chain.pem"), &issued.chain).unwrap();
    std::fs::write(folder.join("key.pem"), &issued.key).unwrap();
}
