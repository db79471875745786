//! The parser by tables and by generated input, and the layer over streams in memory.

use std::{sync::Arc, sync::Mutex, time::Duration};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};
use tower::ServiceExt;
use tower_layer::Layer;

use super::{
    layer::{MAX_LENGTH, TIMEOUT},
    parse::{Parsed, V1_MAX, has_signature, parse},
    *,
};
use crate::{
    context::{Conn, ConnInfo, ConnectionEvent, ConnectionEvents, Peer, TrustedPeers},
    default_table,
    error::BoxError,
};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let config = ProxyProtocolLayer::new(TrustedPeers::default()).config;
    let unix = ["not trusted", "trusted"][usize::from(config.trusts(&Peer::Unix))];
    let header = ["optional", "required"][usize::from(config.is_required)];
    let compared = [
        ("trusted peers", "no default".to_owned()),
        ("peers over Unix sockets", unix.to_owned()),
        ("a header of a trusted peer", header.to_owned()),
        ("time-out", format!("{} s", TIMEOUT.as_secs())),
        ("largest header of version 2", format!("{MAX_LENGTH} bytes")),
        ("largest header of version 1", format!("{V1_MAX} bytes")),
    ];
    default_table::compare(include_str!("mod.rs"), &compared);
}

#[test]
fn limits_out_of_range_are_refused() {
    let layer = || ProxyProtocolLayer::new(TrustedPeers::default());
    assert!(layer().timeout(Duration::ZERO).is_err());
    assert!(layer().timeout(Duration::from_secs(3_601)).is_err());
    assert!(layer().max_length(231).is_err());
    assert!(layer().max_length(4_097).is_err());
    assert!(layer().max_length(4_096).is_ok());
}

#[test]
fn lines_of_version_1() {
    for (line, source) in [
        (
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n",
            "203.0.113.7:50000",
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0:0"),
        ("PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", "[2001:db8::7]:1"),
        ("PROXY UNKNOWN\r\n", ""),
        ("PROXY UNKNOWN a b c d e f g\r\n", ""),
    ] {
        let Parsed::Header(header, length) = parse(line.as_bytes(), MAX_LENGTH) else {
            panic!("{line:?} is a header");
        };
        let found = header.source().map(|s| s.to_string()).unwrap_or_default();
        assert_eq!((found.as_str(), length), (source, line.len()));
        assert_eq!((header.version(), header.is_local()), (1, false));
    }
    for line in [
        "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443 \r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\r\n",
        "PROXY TCP4 203.0.113.7  192.0.2.1 50000 443\r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 +50000 443\r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 050000 443\r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 443\r\n",
        "PROXY TCP4 203.0.113 192.0.2.1 1 443\r\n",
        "PROXY TCP4 ::1 ::1 1 443\r\n",
        "PROXY TCP6 203.0.113.7 192.0.2.1 1 443\r\n",
        "PROXY UDP4 203.0.113.7 192.0.2.1 1 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n",
        "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\u{e9}\r\n",
    ] {
        let parsed = parse(line.as_bytes(), MAX_LENGTH);
        assert!(
            matches!(parsed, Parsed::Malformed(_)),
            "{line:?}: {parsed:?}"
        );
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 16));
    assert!(matches!(
        parse(long.as_bytes(), MAX_LENGTH),
        Parsed::Header(_, V1_MAX)
    ));
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 15));
    assert!(matches!(
        parse(long.as_bytes(), MAX_LENGTH),
        Parsed::Malformed(_)
    ));
}

#[test]
fn what_is_no_header_is_seen_at_its_first_byte_that_differs() {
    for bytes in [
        &b"G"[..],
        b"PO",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01",
        b"\r\n\r\nG",
    ] {
        assert_eq!(parse(bytes, MAX_LENGTH), Parsed::Absent, "{bytes:?}");
        assert!(!has_signature(bytes));
    }
    for bytes in [&b""[..], b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT\n"] {
        assert_eq!(parse(bytes, MAX_LENGTH), Parsed::Incomplete, "{bytes:?}");
    }
    assert!(has_signature(&v2(0x21, 0x11, &IPV4)));
    assert!(has_signature(b"PROXY TCP4 1"));
}

#[test]
fn headers_of_version_2() {
    let Parsed::Header(header, 28) = parse(&v2(0x21, 0x11, &IPV4), MAX_LENGTH) else {
        panic!("IPv4");
    };
    assert_eq!(header.source(), "203.0.113.7:50000".parse().ok());
    assert_eq!(header.destination(), "192.0.2.1:443".parse().ok());
    assert_eq!(header.fields().count(), 0);

    let mut unix = vec![0; 216];
    unix[..9].copy_from_slice(b"/run/from");
    unix[108..113].copy_from_slice(b"\0name");
    let Parsed::Header(header, 232) = parse(&v2(0x21, 0x31, &unix), MAX_LENGTH) else {
        panic!("Unix");
    };
    let (source, destination) = header.unix_paths().unwrap();
    assert_eq!(source.to_str(), Some("/run/from"));
    assert_eq!(destination.to_str(), Some("\0name"));
    assert_eq!(header.source(), None);

    // LOCAL and UNSPEC: what follows has no meaning.
    for (command, family) in [(0x20, 0x11), (0x20, 0x00), (0x21, 0x00)] {
        let Parsed::Header(header, 28) = parse(&v2(command, family, &IPV4), MAX_LENGTH) else {
            panic!("{command:#x} {family:#x}");
        };
        assert_eq!(
            (header.source(), header.is_local()),
            (None, command == 0x20)
        );
    }
    for (what, bytes) in [
        ("version 3", v2(0x31, 0x11, &IPV4)),
        ("an unknown command", v2(0x22, 0x11, &IPV4)),
        ("an unknown family", v2(0x21, 0x41, &IPV4)),
        ("datagrams", v2(0x21, 0x12, &IPV4)),
        ("short addresses", v2(0x21, 0x11, &IPV4[..11])),
        (
            "a field cut off",
            v2(0x21, 0x11, &[&IPV4[..], &[1, 0, 9, 1]].concat()),
        ),
        (
            "bytes behind the fields",
            v2(0x21, 0x11, &[&IPV4[..], &[1, 0]].concat()),
        ),
        (
            "a wrong checksum",
            v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
        ),
        (
            "a short checksum",
            v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 2, 1, 2]].concat()),
        ),
    ] {
        let parsed = parse(&bytes, MAX_LENGTH);
        assert!(matches!(parsed, Parsed::Malformed(_)), "{what}: {parsed:?}");
    }
    // Refused by its length, before the rest comes.
    let long = &v2(0x21, 0x11, &[0; 497])[..16];
    assert!(matches!(parse(long, MAX_LENGTH), Parsed::Malformed(_)));
    assert_eq!(parse(long, 4_096), Parsed::Incomplete);
}

/// The checksum was computed by a table, apart from this crate; the table gives 0xe3069283 for
/// `123456789`, as RFC 3720 §B.4 has it.
#[test]
fn a_right_checksum_is_accepted() {
    let mut bytes = v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 4, 0, 0, 0, 0]].concat());
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&CHECKSUM.to_be_bytes());
    let parsed = parse(&bytes, MAX_LENGTH);
    assert!(matches!(parsed, Parsed::Header(..)), "{parsed:?}");
}

#[test]
fn fields_of_version_2() {
    let ssl = [
        &[0x07, 0, 0, 0, 0][..],
        &field(0x21, b"TLSv1.3"),
        &field(0x22, b"client.example"),
        &field(0x23, b"TLS_AES_128_GCM_SHA256"),
    ];
    let fields = [
        field(0x01, b"h2"),
        field(0x02, b"www.example"),
        field(0x05, b"id-1"),
        field(0x20, &ssl.concat()),
        field(0xea, b"\x01vpce-08d2bf15fac5001c9"),
        field(0xee, b"\x01\x01\0\0\0"),
        field(0xe0, &[0, 0, 0, 0, 0, 0, 1, 0]),
        field(0xe4, b"own"),
        field(0x04, &[0; 7]),
    ];
    let bytes = v2(0x21, 0x11, &[&IPV4[..], &fields.concat()].concat());
    let Parsed::Header(header, length) = parse(&bytes, MAX_LENGTH) else {
        panic!("a header");
    };
    assert_eq!(length, bytes.len());
    assert_eq!(header.alpn(), Some(&b"h2"[..]));
    assert_eq!(header.authority(), Some("www.example"));
    assert_eq!(header.unique_id(), Some(&b"id-1"[..]));
    assert_eq!(header.aws_vpc_endpoint(), Some("vpce-08d2bf15fac5001c9"));
    assert_eq!(header.azure_link_id(), Some(1));
    assert_eq!(header.gcp_psc_connection(), Some(256));
    assert_eq!(header.field(0xe4), Some(&b"own"[..]));
    assert_eq!(header.fields().count(), 9);
    let ssl = header.ssl().unwrap();
    assert!(ssl.is_tls() && ssl.is_client_verified());
    assert_eq!(ssl.version(), Some("TLSv1.3"));
    assert_eq!(ssl.cipher(), Some("TLS_AES_128_GCM_SHA256"));
    assert_eq!(ssl.common_name(), Some("client.example"));
}

proptest! {
    /// A header of any kind, cut anywhere: nothing is passed on until it is whole, and then exactly what
    /// stands behind it.
    #[test]
    fn a_header_in_pieces_is_the_header(
        which in 0..SAMPLES, cuts in proptest::collection::vec(1_usize..40, 0..40),
        behind in proptest::collection::vec(any::<u8>(), 0..900),
    ) {
        let header = sample(which);
        let bytes = [&header[..], &behind].concat();
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces.push(rest.to_vec());
        let given = pass(pieces);
        let given = given.expect("a whole header");
        prop_assert_eq!(given.bytes, behind);
    }

    /// Whatever a trusted peer sends: no panic, and nothing is passed on unless it begins with a header.
    #[test]
    fn garbage_is_not_passed_on(
        which in 0..SAMPLES, flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        behind in proptest::collection::vec(any::<u8>(), 0..600), alone in any::<bool>(),
    ) {
        let header = if alone { Vec::new() } else { sample(which) };
        let mut bytes = [header, behind].concat();
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let parsed = parse(&bytes, MAX_LENGTH);
        match (pass(vec![bytes.clone()]), parsed) {
            (Ok(given), Parsed::Header(_, length)) => prop_assert_eq!(&given.bytes, &bytes[length..]),
            (Ok(given), parsed) => prop_assert!(false, "{parsed:?} passed {given:?}"),
            (Err(_), parsed) => prop_assert!(!matches!(parsed, Parsed::Header(..))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_accept() {
    for sent in ["", "PROXY TCP4 203.0"] {
        let (mut peer, service, conn, events) = set_up(&layer());
        tokio::time::advance(Duration::from_secs(2)).await;
        let began = Instant::now();
        peer.write_all(sent.as_bytes()).await.unwrap();
        let error = service.oneshot(conn).await.unwrap_err();
        assert!(error.to_string().starts_with("the peer s"), "{error}");
        assert_eq!(began.elapsed().as_secs(), 3, "{sent:?}");
        assert_eq!(events.kinds(), ["proxy_timeout"]);
    }
}

#[tokio::test]
async fn each_refusal_is_one_event() {
    for (sent, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", &["proxy_header"][..]),
        ("PROXY TCP4 1 2 3 4\r\n", &["proxy_header"]),
        ("PROXY TCP4 203.0", &["proxy_header"]),
        ("", &[]),
    ] {
        let (mut peer, service, conn, events) = set_up(&layer());
        peer.write_all(sent.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        service.oneshot(conn).await.unwrap_err();
        assert_eq!(events.kinds(), expected, "{sent:?}");
    }
}

#[tokio::test]
async fn where_it_is_optional_other_bytes_pass_whole() {
    for sent in ["GET / HTTP/1.1\r\n\r\n", "PROXYING", "\r\n\r\nGET"] {
        let (mut peer, service, conn, _events) = set_up(&layer().required(false));
        peer.write_all(sent.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        let given = service.oneshot(conn).await.unwrap();
        assert_eq!(given.bytes, sent.as_bytes());
        assert_eq!(given.client, Some("10.0.0.1:40000".to_owned()));
    }
    // What begins as a header has to be one.
    let (mut peer, service, conn, events) = set_up(&layer().required(false));
    peer.write_all(b"PROXY TCP4 nonsense\r\n").await.unwrap();
    service.oneshot(conn).await.unwrap_err();
    assert_eq!(events.kinds(), ["proxy_header"]);
}

#[tokio::test]
async fn an_unlisted_peer_and_a_layer_that_is_off_pass_all_bytes() {
    let header = "PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n";
    let others = ProxyProtocolLayer::new(TrustedPeers::new(["192.0.2.0/24"]).unwrap());
    for layer in [others, ProxyProtocolLayer::off()] {
        let (mut peer, service, conn, events) = set_up(&layer);
        peer.write_all(header.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        let given = service.oneshot(conn).await.unwrap();
        assert_eq!(given.bytes, header.as_bytes());
        assert_eq!(given.client, Some("10.0.0.1:40000".to_owned()));
        assert!(events.kinds().is_empty());
    }
}

#[tokio::test]
async fn a_refused_stream_stays_closed() {
    let (mut peer, end) = tokio::io::duplex(1_024);
    let config = Arc::new(layer().config);
    let mut stream = ProxyProtocolStream::new(end, info(), &config, None);
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(stream.read_u8().await.is_err());
    assert!(stream.read_u8().await.is_err());
    assert!(stream.write_all(b"answer").await.is_err());
}

fn layer() -> ProxyProtocolLayer {
    ProxyProtocolLayer::new(TrustedPeers::new(["10.0.0.0/8"]).unwrap())
}

fn info() -> ConnInfo {
    ConnInfo::new(Peer::Tcp(([10, 0, 0, 1], 40_000).into()), Peer::Unknown)
}

#[derive(Debug)]
struct Given {
    bytes: Vec<u8>,
    client: Option<String>,
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<&'static str>>>);

impl Events {
    fn kinds(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

impl ConnectionEvents for Events {
    fn connection_ended(&self, event: &ConnectionEvent) {
        self.0.lock().unwrap().push(event.kind.as_str());
    }
}

/// A peer, the layer around a service that returns all bytes, and a connection between them.
fn set_up(
    layer: &ProxyProtocolLayer,
) -> (
    DuplexStream,
    impl tower_service::Service<Conn<DuplexStream>, Response = Given, Error = BoxError> + use<>,
    Conn<DuplexStream>,
    Events,
) {
    let service = tower::service_fn(
        |mut conn: Conn<ProxyProtocolStream<DuplexStream>>| async move {
            let mut bytes = Vec::new();
            conn.io.read_to_end(&mut bytes).await?;
            let client = conn.info.client().map(|client| client.to_string());
            Ok::<_, BoxError>(Given { bytes, client })
        },
    );
    let (peer, end) = tokio::io::duplex(8 * 1_024);
    let events = Events::default();
    let conn = Conn::new(end, info()).with_events(Arc::new(events.clone()));
    (peer, layer.layer(service), conn, events)
}

/// What the layer passes on of these pieces, each of which it reads apart.
fn pass(pieces: Vec<Vec<u8>>) -> Result<Given, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut peer, service, conn, _events) = set_up(&layer());
        let send = async move {
            for piece in pieces {
                if peer.write_all(&piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(service.oneshot(conn), send).0
    })
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        rest,
    ]
    .concat()
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

fn sample(which: usize) -> Vec<u8> {
    match which {
        0 => b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(),
        1 => b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(),
        2 => b"PROXY UNKNOWN\r\n".to_vec(),
        3 => v2(0x20, 0x00, &[]),
        4 => v2(0x21, 0x31, &[b'/'; 216]),
        5 => v2(
            0x21,
            0x21,
            &[&[7; 36][..], &field(0x02, b"www.example")].concat(),
        ),
        _ => v2(0x21, 0x11, &[&IPV4[..], &field(0x04, &[0; 400])].concat()),
    }
}

const SAMPLES: usize = 7;
/// 203.0.113.7:50000 to 192.0.2.1:443.
const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0xc3, 0x50, 0x01, 0xbb];
const CHECKSUM: u32 = 0x5010_129c;
