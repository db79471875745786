use proptest::prelude::*;

use super::*;

#[derive(Debug, Default)]
struct EmptyBody;

type Read = Result<(Head, Request<EmptyBody>), Malformed>;

/// Reads a head as a server does, and ignores the bytes after it.
fn request(bytes: &[u8], allowed: Allowed) -> Option<Read> {
    let bytes = &bytes[blank_lines(bytes)..];
    let end = match find_end(bytes, &mut 0) {
        Ok(Some(end)) => end,
        Ok(None) => return None,
        Err(error) => return Some(Err(error)),
    };
    let mut slot = None;
    Some(read(&bytes[..end], allowed, &mut slot).map(|head| {
        assert_eq!(head.length, end);
        (head, slot.unwrap())
    }))
}

fn status(head: &str) -> u16 {
    match request(head.as_bytes(), Allowed::default()) {
        None => 0,
        Some(Ok(_)) => 200,
        Some(Err(error)) => error.status().as_u16(),
    }
}

#[test]
fn a_head_is_read_into_a_request() {
    let head =
        b"\r\nPUT /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\na:  2 \r\nContent-Length: 3\r\n\r\nabc";
    let (head, request) = request(head, Allowed::default()).unwrap().unwrap();
    assert_eq!((head.framing, head.keep_alive), (Framing::Length(3), true));
    assert_eq!(request.method(), Method::PUT);
    assert_eq!(request.uri(), "/a?b");
    assert_eq!(request.version(), Version::HTTP_11);
    let values: Vec<_> = request.headers().get_all("a").iter().collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(request.headers()["host"], "x");
}

#[test]
fn every_malformed_kind_has_its_status() {
    let many = "a: b\r\n".repeat(100);
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 200),
        ("GET / HTTP/1.0\r\n\r\n".into(), 200),
        ("GET / HTTP/1.7\r\nHost: a\r\n\r\n".into(), 200),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 200),
        ("GET / HTTP/1.1\r\nHost: a\r\n".into(), 0),
        ("GET".into(), 0),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\n".into(), 505),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / http/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /\r\n\r\n".into(), 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("G\u{e9}T / HTTP/1.1\r\n".into(), 400),
        ("\u{16}\u{3}\u{1}".into(), 400),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("GET http://a/ HTTP/1.1\r\nHost: b@c\r\n\r\n".into(), 400),
        ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: \u{0}\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx : y\r\n\r\n".into(), 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n z\r\n\r\n".into(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n".into(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(),
            501,
        ),
        (
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n",
                "a,".repeat(65)
            ),
            400,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (
            format!(
                "GET / HTTP/1.1\r\nx: {}\r\n\r\n",
                "a".repeat(fields::MAX_HEAD)
            ),
            431,
        ),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(fields::MAX_HEAD)),
            414,
        ),
    ] {
        assert_eq!(status(&head), expected, "{head:?}");
    }
}

#[test]
fn deviations_of_known_clients_can_be_allowed() {
    let empty_host = b"GET / HTTP/1.1\r\nHost: \r\n\r\n";
    let raw = "GET /?q=\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes();
    let allowed = |empty_host, raw_target| Allowed {
        empty_host,
        raw_target,
    };
    for (head, with) in [
        (&empty_host[..], allowed(true, false)),
        (raw, allowed(false, true)),
    ] {
        assert!(request(head, with).unwrap().is_ok());
        assert!(request(head, Allowed::default()).unwrap().is_err());
    }
}

#[test]
fn persistence_and_upgrades_depend_on_version_and_options() {
    for (head, keep_alive, upgrades, expects) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, false, false),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
            false,
            false,
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", false, false, false),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            true,
            false,
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            true,
            true,
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n",
            true,
            false,
            false,
        ),
        (
            "GET / HTTP/1.0\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            false,
            false,
            false,
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n",
            true,
            false,
            true,
        ),
        (
            "PUT / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
            false,
            false,
            false,
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            true,
            false,
            false,
        ),
    ] {
        let (head, _) = request(head.as_bytes(), Allowed::default())
            .unwrap()
            .unwrap();
        let found = (head.keep_alive, head.upgrades, head.expects_continue);
        assert_eq!(found, (keep_alive, upgrades, expects), "{head:?}");
    }
}

#[test]
fn a_written_head_equals_the_head_that_was_read() {
    for line in [
        "GET /a?b=c",
        "OPTIONS *",
        "CONNECT a:443",
        "GET http://b/c?d",
        "OPTIONS http://b",
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: 2\r\n\r\n");
        let (_, request) = request(head.as_bytes(), Allowed::default())
            .unwrap()
            .unwrap();
        let mut out = Vec::new();
        write(&request, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), head);
    }
}

#[test]
fn method_and_path_of_a_refused_head_are_identified() {
    for (head, method, path) in [
        (
            "\r\nPOST /a/b?c=d HTTP/1.1\r\nbad",
            Some("POST"),
            Some("/a/b"),
        ),
        ("GET /a\n", Some("GET"), Some("/a")),
        ("GET", Some("GET"), None),
        ("\u{16}\u{3}", None, None),
        ("", None, None),
    ] {
        let (found, target) = identify(head.as_bytes());
        assert_eq!(found.as_ref().map(Method::as_str), method, "{head:?}");
        assert_eq!(target.as_deref(), path, "{head:?}");
    }
}

#[test]
fn heads_in_a_shared_block_are_not_overwritten() {
    let mut kept = Vec::new();
    for number in 0..200_usize {
        let filler = "x".repeat(if number % 7 == 0 {
            MAX_SHARED_HEAD
        } else {
            number
        });
        let head = format!("GET /{number} HTTP/1.1\r\nhost: a\r\na: {filler}\r\n\r\n");
        let (_, request) = request(head.as_bytes(), Allowed::default())
            .unwrap()
            .unwrap();
        if number % 3 == 0 {
            kept.push((number, filler, request));
        }
    }
    for (number, filler, request) in kept {
        assert_eq!(request.uri().path(), format!("/{number}"));
        assert_eq!(request.headers()["a"], filler);
    }
}

#[test]
fn a_head_block_is_reused_once_its_heads_are_dropped() {
    let once = || {
        let head = b"GET /a HTTP/1.1\r\nhost: a\r\nb: c\r\n\r\n";
        let (_, mut request) = request(head, Allowed::default()).unwrap().unwrap();
        recycle_map(std::mem::take(request.headers_mut()));
    };
    once();
    let cost = allocation_counter::measure(|| (0..1_000).for_each(|_| once()));
    assert_eq!(cost.count_total, 0);
}

proptest! {
    /// A head that arrives in pieces is the same request, or refused with the same status.
    #[test]
    fn slicing_a_head_does_not_change_its_reading(
        parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..14),
        begins in prop::bool::weighted(0.8),
        cut in 0_usize..200,
    ) {
        let mut bytes = Vec::new();
        if begins {
            bytes.extend_from_slice(b"GET /a HTTP/1.1\r\nhost: a\r\n");
        }
        for part in parts {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(b"\r\n");
        let bytes = &bytes[blank_lines(&bytes)..];
        let whole = request(bytes, Allowed::default());
        let mut searched = 0;
        let cut = cut.min(bytes.len());
        let pieces = match find_end(&bytes[..cut], &mut searched) {
            Ok(None) => find_end(bytes, &mut searched),
            other => other,
        };
        match pieces {
            Ok(Some(end)) => prop_assert_eq!(find_end(bytes, &mut 0), Ok(Some(end))),
            Ok(None) => prop_assert!(whole.is_none()),
            Err(_) => prop_assert!(!matches!(whole, Some(Ok(_))), "a piece of it is refused"),
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = request(&bytes, Allowed::default());
        let _ = identify(&bytes);
    }
}

/// Parts of heads, well formed and nearly so.
const PARTS: [&[u8]; 26] = [
    b"host: a\r\n",
    b"a: 1\r\n",
    b"A:2\r\n",
    b"a:  \t x y \t \r\n",
    b"b:\r\n",
    b"Connection: close\r\n",
    b"connection: Keep-Alive, x\r\n",
    b"content-length: 0\r\n",
    b"content-length: 1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"te: trailers\r\n",
    b"upgrade: x\r\n",
    b"expect: 100-continue\r\n",
    b"c: \xff\xfe\r\n",
    b"c: \x01\r\n",
    b"c: a\rb\r\n",
    b"c: a\n",
    b"d : x\r\n",
    b" e: folded\r\n",
    b": nameless\r\n",
    b"no-colon\r\n",
    b"f\xff: x\r\n",
    b"g!#$%&'*+.^_`|~: x\r\n",
    b"POST /x?y=\"{}|<>^`\\ HTTP/1.1\r\n",
    b"\r\n",
    b"\n",
];
