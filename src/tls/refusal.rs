//! A handshake that failed: its reason, and the alert or text that the client gets.

use std::{
    borrow::Cow,
    io::{self, Write},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustls::{Error, InvalidMessage, server::AcceptedAlert};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{failure_cause, first_bytes::FirstBytes};
use crate::context::{
    ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, HandshakeFailure,
};

/// The reason why a handshake failed.
pub(super) struct Failure {
    /// `None` for a client that sent no byte, as TCP checks and connections do that browsers open ahead:
    /// it is not reported, whether the client ends it or the time-out.
    pub(super) kind: Option<ConnectionEventKind>,
    pub(super) cause: HandshakeFailure,
    pub(super) detail: Cow<'static, str>,
    pub(super) io: io::ErrorKind,
}

impl Failure {
    pub(super) fn handshake(cause: HandshakeFailure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: Some(ConnectionEventKind::TlsHandshake),
            cause,
            detail: detail.into(),
            io: io::ErrorKind::InvalidData,
        }
    }

    pub(super) fn lost(cause: HandshakeFailure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            io: io::ErrorKind::UnexpectedEof,
            ..Self::handshake(cause, detail)
        }
    }

    pub(super) fn closed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::lost(HandshakeFailure::ClientClosed, detail)
    }

    pub(super) fn timeout(cause: HandshakeFailure, detail: &'static str) -> Self {
        Self {
            kind: Some(ConnectionEventKind::TlsTimeout),
            cause,
            detail: detail.into(),
            io: io::ErrorKind::TimedOut,
        }
    }

    /// The end of a connection without a byte of the client, by the client or by the time-out.
    pub(super) fn silent(io: io::ErrorKind) -> Self {
        let cause = match io {
            io::ErrorKind::TimedOut => HandshakeFailure::Timeout,
            _ => HandshakeFailure::ClientClosed,
        };
        Self {
            kind: None,
            io,
            ..Self::lost(cause, "the client said nothing")
        }
    }

    /// The end of a certificate authority's check, which is not reported either.
    pub(super) fn checked() -> Self {
        Self {
            kind: None,
            ..Self::closed("a certificate authority checked the name, and no request follows")
        }
    }

    /// The refusal of a ClientHello.
    pub(super) fn of_hello(error: &Error, first: &FirstBytes) -> Self {
        match error {
            // rustls misses an extension first, which such a client does not know.
            Error::PeerIncompatible(_) if first.is_before_tls12() => {
                let cause = HandshakeFailure::NoSharedVersion;
                Self::handshake(cause, "the client has no version of TLS from 1.2 on")
            }
            _ => Self::handshake(failure_cause::of_rustls(error), error.to_string()),
        }
    }

    pub(super) fn from_session(error: &io::Error) -> Self {
        let cause = failure_cause::of_session(error);
        match error.kind() {
            io::ErrorKind::InvalidData => Self::handshake(cause, error.to_string()),
            io::ErrorKind::UnexpectedEof => {
                Self::lost(cause, "the client closed in the middle of the handshake")
            }
            _ => Self::lost(cause, error.to_string()),
        }
    }

    pub(super) fn report(
        &self,
        conn: &ConnInfo,
        sni: Option<&str>,
        events: Option<&dyn ConnectionEvents>,
    ) {
        tracing::debug!(
            target: "evenkeel::tls",
            peer = ?conn.peer(),
            client = ?conn.client(),
            sni,
            cause = self.cause.as_str(),
            detail = &*self.detail,
            "no TLS session"
        );
        if let (Some(events), Some(kind)) = (events, self.kind) {
            let duration = conn.accepted().elapsed();
            let event = ConnectionEvent::new(conn.clone(), kind, self.detail.clone(), duration);
            events.connection_ended(&event.failed_handshake(self.cause, sni));
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.io, failure.detail)
    }
}

/// Sends the reason to the client, and reads on for a moment: to close a socket that has unread bytes
/// resets the connection, and the client may lose the answer.
pub(super) struct Refusal<Io> {
    io: Io,
    answer: Answer,
    left: usize,
    failure: Failure,
}

pub(super) enum Answer {
    Text(Bytes),
    Sent,
}

impl Answer {
    /// The answer to plaintext HTTP.
    pub(super) fn plaintext() -> Self {
        Self::Text(Bytes::from_static(PLAINTEXT))
    }

    /// The alert for a ClientHello that is too long.
    pub(super) fn too_large() -> Self {
        Self::Text(Bytes::from_static(DECODE_ERROR))
    }

    /// The alert for what is no message of TLS (RFC 8446 §5).
    pub(super) fn unexpected() -> Self {
        Self::Text(Bytes::from_static(UNEXPECTED_MESSAGE))
    }

    /// The alert that rustls has for the error, else one that fits. rustls has none for some errors, and
    /// another than RFC 8446 for unknown records (§5), records that are too long (§5.1), and versions
    /// before 1.2 (§4.1.2).
    pub(super) fn alert(mut alert: AcceptedAlert, error: &Error, first: &FirstBytes) -> Self {
        let mut text = Vec::new();
        // A write to a `Vec` does not fail.
        let _ = alert.write_all(&mut text);
        Self::Text(match (text.is_empty(), error) {
            (_, Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                Bytes::from_static(UNEXPECTED_MESSAGE)
            }
            (_, Error::InvalidMessage(InvalidMessage::MessageTooLarge)) => {
                Bytes::from_static(RECORD_OVERFLOW)
            }
            // Such a client has no signature_algorithms, which is what rustls misses first.
            (_, Error::PeerIncompatible(_)) if first.is_before_tls12() => {
                Bytes::from_static(PROTOCOL_VERSION)
            }
            (false, _) => text.into(),
            (true, Error::InvalidMessage(_)) => Bytes::from_static(DECODE_ERROR),
            (true, _) => Bytes::from_static(UNEXPECTED_MESSAGE),
        })
    }
}

impl<Io> Refusal<Io> {
    /// How long a refused client may take to read the answer.
    pub(super) const LINGER: Duration = Duration::from_secs(1);

    pub(super) fn into_failure(self) -> Failure {
        self.failure
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Refusal<Io> {
    pub(super) fn new(io: Io, answer: Answer, failure: Failure) -> Self {
        Self {
            io,
            answer,
            left: LINGER_BYTES,
            failure,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        // An error of this write does not change the failure.
        let _ = ready!(self.poll_answer(cx));
        let silent = Failure::silent(io::ErrorKind::UnexpectedEof);
        Poll::Ready(mem::replace(&mut self.failure, silent))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut writer = Writer {
                io: &mut self.io,
                cx: &mut *cx,
            };
            let wrote = match &mut self.answer {
                Answer::Text(text) => writer.write(text).inspect(|&n| text.advance(n)),
                Answer::Sent => break,
            };
            match wrote {
                Ok(0) => {
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                    self.answer = Answer::Sent;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let mut unread = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut unread);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            let read = buf.filled().len();
            if read == 0 || read >= self.left {
                return Poll::Ready(Ok(()));
            }
            self.left -= read;
        }
    }
}

/// A blocking-style writer that returns `WouldBlock` if the socket is full.
struct Writer<'a, 'cx, Io> {
    io: &'a mut Io,
    cx: &'a mut Context<'cx>,
}

impl<Io: AsyncWrite + Unpin> Write for Writer<'_, '_, Io> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        match Pin::new(&mut *self.io).poll_write(self.cx, buf) {
            Poll::Ready(wrote) => wrote,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The page of a browser that requested `http://` from a TLS port.
const PLAINTEXT: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    content-length: 47\r\n\
    connection: close\r\n\
    \r\n\
    This port speaks TLS: the URL begins https://.\n";
/// Fatal alerts in a record of their own (RFC 8446 §6).
const DECODE_ERROR: &[u8] = b"\x15\x03\x03\x00\x02\x02\x32";
const PROTOCOL_VERSION: &[u8] = b"\x15\x03\x03\x00\x02\x02\x46";
const RECORD_OVERFLOW: &[u8] = b"\x15\x03\x03\x00\x02\x02\x16";
const UNEXPECTED_MESSAGE: &[u8] = b"\x15\x03\x03\x00\x02\x02\x0a";
/// How much a refused client may still send, such as the rest of its request.
const LINGER_BYTES: usize = 64 * 1024;
