//! Backends that send malformed responses: what the client gets, what the record says,
//! and what becomes of the connection.

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind, Pool,
    access_log::{AccessLogLayer, Lines},
    balance::BalanceLayer,
    context::{Exchange, Outcome},
    proxy::Proxy,
    respond::RespondLayer,
};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, ServiceExt};

use crate::support::{Act, Scripted, Written};

/// What the client gets: a status, and the body or how it broke off.
#[derive(Debug, PartialEq, Eq)]
enum Client {
    /// This status and a whole body.
    Whole(u16, &'static str),
    /// This status, and then the body breaks off.
    Broken(u16, ErrorKind),
    /// The balancer's own answer.
    Refused(u16, ErrorKind),
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnd {
    Dropped,
    Reused,
}

use Client::{Broken, Refused, Whole};
use ConnectionEnd::{Dropped, Reused};
use ErrorKind::{ResponseBody, ResponseClosed, ResponseHead, Upgrade};

type Case = (&'static str, &'static [u8], Client, ConnectionEnd);

const BAD: Client = Refused(502, ResponseHead);
const CUT: Client = Refused(502, ResponseClosed);

/// Answers of a backend that closes its connection after them.
const CLOSING: &[Case] = &[
    ("nothing", b"", CUT, Dropped),
    ("half a status line", b"HTTP/1.1 2", CUT, Dropped),
    (
        "half a head",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        CUT,
        Dropped,
    ),
    (
        "no empty line",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
        CUT,
        Dropped,
    ),
    (
        "an interim response only",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        CUT,
        Dropped,
    ),
    (
        "a body cut off",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "no body at all",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "chunks cut off in a size",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "chunks cut off in data",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "chunks cut off after data",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "no last chunk",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "trailers cut off",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "the end of chunks cut off",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
        Broken(200, ResponseBody),
        Dropped,
    ),
    (
        "a body to the close",
        b"HTTP/1.1 200 OK\r\n\r\nab",
        Whole(200, "ab"),
        Dropped,
    ),
    (
        "an old body to the close",
        b"HTTP/1.0 200 OK\r\n\r\nab",
        Whole(200, "ab"),
        Dropped,
    ),
    (
        "a close after a whole body",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
        Whole(200, "ab"),
        Dropped,
    ),
];

/// Answers of a backend that keeps its connection open.
const OPEN: &[Case] = &[
    ("garbage", b"\x00\x01\x02\x03", BAD, Dropped),
    ("a page without a head", b"<html>oops</html>", BAD, Dropped),
    ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n", BAD, Dropped),
    ("HTTP/2", b"HTTP/2 200 OK\r\n\r\n", BAD, Dropped),
    ("lower case", b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a status of letters", b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a status below 100", b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("an empty line first", b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("lines without CR", b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", BAD, Dropped),
    ("one line without CR", b"HTTP/1.1 200 OK\r\na: b\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a folded line", b"HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("no colon", b"HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("an empty name", b"HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a NUL in a value", b"HTTP/1.1 200 OK\r\na: b\0c\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("a bare CR in a value", b"HTTP/1.1 200 OK\r\na: b\rc\r\ncontent-length: 0\r\n\r\n", BAD, Dropped),
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab", BAD, Dropped),
    ("a negative length", b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nab", BAD, Dropped),
    ("a signed length", b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab", BAD, Dropped),
    ("a hexadecimal length", b"HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nab", BAD, Dropped),
    ("an empty length", b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nab", BAD, Dropped),
    ("a length beyond all bounds", b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", BAD, Dropped),
    ("length and chunks", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD, Dropped),
    ("chunks and length", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", BAD, Dropped),
    ("another coding", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", BAD, Dropped),
    ("chunks that are not last", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", BAD, Dropped),
    ("chunked twice", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD, Dropped),
    ("almost chunked", b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", BAD, Dropped),
    ("chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD, Dropped),
    ("a switch that was not asked for", b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", Refused(502, Upgrade), Dropped),
    ("a bad chunk size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", Broken(200, ResponseBody), Dropped),
    ("a negative chunk size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nab", Broken(200, ResponseBody), Dropped),
    ("a chunk size beyond all bounds", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n", Broken(200, ResponseBody), Dropped),
    ("a chunk line without CR", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", Broken(200, ResponseBody), Dropped),
    ("a chunk longer than its size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", Broken(200, ResponseBody), Dropped),
    ("a line hidden in an extension", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a\nb\r\nab\r\n0\r\n\r\n", Broken(200, ResponseBody), Dropped),
    ("bad trailers", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", Broken(200, ResponseBody), Dropped),
    ("more than the length", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabcd", Whole(200, "ab"), Dropped),
    ("a second response", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n", Whole(200, "ab"), Dropped),
    ("more after the last chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nxx", Whole(200, "ab"), Dropped),
    ("a body where none may be", b"HTTP/1.1 204 No Content\r\n\r\nab", Whole(204, ""), Dropped),
    ("a body of a 304", b"HTTP/1.1 304 Not Modified\r\n\r\nab", Whole(304, ""), Dropped),
    ("a close that is announced", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab", Whole(200, "ab"), Dropped),
    ("a version to come", b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n", Whole(200, ""), Reused),
    ("a space before the colon", b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n", Whole(200, ""), Reused),
    ("the same length twice", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab", Whole(200, "ab"), Reused),
    ("a list of lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab", Whole(200, "ab"), Reused),
    ("a space after a chunk size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n", Whole(200, "ab"), Reused),
    ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=1\r\nab\r\n0\r\n\r\n", Whole(200, "ab"), Reused),
    ("interim responses", b"HTTP/1.1 102 x\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", Whole(200, "ab"), Reused),
    ("no reason", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nab", Whole(200, "ab"), Reused),
    ("an unknown status", b"HTTP/1.1 799 x\r\ncontent-length: 2\r\n\r\nab", Whole(799, "ab"), Reused),
    ("a length of a 304", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", Whole(304, ""), Reused),
    ("bytes beyond ASCII in a value", b"HTTP/1.1 200 OK\r\na: \xff\xfe\r\ncontent-length: 2\r\n\r\nab", Whole(200, "ab"), Reused),
];

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

async fn play(case: &Case, act: Act) {
    let (name, _, client, end) = case;
    let origin = Scripted::play(vec![act, Act::Send(FINE)]).await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    let pool = Pool::new([backend]).unwrap();
    let lines = Written::default();
    let sink = Lines::writer(lines.clone()).unwrap();
    let stack = RespondLayer::new().layer(BalanceLayer::new(pool.clone()).layer(Proxy::new()));
    let stack = AccessLogLayer::new(sink.clone()).layer(stack);
    // Not idempotent, so that every failure shows.
    let request = || {
        let request = Request::builder().method(Method::POST).header("host", "a");
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let mut first = request();
    let exchange = Exchange::of(first.extensions_mut());
    let response = stack.clone().oneshot(first).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await;
    let outcome = exchange.attempts(|all| all[0].outcome);
    match (client, body) {
        (Whole(wanted, text), Ok(body)) => {
            assert_eq!(
                (status, &body.to_bytes()[..]),
                (*wanted, text.as_bytes()),
                "{name}"
            );
            assert_eq!(outcome, Some(Outcome::Ok), "{name}");
        }
        (Broken(wanted, kind), Err(error)) => {
            let error = evenkeel::Error::from_boxed(error.into());
            assert_eq!((status, error.kind()), (*wanted, *kind), "{name}");
            assert_eq!(outcome, Some(Outcome::Failed(*kind)), "{name}");
        }
        (Refused(wanted, kind), Ok(_)) => {
            assert_eq!(
                (status, exchange.failure()),
                (*wanted, Some(*kind)),
                "{name}"
            );
            assert_eq!(outcome, Some(Outcome::Failed(*kind)), "{name}");
        }
        (wanted, got) => panic!("{name}: {wanted:?} was wanted, {status} {got:?} came"),
    }
    assert!(sink.flush());
    let line: serde_json::Value = serde_json::from_slice(&lines.take()).unwrap();
    let logged = match client {
        Whole(..) => "ok",
        Broken(_, kind) | Refused(_, kind) => kind.as_str(),
    };
    assert_eq!(line["outcome"], logged, "{name}: {line}");
    assert_eq!(line["status"], status, "{name}: {line}");
    assert_eq!(
        pool.snapshot().backends()[0].in_flight(),
        0,
        "{name}: the lease is back"
    );
    let next = stack.oneshot(request()).await.unwrap();
    let text = next.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        text, "fine",
        "{name}: the next request must not see what was left"
    );
    let connections = match end {
        Reused => 1,
        Dropped => 2,
    };
    assert_eq!(origin.connections(), connections, "{name}: {end:?}");
}

#[tokio::test]
async fn hostile_backends_that_close() {
    for case in CLOSING {
        play(case, Act::SendAndClose(case.1)).await;
    }
}

#[tokio::test]
async fn hostile_backends_that_stay() {
    for case in OPEN {
        play(case, Act::Send(case.1)).await;
    }
}

#[test]
fn there_are_enough_cases() {
    assert!(CLOSING.len() + OPEN.len() >= 40);
}
