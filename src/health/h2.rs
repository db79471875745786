//! One exchange in HTTP/2, for checks.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};

use crate::connect::{
    Stream,
    http2::{Sender, handshake},
};

/// A connection; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// As much as there was a use for.
    pub(super) body: Bytes,
    /// Empty where the body was not read to its end.
    pub(super) trailers: HeaderMap,
}

impl Connection {
    pub(super) async fn open(stream: Stream) -> Result<Self, String> {
        let opened = handshake(stream).await;
        let (sender, driver) = opened.map_err(|error| error.to_string())?;
        // The exchange reports what goes wrong with the connection.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self { sender, driver })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and reads the answer, of its body no more than `limit` bytes.
    pub(super) async fn ask(
        &mut self,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Exchange, String> {
        let failed = |error: h2::Error| error.to_string();
        let (mut head, body) = request.into_parts();
        // RFC 9110 §8.6: methods that anticipate content say so when there is none.
        let anticipates = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        if !body.is_empty() || anticipates {
            head.headers
                .insert(header::CONTENT_LENGTH, body.len().into());
        }
        let mut turn = self.sender.turn().await.map_err(failed)?;
        let sent = turn.send(Request::from_parts(head, ()), body.is_empty());
        let mut opened = sent.map_err(failed)?;
        if !body.is_empty() {
            opened.body.send_data(body, true).map_err(failed)?;
        }
        poll_fn(|cx| turn.poll_open(cx)).await;
        drop(turn);
        let (head, mut incoming) = opened.response.await.map_err(failed)?.into_parts();
        let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
        while body.len() < limit {
            let Some(data) = incoming.data().await else {
                let fields = incoming.trailers().await.map_err(failed)?;
                trailers = fields.unwrap_or_default();
                break;
            };
            let data = data.map_err(failed)?;
            // It cannot fail for what was received.
            let _ = incoming.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data[..data.len().min(limit - body.len())]);
        }
        Ok(Exchange {
            status: head.status,
            headers: head.headers,
            body: body.freeze(),
            trailers,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
