//! The exchange over a real socket, fed with whatever a backend may send, however it is sliced.

use std::{future::poll_fn, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{AnswerBody, Conn, Start};
use crate::{
    Backend,
    connect::Stream,
    error::ErrorKind,
    proxy::{
        Proxy,
        idle::{Home, Wanted},
        service::Carried,
    },
};

/// What a client would see of one exchange.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: Option<u16>,
    body: Vec<u8>,
    failed: Option<ErrorKind>,
    /// The connection went back to the idle stack.
    kept: bool,
}

/// Sends `wire` in slices of these sizes as the answer to one request, then closes.
async fn exchange(wire: &[u8], slices: &[usize]) -> Seen {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let home = Arc::new(Home::new(Duration::from_secs(60), 8));
    let timeout = Duration::from_secs(30);
    let proxy = Proxy::new()
        .response_timeout(timeout)
        .and_then(|proxy| proxy.idle_timeout(timeout));
    let settings = proxy.unwrap().settings;
    let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
    let mut conn = Conn::new(Stream::Unix(ours), settings.timeouts, backend.address(), 0);
    let start = Start {
        body: None,
        length: None,
        expecting: false,
        is_head: false,
        upgrades: false,
        replaceable: false,
    };
    conn.start(b"GET / HTTP/1.1\r\n\r\n", start, home.clone());
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
    Seen {
        kept: home
            .take(&Wanted {
                backend: &backend,
                client: None,
                once: false,
            })
            .is_some(),
        ..seen
    }
}

async fn read(mut conn: Box<Conn>) -> Seen {
    let mut seen = Seen {
        status: None,
        body: Vec::new(),
        failed: None,
        kept: false,
    };
    conn.carry(Carried::alone(), Proxy::new().settings);
    let answer = match poll_fn(|cx| conn.poll_answer(cx)).await {
        Ok(answer) => answer,
        Err(error) => {
            seen.failed = Some(error.kind());
            return seen;
        }
    };
    seen.status = Some(answer.status.as_u16());
    match answer.body {
        AnswerBody::None => {}
        AnswerBody::Whole(data) => seen.body = data.to_vec(),
        AnswerBody::Streaming => {
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
    conn.finish();
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
    #![proptest_config(ProptestConfig::with_cases(1_500))]
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
