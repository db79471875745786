//! One exchange in HTTP/2, for checks.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body::Body as _;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{future::poll_fn, pin::Pin};

use crate::connect::Stream;

/// A connection; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
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
        let opened = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| error.to_string())?;
        // What goes wrong with it, the exchange tells.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    pub(super) fn is_open(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and reads the answer, of its body no more than `limit` bytes.
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Exchange, String> {
        let failed = |error: hyper::Error| error.to_string();
        self.sender.ready().await.map_err(failed)?;
        let response = self.sender.send_request(request).await.map_err(failed)?;
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
        while body.len() < limit {
            let frame = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await;
            let Some(frame) = frame else { break };
            match frame.map_err(failed)?.into_data() {
                Ok(data) => body.extend_from_slice(&data[..data.len().min(limit - body.len())]),
                Err(other) => {
                    if let Ok(fields) = other.into_trailers() {
                        trailers = fields;
                    }
                }
            }
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
