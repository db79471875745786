use http::HeaderName;
use proptest::prelude::*;

use super::*;

fn parse(head: &str, to_head: bool) -> Result<(Head, Vec<String>), String> {
    let bytes = Bytes::copy_from_slice(head.as_bytes());
    let mut searched = 0;
    let end = find_end(&bytes, &mut searched).map_err(|error| error.to_string())?;
    assert_eq!(end, Some(bytes.len()), "{head:?} is one whole head");
    let mut headers = HeaderMap::new();
    let head = read(&bytes, to_head, &mut headers).map_err(|error| error.to_string())?;
    let lines = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}={value}")
    });
    Ok((head, lines.collect()))
}

fn answer(fields: &str) -> Result<(Head, Vec<String>), String> {
    parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), false)
}

#[test]
fn status_lines_are_read_with_any_reason_or_none() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 200", 200),
        ("HTTP/1.0 404 Not Found", 404),
        ("HTTP/1.3 204 x", 204),
        ("HTTP/1.1 999 Request denied", 999),
        ("HTTP/1.1 404 \u{e0} l'adresse", 404),
    ] {
        let (head, _) = parse(&format!("{line}\r\n\r\n"), false).unwrap();
        assert_eq!(head.status.as_u16(), status, "{line:?}");
    }
    for line in [
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 200 O\u{1}K",
        "HTTP/1.1 200OK",
        "HTTP/1.",
        "garbage",
    ] {
        let bytes = Bytes::from(format!("{line}\r\n\r\n"));
        let found = find_end(&bytes, &mut 0);
        let read = found.and_then(|_| read(&bytes, false, &mut HeaderMap::new()));
        assert!(read.is_err(), "{line:?}");
    }
}

#[test]
fn the_end_of_a_body_is_found_as_rfc_9112_says() {
    for (fields, framing) in [
        ("content-length: 5\r\n", Framing::Length(5)),
        ("content-length: 0\r\n", Framing::None),
        (
            "Content-Length: 5\r\ncontent-length: 5\r\n",
            Framing::Length(5),
        ),
        ("content-length: 5, 5\r\n", Framing::Length(5)),
        ("transfer-encoding: Chunked\r\n", Framing::Chunked),
        ("", Framing::Close),
    ] {
        let (head, _) = answer(fields).unwrap();
        assert_eq!(head.framing, framing, "{fields:?}");
    }
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: x\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        let error = answer(fields).unwrap_err();
        assert!(error.ends_with("(status 200)"), "{fields:?}: {error}");
    }
    for (line, to_head) in [("200 OK", true), ("204 x", false), ("304 x", false)] {
        let head = format!("HTTP/1.1 {line}\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(
            parse(&head, to_head).unwrap().0.framing,
            Framing::None,
            "{line}"
        );
    }
    assert!(
        parse(
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            false
        )
        .is_err()
    );
}

#[test]
fn a_connection_is_kept_where_the_framing_has_an_end() {
    for (head, keeps) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            true,
        ),
    ] {
        assert_eq!(parse(head, false).unwrap().0.keep_alive, keeps, "{head:?}");
    }
}

#[test]
fn hop_by_hop_fields_are_not_forwarded() {
    let (_, lines) = answer(
        "a: 1\r\nconnection: x-hop, close\r\nx-hop: 2\r\nkeep-alive: 5\r\nproxy-connection: x\r\n\
         upgrade: h2c\r\nte: x\r\ntransfer-encoding: chunked\r\nb: 3\r\n",
    )
    .unwrap();
    assert_eq!(lines, ["a=1", "b=3"]);
    let (_, lines) = parse(
        "HTTP/1.1 426 x\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 0\r\n\r\n",
        false,
    )
    .unwrap();
    assert_eq!(lines, ["upgrade=h2c", "content-length=0"]);
}

#[test]
fn a_length_is_forwarded_once_and_only_where_it_is_allowed() {
    let (_, lines) = answer("content-length: 5\r\nContent-Length: 05\r\n").unwrap();
    assert_eq!(lines, ["content-length=5"]);
    let (_, lines) = parse("HTTP/1.1 204 x\r\ncontent-length: 5\r\n\r\n", false).unwrap();
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn blanks_before_a_colon_are_removed() {
    let (head, lines) = answer("X-Old : 1\r\nContent-Length\t: 2\r\n").unwrap();
    assert_eq!(head.framing, Framing::Length(2));
    assert_eq!(lines, ["x-old=1", "content-length=2"]);
}

#[test]
fn schemes_that_authenticate_the_connection_are_recognized() {
    for (fields, binds) in [
        ("www-authenticate: NTLM\r\n", true),
        ("www-authenticate: Basic, Negotiate abc\r\n", true),
        ("proxy-authenticate: negotiate\r\n", true),
        ("www-authenticate: Basic realm=\"NTLM\"\r\n", false),
    ] {
        assert_eq!(
            answer(fields).unwrap().0.connection_auth,
            binds,
            "{fields:?}"
        );
    }
}

/// Heads, well formed and not, without fields that this hop acts on.
fn head_bytes() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        6 => Just(b"HTTP/1.1 200 OK".to_vec()),
        1 => Just(b"HTTP/1.0 404".to_vec()),
        1 => Just(b"HTTP/1.1 599 ".to_vec()),
        1 => "HTTP/1\\.[01] [0-9 ]{1,5}[ \t-~\u{7f}-\u{ff}]{0,4}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4)
            .prop_map(|end| [&b"HTTP/1.1 200 O"[..], &end].concat()),
    ];
    let name = prop_oneof![
        4 => "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,6}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let value = prop_oneof![
        4 => "[ \t]{0,2}[!-~]{0,6}[ \t]{0,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let field = (name, value).prop_map(|(name, value)| [&name[..], b":", &value].concat());
    let line = prop_oneof![12 => field, 1 => prop::collection::vec(any::<u8>(), 1..6)];
    (start, prop::collection::vec(line, 0..4)).prop_map(|(start, lines)| {
        let mut head = start;
        for line in lines {
            head.extend_from_slice(b"\r\n");
            head.extend_from_slice(&line);
        }
        head.extend_from_slice(b"\r\n\r\n");
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(4_000)))]
    #[test]
    fn a_head_is_read_as_httparse_reads_it(text in head_bytes()) {
        let Ok(Some(end)) = find_end(&text, &mut 0) else { return Ok(()) };
        let head = Bytes::copy_from_slice(&text[..end]);
        let mut ours = HeaderMap::new();
        let found = read(&head, false, &mut ours);
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut fields);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let done = config.parse_response(&mut parsed, &head);
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let sound = done == Ok(httparse::Status::Complete(end)) && status.is_some();
        prop_assert_eq!(found.is_ok(), sound, "{:?} {:?}", found, done);
        let Ok(found) = found else { return Ok(()) };
        prop_assert_eq!(Some(found.status), status);
        let mut theirs = HeaderMap::new();
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
            if !matches!(Field::of(&name), Field::HopByHop | Field::Te) {
                theirs.append(name, HeaderValue::from_bytes(field.value).unwrap());
            }
        }
        prop_assert_eq!(ours, theirs);
    }
}

fn written(
    status: u16,
    fields: &[(&'static str, &'static str)],
    body: &BodyInfo,
) -> (String, Framing, bool) {
    let mut headers = HeaderMap::new();
    for &(name, value) in fields {
        headers.append(name, HeaderValue::from_static(value));
    }
    let (mut keep, mut out) = (true, Vec::new());
    let status = StatusCode::from_u16(status).unwrap();
    let framing = write(status, None, &headers, body, &mut keep, |_| {}, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), framing, keep)
}

fn of(size: Option<u64>, is_http10: bool) -> BodyInfo {
    BodyInfo {
        to_head: false,
        is_empty: size == Some(0),
        size: size.map_or_else(SizeHint::new, SizeHint::with_exact),
        is_http10,
    }
}

#[test]
fn a_response_head_declares_the_framing_of_the_body() {
    let (head, framing, keep) = written(200, &[("a", "1")], &of(Some(5), false));
    assert_eq!(head, "HTTP/1.1 200 OK\r\na: 1\r\ncontent-length: 5\r\n\r\n");
    assert_eq!((framing, keep), (Framing::Length(5), true));
    let (head, framing, keep) = written(200, &[], &of(None, false));
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!((framing, keep), (Framing::Chunked, true));
    let (head, framing, keep) = written(200, &[], &of(None, true));
    assert_eq!(head, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
    assert_eq!((framing, keep), (Framing::Close, false));
    let (head, framing, keep) = written(200, &[], &of(Some(2), true));
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n"
    );
    assert_eq!((framing, keep), (Framing::Length(2), true));
    let (head, framing, _) = written(204, &[("content-length", "5")], &of(None, false));
    assert_eq!(head, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(framing, Framing::None);
}

#[test]
fn an_interim_response_has_no_fields_of_the_connection() {
    let mut headers = HeaderMap::new();
    headers.insert("link", HeaderValue::from_static("</a>"));
    headers.insert("connection", HeaderValue::from_static("x"));
    let mut out = Vec::new();
    write_interim(StatusCode::EARLY_HINTS, headers, &mut out);
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}

#[test]
fn a_repeated_length_is_forwarded_once_where_it_is_allowed() {
    let twice = |status: &str, second: &str| {
        let fields = format!("content-length: 5\r\ncontent-length: {second}\r\n");
        parse(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"), false).map(|(_, lines)| lines)
    };
    assert_eq!(twice("200 OK", "5").unwrap(), ["content-length=5"]);
    assert!(twice("204 No Content", "5").unwrap().is_empty());
    // `trim_ascii` removes a form feed, which HTTP does not count as a blank.
    for second in ["5\x0c", "5,\x0c5"] {
        assert!(twice("200 OK", second).is_err(), "{second:?}");
        assert!(twice("204 No Content", second).is_err(), "{second:?}");
    }
}
