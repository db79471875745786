//! The exchange over a real socket, fed with whatever a backend may send, however it is sliced.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use http::{HeaderMap, StatusCode};

use super::{Conn, ConnOwner, ResponseContent, Start, Timeouts};
use crate::{connect::Stream, error::ErrorKind};

/// What a client would see of one exchange.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: Option<u16>,
    body: Vec<u8>,
    failed: Option<ErrorKind>,
    /// The connection can carry another request.
    kept: bool,
}

/// The fields of the response.
#[derive(Default)]
struct Fields {
    map: HeaderMap,
    interim: Vec<StatusCode>,
}

impl ConnOwner for Fields {
    fn fields(&mut self) -> Option<&mut HeaderMap> {
        Some(&mut self.map)
    }

    fn interim(&mut self, status: StatusCode, _: HeaderMap) {
        self.interim.push(status);
    }
}

/// A connection to a backend that a request went out on, and its other end.
fn begun() -> (Box<Conn<Fields>>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let timeouts = Timeouts {
        response: Duration::from_secs(30),
        idle: Duration::from_secs(30),
    };
    let mut conn = Conn::new(Stream::Unix(ours), Some(timeouts), Fields::default());
    conn.start(Start::default()).unwrap();
    conn.send(&mut b"GET / HTTP/1.1\r\n\r\n".to_vec());
    (conn, theirs)
}

#[tokio::test]
async fn a_head_that_the_stream_refused_is_not_written_again() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut conn = Conn::new(Stream::Unix(ours), None, Fields::default());
    conn.start(Start::default()).unwrap();
    conn.send(&mut b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(conn.is_sent(), "nothing is left to be written");
    let failed = poll_fn(|cx| conn.poll_response_head(cx)).await;
    assert_eq!(failed.err().unwrap().kind(), ErrorKind::RequestWrite);
    assert!(!conn.end());
}

/// Sends `wire` in slices of these sizes as the answer to one request, then closes.
async fn exchange(wire: &[u8], slices: &[usize]) -> Seen {
    let (conn, mut theirs) = begun();
    let peer = async {
        let mut request = [0; 18];
        theirs.read_exact(&mut request).await.unwrap();
        let mut rest = wire;
        for size in slices.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*size).clamp(1, rest.len()));
            // The client may have seen enough, and closed.
            if theirs.write_all(now).await.is_err() {
                break;
            }
            rest = later;
            tokio::task::yield_now().await;
        }
        drop(theirs);
    };
    let (seen, ()) = tokio::join!(read(conn), peer);
    seen
}

async fn read(mut conn: Box<Conn<Fields>>) -> Seen {
    let mut seen = Seen {
        status: None,
        body: Vec::new(),
        failed: None,
        kept: false,
    };
    let answer = match poll_fn(|cx| conn.poll_response_head(cx)).await {
        Ok(answer) => answer,
        Err(error) => {
            seen.failed = Some(error.kind());
            return seen;
        }
    };
    seen.status = Some(answer.status.as_u16());
    match answer.body {
        ResponseContent::None => {}
        ResponseContent::Whole(data) => seen.body = data.to_vec(),
        ResponseContent::Streaming => {
            while let Some(frame) = poll_fn(|cx| conn.poll_frame(cx)).await {
                match frame {
                    Ok(frame) => seen.body.extend(frame.into_data().unwrap_or_default()),
                    Err(error) => {
                        seen.failed = Some(error.kind());
                        break;
                    }
                }
            }
        }
    }
    seen.kept = conn.end();
    seen
}

fn run(wire: &[u8], slices: &[usize]) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        timeout(Duration::from_secs(20), exchange(wire, slices))
            .await
            .expect("an exchange whose backend closed must end")
    })
}

#[test]
fn a_stream_is_read_without_allocations_beside_another_that_is_quiet() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const LEN: usize = 0x1000;
    let chunk = [b"1000\r\n", &[b'x'; LEN][..], b"\r\n"].concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let open = async || {
        let (mut conn, mut theirs) = begun();
        theirs.write_all(HEAD).await.unwrap();
        let answer = poll_fn(|cx| conn.poll_response_head(cx)).await.unwrap();
        assert!(matches!(answer.body, ResponseContent::Streaming));
        (conn, theirs)
    };
    // As much as one chunk, and then nothing for the moment.
    let pass = async |conn: &mut Conn<Fields>, theirs: &mut UnixStream| {
        theirs.write_all(&chunk).await.unwrap();
        let mut came = 0;
        while came < LEN {
            let frame = poll_fn(|cx| conn.poll_frame(cx)).await.unwrap().unwrap();
            came += frame.into_data().unwrap().len();
        }
        let quiet = poll_fn(|cx| Poll::Ready(conn.poll_frame(cx).is_pending()));
        assert!(came == LEN && quiet.await);
    };
    runtime.block_on(async {
        let (mut quiet, mut other) = open().await;
        let (mut conn, mut theirs) = open().await;
        pass(&mut conn, &mut theirs).await;
        pass(&mut quiet, &mut other).await;
        let mut counted = pin!(async {
            for _ in 0..200 {
                pass(&mut conn, &mut theirs).await;
            }
        });
        let mut allocations = 0;
        poll_fn(|cx| {
            let mut polled = Poll::Pending;
            let measured = allocation_counter::measure(|| polled = counted.as_mut().poll(cx));
            allocations += measured.count_total;
            polled
        })
        .await;
        assert_eq!(allocations, 0);
        drop(quiet);
    });
}

#[test]
fn a_slow_reader_of_a_large_body_holds_one_block_and_gives_it_back() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let open = async || {
        let (mut conn, mut theirs) = begun();
        theirs.write_all(HEAD).await.unwrap();
        poll_fn(|cx| conn.poll_response_head(cx)).await.unwrap();
        let mut last = None;
        for _ in 0..4 {
            // As much as the socket takes.
            while theirs.try_write(&[b'x'; 4_096]).is_ok() {}
            let frame = poll_fn(|cx| conn.poll_frame(cx)).await.unwrap().unwrap();
            last = Some(frame);
        }
        (conn, theirs, last)
    };
    runtime.block_on(async {
        // What the thread keeps is made by then.
        let first = open().await;
        let mut opening = pin!(open());
        let mut held = 0;
        let second = poll_fn(|cx| {
            let mut polled = Poll::Pending;
            let measured = allocation_counter::measure(|| polled = opening.as_mut().poll(cx));
            held += measured.bytes_current;
            polled
        })
        .await;
        assert!(held <= 36 * 1_024, "{held} bytes");
        // The block of the second is the thread's now; the first had its own.
        let dropped = allocation_counter::measure(|| drop(first)).bytes_current;
        assert!(dropped < -32 * 1_024, "{dropped} bytes");
        drop(second);
    });
}

/// Pieces that heads and bodies are made of, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        1 => Just(b"HTTP/1.0 404 No\r\n".to_vec()),
        1 => Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        2 => Just(b"content-length: 5\r\n".to_vec()),
        2 => Just(b"transfer-encoding: chunked\r\n".to_vec()),
        1 => Just(b"connection: close\r\n".to_vec()),
        1 => Just(b"a: b\r\n".to_vec()),
        4 => Just(b"\r\n".to_vec()),
        2 => Just(b"hello".to_vec()),
        2 => Just(b"5\r\nhello\r\n".to_vec()),
        2 => Just(b"0\r\n\r\n".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1_500)))]
    #[test]
    fn how_an_answer_is_sliced_changes_nothing(
        pieces in prop::collection::vec(piece(), 0..9),
        begins_well: bool,
        slices in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let mut wire = pieces.concat();
        if begins_well {
            wire.splice(..0, *b"HTTP/1.1 200 OK\r\n");
        }
        let whole = run(&wire, &[usize::MAX]);
        let sliced = run(&wire, &slices);
        // Bytes that come too early and those that come too late are both reasons to drop the
        // connection; which of them were seen in time may differ.
        prop_assert_eq!(whole.status, sliced.status);
        prop_assert_eq!(whole.failed, sliced.failed);
        prop_assert_eq!(whole.body, sliced.body);
    }

    #[test]
    fn arbitrary_bytes_end_in_an_answer_or_an_error(
        wire in prop::collection::vec(any::<u8>(), 0..200),
        slices in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let seen = run(&wire, &slices);
        prop_assert!(seen.status.is_some() || seen.failed.is_some());
        prop_assert!(!seen.kept || seen.failed.is_none());
    }
}
