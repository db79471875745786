//! Handshakes that fail: each cause by a client that makes it, in the event, the log and the metrics.
#![cfg(all(feature = "server", feature = "http1", feature = "http2"))]

use std::{
    collections::BTreeMap,
    io,
    process::Stdio,
    sync::{Mutex, OnceLock},
};

use evenkeel::{
    Pool,
    access_log::{AccessLogLayer, Format, Lines, Output, Tee, TracingSink},
    context::HandshakeFailure,
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
    tls::{ClientAuth, ClientRoots, HostPolicy, TlsVersion},
};
use rustls::version::TLS12;
use tokio::process::Command;

use super::{hostile::client_hello, *};
use crate::support::pki::connect;

type LoggedBody = evenkeel::access_log::RequestBody<evenkeel::server::Body>;

/// What a log wrote.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `evenkeel::serve` with TLS, metrics and an access log.
struct World {
    authority: Authority,
    clients: Authority,
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<ConnectionEvent>,
    metrics: MetricsService,
    log: Lines,
    written: Written,
    task: JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        let (authority, clients) = (Authority::new(), Authority::new());
        let issued = authority.issue(&["localhost", "clients.test", "new.test"]);
        let auth = ClientAuth::required(ClientRoots::pem(clients.pem())).unwrap();
        let config = config(&issued)
            .strict_sni(true)
            .host("clients.test", HostPolicy::new().client_auth(auth))
            .unwrap()
            .host("new.test", HostPolicy::new().min_version(TlsVersion::V1_3))
            .unwrap();
        let layer = TlsLayer::new(config).handshake_timeout(TIMEOUT);
        let stats = Stats::new(Pool::new([]).unwrap());
        let written = Written::default();
        let log = Lines::writer(written.clone()).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let access_log = AccessLogLayer::new(log.clone());
        let sinks = (
            MetricsLayer::new(stats.clone()),
            (access_log, Events(sender)),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = service_fn(async |_: http::Request<evenkeel::server::Body>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("served"))))
        });
        let serve = evenkeel::serve(listener, app).layer(layer).events(sinks);
        Self {
            authority,
            clients,
            address,
            events,
            metrics: MetricsService::new(stats),
            log,
            written,
            task: tokio::spawn(async move { serve.into_future().await.unwrap() }),
        }
    }

    async fn event(&mut self) -> ConnectionEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event must come").unwrap()
    }

    /// Sends these bytes, and reads what the server answers.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        answer
    }

    /// Shakes hands, and reads: in TLS 1.3 a client learns of its refusal at its first read.
    async fn refused(&self, client: rustls::ClientConfig, name: &str) {
        if let Ok(mut stream) = connect(self.address, client, name).await {
            let read = stream.read_u8().await;
            assert!(read.is_err(), "{name} must be refused");
        }
    }

    /// Makes a handshake fail with this cause.
    async fn fail(&self, cause: HandshakeFailure) {
        let (own, strange) = (&self.authority, Authority::new());
        match cause {
            HandshakeFailure::CertificateRefused => {
                // An authority of the same name would be a wrong signature instead.
                let unknown = strange.intermediate();
                self.refused(unknown.client(), "localhost").await;
            }
            HandshakeFailure::ClientAlert => self.send_alert().await,
            HandshakeFailure::ClientCertificateInvalid => {
                let foreign = own.client_with(&strange.issue(&["me"]));
                self.refused(foreign, "clients.test").await;
            }
            HandshakeFailure::ClientCertificateMissing => {
                self.refused(own.client(), "clients.test").await;
            }
            HandshakeFailure::ClientClosed => {
                let hello = client_hello(own);
                self.send(&hello[..hello.len() / 2]).await;
            }
            HandshakeFailure::Malformed => {
                self.send(b"\0\0\0\0\0\0\0\0").await;
            }
            HandshakeFailure::NoSharedAlpn => {
                let mut client = own.client();
                client.alpn_protocols = vec![b"spdy/3".to_vec()];
                self.refused(client, "localhost").await;
            }
            HandshakeFailure::NoSharedVersion => {
                self.refused(own.client_of(&[&TLS12]), "new.test").await;
            }
            HandshakeFailure::PlaintextHttp => {
                let answer = self.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
                assert!(
                    answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n"),
                    "{answer:?}"
                );
            }
            HandshakeFailure::Timeout => {
                let mut stream = TcpStream::connect(self.address).await.unwrap();
                stream.write_all(&client_hello(own)).await.unwrap();
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
            }
            HandshakeFailure::UnknownServerName => {
                self.refused(own.client(), "unknown.test").await;
            }
            other => panic!("{other:?} has a test of its own"),
        }
    }

    /// Sends an alert in the middle of a handshake of TLS 1.2, whose messages are in cleartext.
    async fn send_alert(&self) {
        let client = Arc::new(self.authority.client_of(&[&TLS12]));
        let name = "localhost".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 0x16, "the server's flight");
        // handshake_failure, fatal.
        stream
            .write_all(b"\x15\x03\x03\x00\x02\x02\x28")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }

    /// The lines of the log by cause.
    fn lines(&self) -> BTreeMap<String, serde_json::Value> {
        assert!(self.log.flush());
        let text = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["tls_failure"].as_str().unwrap().to_owned(), line)
        });
        lines.collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn each_cause_is_an_event_a_line_and_a_count() {
    let mut world = World::start().await;
    let causes = [
        (HandshakeFailure::CertificateRefused, Some("localhost")),
        (HandshakeFailure::ClientAlert, Some("localhost")),
        (
            HandshakeFailure::ClientCertificateInvalid,
            Some("clients.test"),
        ),
        (
            HandshakeFailure::ClientCertificateMissing,
            Some("clients.test"),
        ),
        (HandshakeFailure::ClientClosed, None),
        (HandshakeFailure::Malformed, None),
        (HandshakeFailure::NoSharedAlpn, Some("localhost")),
        (HandshakeFailure::NoSharedVersion, Some("new.test")),
        (HandshakeFailure::PlaintextHttp, None),
        (HandshakeFailure::Timeout, Some("localhost")),
        (HandshakeFailure::UnknownServerName, Some("unknown.test")),
    ];
    for (cause, server_name) in causes {
        world.fail(cause).await;
        let event = world.event().await;
        assert_eq!(event.handshake_failure, Some(cause), "{event:?}");
        assert_eq!(event.server_name.as_deref(), server_name, "{event:?}");
        assert_eq!(event.conn.peer().ip().unwrap().to_string(), "127.0.0.1");
        let is_timeout = event.kind.as_str() == "tls_timeout";
        assert_eq!(is_timeout, cause == HandshakeFailure::Timeout, "{event:?}");
    }
    // As TCP checks do.
    drop(TcpStream::connect(world.address).await.unwrap());

    let (lines, text) = (world.lines(), world.metrics.text());
    assert_eq!(lines.len(), causes.len());
    for (cause, server_name) in causes {
        let line = &lines[cause.as_str()];
        assert_eq!(line["sni"].as_str(), server_name, "{line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
        let (listener, cause) = (world.address, cause.as_str());
        let series = format!(
            "evenkeel_tls_handshake_failures_total{{listener=\"{listener}\",cause=\"{cause}\"}} 1\n"
        );
        assert!(text.contains(&series), "{series} is not in {text}");
    }
    // What clients send makes no series: the same again counts under the same names.
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    world.fail(HandshakeFailure::UnknownServerName).await;
    world.event().await;
    world.fail(HandshakeFailure::Malformed).await;
    world.event().await;
    let again = world.metrics.text();
    assert_eq!(series(&again), series(&text), "{again}");
    assert!(again.contains("cause=\"malformed\"} 2\n"), "{again}");
}

#[tokio::test]
async fn what_is_no_tls_of_today_is_recognized() {
    let mut world = World::start().await;
    let hello = client_hello(&world.authority);
    let tls11 = [
        &b"\x16\x03\x01\0\x2f\x01\0\0\x2b\x03\x02"[..],
        &[7; 32],
        b"\0\0\x04\0\x2f\0\x35\x01\0",
    ];
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n";
    let header2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x04\0\x01\xbb";
    let (malformed, old) = (
        HandshakeFailure::Malformed,
        HandshakeFailure::NoSharedVersion,
    );
    for (sent, cause, detail, alert) in [
        (tls11.concat(), old, "no version of TLS from 1.2 on", 70),
        (
            [header, &hello[..]].concat(),
            malformed,
            "PROXY protocol",
            10,
        ),
        (
            [header2, &hello[..]].concat(),
            malformed,
            "PROXY protocol",
            10,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), malformed, "", 10),
        (b"A1 CAPABILITY\r\n".to_vec(), malformed, "", 10),
    ] {
        let answer = world.send(&sent).await;
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, alert], "{cause:?}");
        let event = world.event().await;
        assert_eq!(event.handshake_failure, Some(cause), "{event:?}");
        assert!(event.detail.contains(detail), "{event:?}");
    }
    // A request in pieces is one, too.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in ["OPT", "IONS * HTT", "P/1.1\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let failure = world.event().await.handshake_failure;
    assert_eq!(failure, Some(HandshakeFailure::PlaintextHttp));
}

/// rustls has no client without a cipher suite in common; OpenSSL has.
#[tokio::test]
async fn a_client_of_another_library_without_a_shared_suite_is_counted() {
    let mut world = World::start().await;
    let connect = world.address.to_string();
    let arguments = [
        "s_client",
        "-connect",
        &connect,
        "-servername",
        "localhost",
        "-tls1_2",
    ];
    let openssl = Command::new("openssl")
        .args(arguments)
        // The key exchange of RSA, which is not forward secret.
        .args(["-cipher", "AES128-GCM-SHA256"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if openssl.is_err() {
        crate::support::not_run("openssl is not installed");
        return;
    }
    let event = world.event().await;
    let failure = event.handshake_failure;
    assert_eq!(failure, Some(HandshakeFailure::NoSharedCipher), "{event:?}");
}

#[tokio::test]
async fn handshakes_are_counted_by_what_they_agreed_on() {
    let world = World::start().await;
    let client = |version| http1(world.authority.client_of(&[version]));
    let mut resuming = client(&rustls::version::TLS13);
    resuming.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let (resuming, tls12) = (Arc::new(resuming), Arc::new(client(&TLS12)));
    for config in [&resuming, &resuming, &tls12] {
        let stream = connect(world.address, config.clone(), "localhost").await;
        assert_eq!(get(&mut stream.unwrap()).await, "served");
    }
    let own = http1(world.authority.client_with(&world.clients.issue(&["me"])));
    let mut stream = connect(world.address, own, "clients.test").await.unwrap();
    // The host of the request is the one of the handshake.
    let head = "GET / HTTP/1.1\r\nhost: clients.test\r\n\r\n";
    assert_eq!(request(&mut stream, head).await, "served");
    let text = world.metrics.text();
    let listener = world.address;
    for (labels, count) in [
        (
            "version=\"TLSv1.3\",cipher=\"TLS_AES_256_GCM_SHA384\",\
             key_exchange=\"X25519MLKEM768\",resumed=\"false\"",
            2,
        ),
        (
            "version=\"TLSv1.3\",cipher=\"TLS_AES_256_GCM_SHA384\",\
             key_exchange=\"X25519MLKEM768\",resumed=\"true\"",
            1,
        ),
        (
            "version=\"TLSv1.2\",cipher=\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\",\
             key_exchange=\"x25519\",resumed=\"false\"",
            1,
        ),
    ] {
        let series =
            format!("evenkeel_tls_handshakes_total{{listener=\"{listener}\",{labels}}} {count}\n");
        assert!(text.contains(&series), "{series} is not in {text}");
    }
}

#[tokio::test]
async fn the_subject_of_a_client_is_in_its_lines_and_the_fingerprint_if_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let auth = ClientAuth::required(ClientRoots::pem(clients.pem())).unwrap();
    let config = config(&authority.issue(&["localhost"])).client_auth(auth);
    let layer = TlsLayer::new(config);
    let own = clients.issue_of(&["app.test"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::OrganizationName, "Example");
        name.push(rcgen::DnType::CommonName, "app-1");
    });
    for fingerprint in [false, true] {
        let written = Written::default();
        let log = Lines::writer(written.clone()).unwrap();
        let access_log = AccessLogLayer::new(log.clone()).client_fingerprint(fingerprint);
        let seen = Arc::new(OnceLock::<String>::new());
        let known = seen.clone();
        let app = service_fn(move |request: http::Request<LoggedBody>| {
            let conn = ConnInfo::of(request.extensions()).unwrap();
            let client = conn.tls().unwrap().client.as_ref().unwrap();
            let _ = known.set(client.fingerprint.to_string());
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("served")))) }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = evenkeel::serve(listener, access_log.layer(app)).layer(layer.clone());
        let serving = tokio::spawn(serve.into_future());
        let client = http1(authority.client_with(&own));
        let mut stream = connect(address, client, "localhost").await.unwrap();
        // From the second request on, the fields of the connection are cached.
        for _ in 0..3 {
            assert_eq!(get(&mut stream).await, "served");
        }
        drop(stream);
        assert!(log.flush());
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        for line in lines {
            assert_eq!(line["tls_client_subject"], "CN=app-1,O=Example", "{line}");
            let shown = line["tls_client_fingerprint"].as_str();
            let wanted = seen.get().map(String::as_str);
            assert_eq!(shown, wanted.filter(|_| fingerprint), "{line}");
        }
        serving.abort();
    }
}

/// An authority of its own may put anything into a name, and each request has it in its line.
#[tokio::test]
async fn a_long_subject_is_cut_in_every_format_and_the_line_says_so() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let auth = ClientAuth::required(ClientRoots::pem(clients.pem())).unwrap();
    let config = config(&authority.issue(&["localhost"])).client_auth(auth);
    let layer = TlsLayer::new(config);
    let own = clients.issue_of(&["app.test"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "é".repeat(2_000));
    });
    let (json, logfmt, events) = (Written::default(), Written::default(), Written::default());
    let subscriber_output = events.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || subscriber_output.clone())
        .finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let lines =
        |format, written: &Written| Lines::new(format, Output::writer(written.clone())).unwrap();
    let outputs = (lines(Format::Json, &json), lines(Format::Logfmt, &logfmt));
    let sink = Tee::new(outputs.0.clone(), outputs.1.clone());
    let access_log = AccessLogLayer::new(Tee::new(TracingSink::new(), sink));
    let app = service_fn(async |_: http::Request<LoggedBody>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("served"))))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = evenkeel::serve(listener, access_log.layer(app)).layer(layer);
    let serving = tokio::spawn(serve.into_future());
    let client = http1(authority.client_with(&own));
    let mut stream = connect(address, client, "localhost").await.unwrap();
    // From the second request on, the fields of the connection are cached.
    for _ in 0..3 {
        assert_eq!(get(&mut stream).await, "served");
    }
    drop(stream);
    assert!(outputs.0.flush() && outputs.1.flush());
    let text = |written: &Written| String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let shown = format!("CN={}", "é".repeat(510));
    for (written, cut) in [
        (&json, r#""truncated":["tls_client_subject"]"#),
        (&logfmt, r#"truncated="[\"tls_client_subject\"]""#),
        (&events, "truncated=\"tls_client_subject\""),
    ] {
        let text = text(written);
        let lines: Vec<_> = text.lines().filter(|l| l.contains("CN=é")).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for line in lines {
            assert!(line.contains(&shown) && line.len() < 2_048, "{line}");
            assert!(line.contains(cut), "{cut} is not in {line}");
        }
    }
    serving.abort();
}

/// Long enough for the handshakes that are to end otherwise, on a machine that has a lot to do.
const TIMEOUT: Duration = Duration::from_secs(5);
