//! Telling HTTP/1.1 and HTTP/2 apart by the first bytes of a cleartext connection.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::state::State;
use crate::{context::Drain, error::BoxError};

/// What the first bytes are of.
pub(super) enum Sniffed {
    Closed,
    Http1(Bytes),
    Http2(Bytes),
}

/// Tells the protocols apart by their first bytes.
pub(super) async fn sniff<Io: AsyncRead + Unpin>(
    io: &mut Io,
    state: &State,
    drain: Option<&Drain>,
) -> Result<Sniffed, BoxError> {
    if !cfg!(feature = "http2") {
        return Ok(Sniffed::Http1(Bytes::new()));
    }
    let mut ahead = BytesMut::with_capacity(SNIFF);
    let mut drain = drain.cloned();
    loop {
        let begun = async {
            match &mut drain {
                Some(drain) => drain.begun().await,
                None => std::future::pending().await,
            }
        };
        let n = tokio::select! {
            n = io.read_buf(&mut ahead) => n?,
            // The first bytes are the first of a head: the codec gives them their answer.
            () = poll_fn(|cx| state.poll_expired(cx)) => return Ok(Sniffed::Http1(ahead.freeze())),
            () = begun, if ahead.is_empty() => return Ok(Sniffed::Closed),
        };
        if n == 0 && ahead.is_empty() {
            return Ok(Sniffed::Closed);
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
const SNIFF: usize = 1024;
