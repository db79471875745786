//! One exchange in HTTP/2, for checks.
//!
//! On the same `h2` connection code as the proxy's, without its pool: a check has its own
//! connection, with one stream at a time.
//!
//! | error | meaning for the check |
//! |---|---|
//! | the connection ended, GOAWAY, REFUSED_STREAM, before a head | `Unanswered`: on a kept connection, asked again on a new one |
//! | anything else | `Broken`: a failure |

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, StatusCode, header};

use crate::{
    connect::{
        Stream,
        http2::{Sender, handshake},
    },
    wire::framing::anticipates_content,
};

/// A connection; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The backend answered wrongly, or refused to.
    Broken(String),
    /// The connection ended before an answer: an idle one may have been closed just then, which
    /// says nothing about the backend.
    Unanswered(String),
}

/// The head of an answer, and its body, which is on its way.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: RecvStream,
}

impl ResponseHead {
    /// Reads the body to its end, or to the limit: its bytes, and the trailers where it ended.
    pub(super) async fn read(&mut self, limit: usize) -> Result<(Bytes, HeaderMap), Failed> {
        let mut body = BytesMut::new();
        while body.len() < limit {
            let Some(data) = self.body.data().await else {
                let trailers = self.body.trailers().await;
                let trailers = trailers.map_err(|error| broken(&error))?;
                return Ok((body.freeze(), trailers.unwrap_or_default()));
            };
            let data = data.map_err(|error| broken(&error))?;
            // It cannot fail for what was received.
            let _ = self.body.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data[..data.len().min(limit - body.len())]);
        }
        Ok((body.freeze(), HeaderMap::new()))
    }
}

impl Connection {
    /// Writes the preface and SETTINGS; those of the backend may come later. The driver is a task,
    /// which the drop of the connection aborts.
    pub(super) async fn open(stream: Stream) -> Result<Self, String> {
        let opened = handshake(stream).await;
        let (sender, driver) = opened.map_err(|error| error.to_string())?;
        // The exchange reports what goes wrong with the connection.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self { sender, driver })
    }

    /// Asks the codec, which knows of a GOAWAY as soon as its task has read it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and reads the head of the answer.
    pub(super) async fn ask(&mut self, request: Request<Bytes>) -> Result<ResponseHead, Failed> {
        let (mut head, body) = request.into_parts();
        if !body.is_empty() || anticipates_content(&head.method) {
            head.headers
                .insert(header::CONTENT_LENGTH, body.len().into());
        }
        let mut turn = self
            .sender
            .turn()
            .await
            .map_err(|error| unanswered(&error))?;
        let sent = turn.send(Request::from_parts(head, ()), body.is_empty());
        let mut opened = sent.map_err(|error| unanswered(&error))?;
        if !body.is_empty() {
            opened
                .body
                .send_data(body, true)
                .map_err(|error| unanswered(&error))?;
        }
        // Above the backend's limit of streams, the request waits here until the check's deadline.
        poll_fn(|cx| turn.poll_open(cx)).await;
        drop(turn);
        let answered = opened.response.await.map_err(|error| no_answer(&error))?;
        let (head, body) = answered.into_parts();
        Ok(ResponseHead {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn broken(error: &h2::Error) -> Failed {
    Failed::Broken(error.to_string())
}

fn unanswered(error: &h2::Error) -> Failed {
    Failed::Unanswered(error.to_string())
}

/// Tells a stream that failed from a connection that ended.
fn no_answer(error: &h2::Error) -> Failed {
    let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    let closed = error.is_io() || (error.is_remote() && error.is_go_away());
    match refused || closed {
        true => unanswered(error),
        false => broken(error),
    }
}
