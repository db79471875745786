//! Protocol detection: the first bytes of a cleartext connection decide between HTTP/1.1 and HTTP/2.

use std::{future::poll_fn, pin::pin};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::{shutdown::shutdown_begun, state::State};
use crate::{context::ShutdownSignal, error::BoxError};

/// The protocol of the first bytes, which the caller has to pass on.
pub(super) enum Sniffed {
    Closed,
    Http1(Bytes),
    Http2(Bytes),
}

/// Reads until the bytes differ from the preface of HTTP/2 or complete it.
pub(super) async fn sniff<Io: AsyncRead + Unpin>(
    io: &mut Io,
    state: &State,
    signal: Option<&ShutdownSignal>,
) -> Result<Sniffed, BoxError> {
    if !cfg!(feature = "http2") {
        return Ok(Sniffed::Http1(Bytes::new()));
    }
    let mut ahead = BytesMut::with_capacity(SNIFF_CAPACITY);
    let mut begun = pin!(shutdown_begun(signal.cloned()));
    let mut shutdown_deadline = false;
    loop {
        let n = tokio::select! {
            biased;
            // The read is polled first: bytes that arrived in time win over a deadline.
            n = io.read_buf(&mut ahead) => n?,
            () = poll_fn(|cx| state.poll_expired(cx)) => {
                if ahead.is_empty() {
                    return Ok(Sniffed::Closed);
                }
                // The beginning of a head, which HTTP/1.1 answers with 408.
                return Ok(Sniffed::Http1(ahead.freeze()));
            }
            () = &mut begun, if ahead.is_empty() && !shutdown_deadline => {
                let until = signal.and_then(|signal| signal.idle_until(state.accepted()));
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                let Some(left) = left.filter(|left| !left.is_zero()) else {
                    return Ok(Sniffed::Closed);
                };
                state.limit_idle(left);
                shutdown_deadline = true;
                continue;
            }
        };
        if n == 0 && ahead.is_empty() {
            return Ok(Sniffed::Closed);
        }
        if shutdown_deadline {
            shutdown_deadline = false;
            state.resume_head_timeout();
        }
        let compared = ahead.len().min(PREFACE.len());
        if n == 0 || ahead[..compared] != PREFACE[..compared] {
            return Ok(Sniffed::Http1(ahead.freeze()));
        }
        if compared == PREFACE.len() {
            return Ok(Sniffed::Http2(ahead.freeze()));
        }
    }
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for the preface and the frames that come with it.
const SNIFF_CAPACITY: usize = 1024;
