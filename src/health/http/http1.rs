//! One exchange in HTTP/1.1, by the code that forwards requests.
//!
//! The same `Conn` as in the proxy reads the answer: what a check accepts is what requests would
//! accept, and a backend whose answers the proxy refuses does not pass its checks.

use std::{future::poll_fn, mem, task::Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::expectation::{Answer, Expectation, UseOfBody};
use crate::{
    connect::http1::{Conn, ConnOwner, ResponseContent, Start},
    error::{Error, ErrorKind},
};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Something came, or could have, and it was no answer.
    Broken(String),
    /// For a cause on this side.
    Local(String),
    TimedOut,
    /// The connection ended before a byte of the answer: an idle one may have been closed just
    /// then, which says nothing about the backend.
    Unanswered(String),
}

/// The fields of the answer to a check.
#[derive(Debug, Default)]
pub(in crate::health) struct Fields(HeaderMap);

impl ConnOwner for Fields {
    fn fields(&mut self) -> Option<&mut HeaderMap> {
        Some(&mut self.0)
    }
}

/// A connection to a backend. The check that uses it has a deadline of its own.
pub(in crate::health) type Http1 = Box<Conn<Fields>>;

/// How a check asks.
pub(super) struct CheckRequest<'a> {
    /// The bytes of the head, complete.
    pub(super) head: Vec<u8>,
    pub(super) is_head: bool,
    /// The most bytes of a body.
    pub(super) limit: usize,
    pub(super) expect: &'a Expectation,
    pub(super) deadline: Instant,
}

/// Sends a request and reads the answer; returns the connection with it, where it can carry
/// another. A body that decides nothing is not waited for.
pub(super) async fn exchange(
    mut conn: Http1,
    mut request: CheckRequest<'_>,
) -> Result<(Answer, Option<Http1>), Failed> {
    let start = Start {
        is_head: request.is_head,
        ..Start::default()
    };
    conn.start(start).map_err(|error| broken(&error))?;
    conn.send(&mut request.head);
    let found = match poll_fn(|cx| conn.poll_response_head(cx)).await {
        Ok(found) => found,
        Err(error) => {
            // Only a connection that ended before a byte came may have been closed while it was
            // idle.
            let closed = matches!(
                error.kind(),
                ErrorKind::RequestWrite | ErrorKind::ResponseClosed
            );
            return Err(match closed && conn.is_untouched() {
                true => Failed::Unanswered(error.to_string()),
                false => broken(&error),
            });
        }
    };
    // The connection may be kept; the fields belong to the answer.
    let headers = mem::take(&mut conn.owner_data.0);
    let use_of_body = request.expect.use_of_body(found.status, &headers);
    let body = match found.body {
        ResponseContent::None => Bytes::new(),
        ResponseContent::Whole(data) => data.slice(..data.len().min(request.limit)),
        ResponseContent::Streaming => match use_of_body {
            UseOfBody::Decides => read(&mut conn, request.limit).await?,
            UseOfBody::Explains => {
                let reading = read(&mut conn, request.limit);
                explanation(request.deadline, reading).await
            }
            UseOfBody::None => {
                pass_over(&mut conn, request.limit).await;
                Bytes::new()
            }
        },
    };
    let answer = Answer {
        status: found.status,
        headers,
        body,
    };
    Ok((answer, conn.end().then_some(conn)))
}

/// Reads the body to its end, or to the limit: what is longer says nothing more.
async fn read(conn: &mut Conn<Fields>, limit: usize) -> Result<Bytes, Failed> {
    let mut body = BytesMut::new();
    // The limit is looked at first: a longer body ends the check, and the connection.
    while body.len() < limit && !conn.is_body_done() {
        let Some(frame) = poll_fn(|cx| conn.poll_frame(cx)).await else {
            break;
        };
        let frame = frame.map_err(|error| broken(&error))?;
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data[..data.len().min(limit - body.len())]);
        }
    }
    Ok(body.freeze())
}

/// Waits for a body without which the verdict is the same. Neither one that breaks off nor one that
/// has no end may hide the status: it has half of the time that is left to the check.
pub(super) async fn explanation(
    deadline: Instant,
    reading: impl Future<Output = Result<Bytes, Failed>>,
) -> Bytes {
    let now = Instant::now();
    let until = now + deadline.saturating_duration_since(now) / 2;
    match timeout_at(until, reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) | Err(_) => Bytes::new(),
    }
}

/// Takes what of the body came along with the head, so that the connection can be used again where
/// that is all of it.
async fn pass_over(conn: &mut Conn<Fields>, limit: usize) {
    let mut left = limit;
    poll_fn(|cx| {
        while left > 0 && !conn.is_body_done() {
            let Poll::Ready(Some(Ok(frame))) = conn.poll_frame(cx) else {
                break;
            };
            left -= frame.data_ref().map_or(0, Bytes::len).min(left);
        }
        Poll::Ready(())
    })
    .await;
}

/// A fault of this process is none of the backend's.
fn broken(error: &Error) -> Failed {
    match error.is_local() {
        true => Failed::Local(error.to_string()),
        false => Failed::Broken(error.to_string()),
    }
}
