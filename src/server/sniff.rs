//! Protocol detection: the first bytes of a cleartext connection decide between HTTP/1.1 and HTTP/2.
//!
//! Only a connection without ALPN comes here, as its first bytes are all that tells the protocols
//! apart. The first three bytes nearly always decide: no method in use begins with `PRI`, which RFC
//! 9113 §3.4 reserves. The bytes go to the codec with the connection, so detection costs no copy
//! beyond its own buffer of 1 KiB.
//!
//! | what happens first | result |
//! |---|---|
//! | a byte that differs from the preface | `Http1` with all bytes so far |
//! | the whole preface (24 bytes) | `Http2` with all bytes so far |
//! | end of the stream, or the head time-out, without a byte | `Closed`, without a response |
//! | end of the stream, or the head time-out, within the preface | `Http1`: its reader answers a late head with 408 |
//! | a shutdown begins, without a byte | waits until the grace of the shutdown is over, then `Closed` |
//!
//! The deadline is that of the first head and runs from accept.
//! `http2_is_detected_however_its_preface_is_sliced` sends the preface in all possible pieces.
//!
//! hyper-util's `auto` server waits for the preface without a time-out (hyper#3756, #3962); here
//! the wait is within the time for a head.

use std::{future::poll_fn, pin::pin, task::Poll};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::{last_look::LastLook, shutdown::shutdown_begun, state::State};
use crate::{context::ShutdownSignal, error::BoxError};

/// The protocol of the first bytes, which the caller has to pass on.
///
/// `Closed` carries nothing: the connection ended before it showed a protocol, and is dropped
/// without an event.
pub(super) enum Sniffed {
    Closed,
    Http1(Bytes),
    Http2(Bytes),
}

/// Reads until the bytes differ from the preface of HTTP/2 or complete it.
///
/// Without the feature `http2` it returns at once: every connection speaks HTTP/1.1.
///
/// # Errors
///
/// Those of the read. The bytes that arrived before the error are lost with the connection.
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
    let mut last_look = LastLook::default();
    loop {
        let n = tokio::select! {
            biased;
            // The read is polled first: bytes that arrived in time win over a deadline.
            n = io.read_buf(&mut ahead) => n?,
            () = poll_fn(|cx| match state.poll_expired(cx).is_ready() && last_look.is_over(cx) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }) => {
                if ahead.is_empty() {
                    return Ok(Sniffed::Closed);
                }
                // The beginning of a head, which HTTP/1.1 answers with 408.
                return Ok(Sniffed::Http1(ahead.freeze()));
            }
            () = &mut begun, if ahead.is_empty() && !shutdown_deadline => {
                let until = signal.and_then(|signal| signal.idle_until(state.accepted()));
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                // At the end of the grace the deadline expires, which is what closes the connection.
                state.limit_idle(left.unwrap_or_default());
                shutdown_deadline = true;
                continue;
            }
        };
        if n == 0 && ahead.is_empty() {
            return Ok(Sniffed::Closed);
        }
        last_look.renew_unless(|| state.is_expired());
        // The request was on its way when the shutdown began. It is answered, and has the time of
        // any first head.
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
