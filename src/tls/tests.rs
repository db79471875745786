//! The promises of the room's docs.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{handshake::Session, *};
use crate::{
    context::{ConnInfo, ConnectionEvent, ConnectionEvents, HandshakeFailure, Peer, TlsInfo},
    stats::Stats,
};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let names = config::ALPN.iter();
    let names = names.map(|name| format!("`{}`", String::from_utf8_lossy(name)));
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let text = str::to_owned;
    let compared = [
        ("versions", format!("{} and 1.3", config::MIN_VERSION)),
        ("cipher suites", text("all that rustls has")),
        ("ALPN", names.collect::<Vec<_>>().join(", ")),
        ("certificate", text("else the first")),
        ("tickets", text("on")),
        ("0-RTT", text("off")),
        (
            "ClientHello",
            format!(
                "{} KiB less one byte",
                (client_hello::MAX_CLIENT_HELLO + 1) >> 10
            ),
        ),
        ("handshake time-out", seconds(layer::HANDSHAKE_TIMEOUT)),
        ("handshakes at once", layer::MAX_HANDSHAKES.to_string()),
        (
            "lookups on demand at once",
            on_demand::MAX_LOOKUPS.to_string(),
        ),
        ("lookup time-out", seconds(on_demand::TIMEOUT)),
        (
            "certificates kept on demand",
            on_demand::MAX_CERTIFICATES.to_string(),
        ),
        (
            "ticket keys",
            format!("change every {} h", ticket_keys::KEY_SECONDS / 3_600),
        ),
        ("certificates of clients", text("not asked for")),
        ("policies", text("one for all hosts")),
        ("key exchange", text("`X25519MLKEM768` is preferred")),
        (
            "[`Certificates::watch`]",
            seconds(Certificates::RELOAD_INTERVAL),
        ),
        ("[`ExpiryWatcher`]", seconds(ExpiryWatcher::INTERVAL)),
        ("HSTS `max-age`", seconds(hsts::HSTS_MAX_AGE)),
        (
            "port that cleartext is sent to",
            https_redirect::HTTPS_PORT.to_string(),
        ),
    ];
    crate::default_table::compare(include_str!("mod.rs"), &compared);
}

/// The numbers have a name for each, or handshakes would count as `other`.
#[test]
fn each_suite_and_group_of_the_provider_is_counted_under_its_name() {
    let provider = crate::connect::provider();
    let stats = Stats::new(crate::pool::Pool::new([]).unwrap());
    let (mut suites, mut groups) = (Vec::new(), Vec::new());
    for suite in &provider.cipher_suites {
        let version = match suite.version().version {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLSv1.2",
        };
        suites.push((version, negotiated::cipher(suite.suite())));
    }
    for group in &provider.kx_groups {
        groups.push(negotiated::key_exchange(group.name()).unwrap());
    }
    for (version, cipher) in &suites {
        for group in &groups {
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            conn.set_tls(TlsInfo {
                version,
                cipher,
                key_exchange: Some(group),
                ..TlsInfo::default()
            });
            stats.handshake_ended(&conn);
        }
    }
    let counted = &stats.snapshot().listeners[0].handshakes;
    assert_eq!(counted.len(), suites.len() * groups.len());
    for kind in counted {
        assert_eq!(kind.count, 1, "{kind:?}");
        assert!(suites.contains(&(kind.version, kind.cipher)), "{kind:?}");
        assert!(groups.contains(&kind.key_exchange), "{kind:?}");
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
        size_of::<TlsStream<TcpStream>>() <= 16,
        "the stream is moved about"
    );
    let handshake = size_of::<handshake::Handshake<TcpStream>>();
    assert!(handshake <= 2_048, "{handshake} bytes a handshake");
    let session = size_of::<Session<TcpStream>>();
    assert!(session <= 1_536, "{session} bytes a session");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_waits_for_a_permit_and_holds_it_for_its_own_work_alone() {
    let (layer, client) = pair();
    let permits = layer.shared.permits.clone();
    let taken = permits.clone().acquire_many_owned(512).await.unwrap();
    let (mut server, mut client) = streams(&layer, client);
    let waiting = tokio::time::timeout(Duration::from_secs(5), async {
        tokio::select! {
            ended = server.handshake() => panic!("without a permit: {ended:?}"),
            connected = &mut client => panic!("without a permit: {:?}", connected.err()),
        }
    });
    assert!(waiting.await.is_err(), "it must wait for a permit");
    drop(taken);
    let (served, connected) = tokio::join!(server.handshake(), client);
    served.unwrap();
    connected.unwrap();
    assert_eq!(permits.available_permits(), 512, "the permit is given back");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_gets_a_permit_times_out() {
    let (layer, client) = pair();
    let seen = Arc::new(Causes::default());
    let layer = layer.events(seen.clone());
    let _taken = layer.shared.permits.clone().acquire_many_owned(512).await;
    let (mut server, client) = streams(&layer, client);
    let began = tokio::time::Instant::now();
    let (served, connected) = tokio::join!(server.handshake(), async {
        let connected = client.await;
        connected.err()
    });
    let error = served.unwrap_err();
    assert_eq!(error.to_string(), "too many handshakes at once");
    let causes = seen.0.lock().unwrap().clone();
    assert_eq!(causes, [Some(HandshakeFailure::TooManyHandshakes)]);
    assert_eq!(
        began.elapsed().as_secs(),
        layer::HANDSHAKE_TIMEOUT.as_secs()
    );
    assert!(connected.is_some(), "the client's connection is closed");
    assert!(server.handshake().await.is_err(), "and stays closed");
}

#[test]
fn an_idle_session_holds_little_memory() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let (layer, config) = pair();
    let connect = || {
        runtime.block_on(async {
            let (near, far) = tokio::net::UnixStream::pair().unwrap();
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            let shared = Arc::new(layer.shared.clone());
            let mut server = TlsStream::new(far, conn, shared, None);
            let name = ServerName::try_from("localhost").unwrap();
            let client = TlsConnector::from(config.clone()).connect(name, near);
            let (served, connected) = tokio::join!(server.handshake(), client);
            served.unwrap();
            connected.unwrap().write_all(b"one request").await.unwrap();
            let mut buf = [0; 64];
            assert!(server.read(&mut buf).await.unwrap() > 0);
            server
        })
    };
    drop(connect());
    let mut open = Vec::with_capacity(32);
    let mut open_silently = Vec::with_capacity(32);
    let memory = allocation_counter::measure(|| open.extend((0..32).map(|_| connect())));
    let each = memory.bytes_current / 32;
    assert!(each < 9_000, "{each} bytes an idle session");

    let silent = || {
        runtime.block_on(async {
            let (near, far) = tokio::net::UnixStream::pair().unwrap();
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            let mut server = TlsStream::new(far, conn, Arc::new(layer.shared.clone()), None);
            let silent = tokio::time::timeout(Duration::ZERO, server.handshake());
            assert!(silent.await.is_err(), "the client sent nothing");
            (near, server)
        })
    };
    let both = allocation_counter::measure(|| open_silently.extend((0..32).map(|_| silent())));
    let each = both.bytes_current / 32;
    assert!(each < 3_500, "{each} bytes for a client that says nothing");
}

/// Two instances whose clocks are `apart` slots of ticket keys from each other.
async fn resumes_at_another_instance(apart: u64) -> bool {
    let (layer, config) = pair();
    let mut config = ClientConfig::clone(&config);
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let mut kinds = Vec::new();
    for slot in [0, apart] {
        // The last second of the slot.
        let now = (100 + slot) * ticket_keys::KEY_SECONDS - 1;
        let secret = TicketSecret::new(&[1; 32]).unwrap();
        let secret = secret.with_clock(move || now);
        let certificates = layer.shared.certificates.clone().unwrap();
        let instance = TlsLayer::new(TlsConfig::new(certificates).ticket_secret(secret));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(near, listener.accept());
        let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
        let shared = Arc::new(instance.shared.clone());
        let mut server = TlsStream::new(accepted.unwrap().0, conn, shared, None);
        let name = ServerName::try_from("localhost").unwrap();
        let client = TlsConnector::from(config.clone()).connect(name, near.unwrap());
        let (served, client) = tokio::join!(server.handshake(), client);
        served.unwrap();
        server.write_all(b"!").await.unwrap();
        server.flush().await.unwrap();
        client.unwrap().read_exact(&mut [0]).await.unwrap();
        kinds.push(server.conn().tls().unwrap().resumed);
    }
    assert!(!kinds[0]);
    kinds[1]
}

#[tokio::test]
async fn a_session_resumes_at_another_instance_across_a_change_of_keys() {
    assert!(resumes_at_another_instance(0).await);
    assert!(resumes_at_another_instance(1).await, "the keys changed");
    assert!(!resumes_at_another_instance(2).await, "and again");
}

#[test]
fn ten_thousand_certificates_take_little_memory_and_one_changes_alone() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let issue = |name: String| {
        let params = rcgen::CertificateParams::new([name]).unwrap();
        let signed = params.self_signed(&made.signing_key).unwrap();
        Certificate::pem(signed.pem(), key.clone())
    };
    let list: Vec<_> = (0..10_000).map(|n| issue(format!("h{n}.test"))).collect();
    let certificates = Certificates::empty();
    // Inserted, since a list is read on several threads, and this one's allocations are counted.
    let memory = allocation_counter::measure(|| {
        for (n, certificate) in list.iter().enumerate() {
            let inserted = certificates.insert(&n.to_string(), certificate.clone());
            inserted.unwrap();
        }
    });
    let each = memory.bytes_current / 10_000;
    eprintln!("{each} bytes a certificate");
    assert!(each < 3_000, "{each} bytes a certificate");
    let before = certificates.in_force();
    certificates
        .insert("one more", issue("h5.test".into()))
        .unwrap();
    let after = certificates.in_force();
    assert_eq!((before.len(), after.len()), (10_000, 10_001));
    let kept = before.iter().zip(&after);
    let kept = kept.filter(|(before, after)| Arc::ptr_eq(before, after));
    assert_eq!(kept.count(), 10_000, "the others are as they were");
}

#[tokio::test(start_paused = true)]
async fn tickets_come_with_the_first_answer() {
    let (layer, config) = pair();
    let (mut server, client) = streams(&layer, config);
    let (served, client) = tokio::join!(server.handshake(), client);
    served.unwrap();
    let mut client = client.unwrap();
    let tickets = |client: &Connected| client.get_ref().1.tls13_tickets_received();
    let mut byte = [0];
    let quiet = tokio::time::timeout(Duration::from_secs(1), client.read(&mut byte)).await;
    assert!(quiet.is_err() && tickets(&client) == 0);
    server.write_all(b"!").await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!((&byte, tickets(&client)), (b"!", 2));
}

#[tokio::test(start_paused = true)]
async fn a_large_client_hello_is_understood_however_it_comes() {
    for names in [0, 60, 80, 200, 252] {
        let (layer, config) = pair();
        let mut config = ClientConfig::clone(&config);
        let long = |n: usize| format!("{n:0>250}").into_bytes();
        config.alpn_protocols = (0..names).map(long).collect();
        config.alpn_protocols.push(b"h2".to_vec());
        let config = Arc::new(config);
        let name = ServerName::try_from("localhost").unwrap();
        let mut bytes = Vec::new();
        let mut hello = rustls::ClientConnection::new(config.clone(), name.clone()).unwrap();
        while hello.wants_write() {
            hello.write_tls(&mut bytes).unwrap();
        }
        // At fewer than 6 bytes, each side of rustls waits for the other to read.
        for slice in [7, 100, 1_460, 2_049, 4_095, 4_096, 16_389, 18_437, 1 << 20] {
            let (near, far) = tokio::io::duplex(slice);
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            let mut server = TlsStream::new(far, conn, Arc::new(layer.shared.clone()), None);
            let client = TlsConnector::from(config.clone()).connect(name.clone(), near);
            let (served, connected) = tokio::join!(server.handshake(), client);
            let case = format!("{} bytes in slices of {slice}", bytes.len());
            served.unwrap_or_else(|error| panic!("{case}: {error}"));
            let connected = connected.unwrap();
            let alpn = connected.get_ref().1.alpn_protocol();
            assert_eq!(alpn, Some(&b"h2"[..]), "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_hello_that_is_refused_gets_an_alert() {
    const DECODE_ERROR: u8 = 50;
    const PROTOCOL_VERSION: u8 = 70;
    const RECORD_OVERFLOW: u8 = 22;
    const UNEXPECTED_MESSAGE: u8 = 10;
    let record = |kind: u8, bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[kind, 3, 1][..], &length, bytes].concat()
    };
    // A message that announces 65,000 bytes, and one of 65,536.
    let fits = [&b"\x01\x00\xfd\xe8"[..], &[0; 16_000]].concat();
    let tls10 = [
        &b"\x01\0\0\x2b\x03\x01"[..],
        &[7; 32],
        b"\0\0\x04\0\x2f\0\x35\x01\0",
    ]
    .concat();
    let large = [&b"\x01\x01\x00\x00"[..], &[0; 16_000]].concat();
    for (sent, alert, what) in [
        (
            record(22, &large),
            DECODE_ERROR,
            "more than 64 KiB announced",
        ),
        (
            [record(22, &fits), record(22, &[0; 90]).repeat(600)].concat(),
            DECODE_ERROR,
            "more than 64 KiB of small records",
        ),
        (
            [record(22, &fits), record(21, &[2, 0])].concat(),
            UNEXPECTED_MESSAGE,
            "another record amid the message",
        ),
        (record(22, b"").repeat(100), DECODE_ERROR, "empty records"),
        (
            record(22, &[&fits[..], &[0; 2_428]].concat()),
            RECORD_OVERFLOW,
            "a record longer than is allowed",
        ),
        (
            b"\x16\x03\x01\xff\xff".repeat(9_000),
            RECORD_OVERFLOW,
            "longer still",
        ),
        (
            record(22, b"\x02\x00\x00\x00"),
            DECODE_ERROR,
            "a ServerHello without a body",
        ),
        (
            b"\x80\x2e\x01\x03\x01 SSL 2.0".to_vec(),
            UNEXPECTED_MESSAGE,
            "a record of SSL 2.0",
        ),
        (record(22, &tls10), PROTOCOL_VERSION, "TLS 1.0"),
    ] {
        for slice in [16, 100, 1 << 20] {
            let (layer, _) = pair();
            let seen = Arc::new(Causes::default());
            let layer = layer.events(seen.clone());
            let (near, far) = tokio::io::duplex(slice);
            let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
            let mut server = TlsStream::new(far, conn, Arc::new(layer.shared.clone()), None);
            let client = async {
                let (mut read, mut write) = tokio::io::split(near);
                let mut answer = Vec::new();
                // The server may stop reading before all is written.
                let all = async {
                    let _ = write.write_all(&sent).await;
                    let _ = write.shutdown().await;
                };
                let (read, ()) = tokio::join!(read.read_to_end(&mut answer), all);
                read.unwrap();
                answer
            };
            let serve = async move {
                let refused = server.handshake().await;
                assert!(refused.is_err());
                drop(server);
            };
            let (answer, ()) = tokio::join!(client, serve);
            let [21, 3, _, 0, 2, 2, said] = answer[..] else {
                panic!("{what} in slices of {slice}: {answer:?} is no fatal alert");
            };
            assert_eq!(said, alert, "{what} in slices of {slice}");
            let cause = match alert {
                PROTOCOL_VERSION => HandshakeFailure::NoSharedVersion,
                _ => HandshakeFailure::Malformed,
            };
            let causes = seen.0.lock().unwrap().clone();
            assert_eq!(causes, [Some(cause)], "{what} in slices of {slice}");
        }
    }
}

/// The causes of the failures that were reported.
#[derive(Default)]
struct Causes(std::sync::Mutex<Vec<Option<HandshakeFailure>>>);

impl ConnectionEvents for Causes {
    fn connection_ended(&self, event: &ConnectionEvent) {
        self.0.lock().unwrap().push(event.handshake_failure);
    }
}

type Connecting = tokio_rustls::Connect<DuplexStream>;
type Connected = tokio_rustls::client::TlsStream<DuplexStream>;

fn pair() -> (TlsLayer, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
    let config = TlsConfig::new(Certificates::new([certificate]).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(crate::connect::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsLayer::new(config), Arc::new(client))
}

fn streams(layer: &TlsLayer, client: Arc<ClientConfig>) -> (TlsStream<DuplexStream>, Connecting) {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let server = TlsStream::new(far, conn, Arc::new(layer.shared.clone()), None);
    let name = ServerName::try_from("localhost").unwrap();
    (server, TlsConnector::from(client).connect(name, near))
}
