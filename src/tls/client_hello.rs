//! Reads a ClientHello, or finds the reason to refuse what is none.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    first_bytes::{FirstBytes, Protocol},
    refusal::{Answer, Failure},
};
use crate::context::HandshakeFailure;

/// Reads until the ClientHello is complete.
#[derive(Default)]
pub(super) struct HelloReader {
    acceptor: Acceptor,
    first: FirstBytes,
    /// How many bytes were received.
    received: usize,
}

/// A complete ClientHello, or the reason to refuse it.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment")]
pub(super) enum Hello {
    Accepted(Accepted),
    Refused(Answer, Failure),
}

impl Hello {
    fn too_large() -> Self {
        let malformed = HandshakeFailure::Malformed;
        let failure = Failure::handshake(malformed, "a ClientHello of more than 64 KiB");
        Self::Refused(Answer::too_large(), failure)
    }

    fn plaintext() -> Self {
        let cause = HandshakeFailure::PlaintextHttp;
        let failure = Failure::handshake(cause, "plaintext HTTP on the TLS port");
        Self::Refused(Answer::plaintext(), failure)
    }

    fn proxy_header() -> Self {
        let detail = "a PROXY protocol header, which is not expected from this peer";
        let failure = Failure::handshake(HandshakeFailure::Malformed, detail);
        Self::Refused(Answer::unexpected(), failure)
    }
}

impl HelloReader {
    /// Returns true until the client has sent a byte.
    pub(super) fn is_silent(&self) -> bool {
        self.first.is_empty()
    }

    pub(super) fn poll<Io: AsyncRead + Unpin>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Hello, Failure>> {
        // On the stack: rustls would keep a buffer for each silent client.
        let mut bytes = [0; HELLO_READ];
        loop {
            let mut buf = ReadBuf::new(&mut bytes[..next_read(self.received)]);
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(Hello::too_large()));
            }
            let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut buf));
            let read = match read {
                Ok(()) => buf.filled(),
                Err(error) if self.is_silent() => {
                    return Poll::Ready(Err(Failure::silent(error.kind())));
                }
                Err(error) => return Poll::Ready(Err(Failure::from_session(&error))),
            };
            if read.is_empty() {
                return Poll::Ready(Err(match self.is_silent() {
                    true => Failure::silent(io::ErrorKind::UnexpectedEof),
                    false => Failure::closed("the client closed in the middle of its ClientHello"),
                }));
            }
            if let Some(hello) = self.take(read) {
                return Poll::Ready(Ok(hello));
            }
        }
    }

    /// Takes what was read; returns `None` if more is needed.
    fn take(&mut self, mut read: &[u8]) -> Option<Hello> {
        self.first.push(read);
        let protocol = self.first.protocol();
        match protocol {
            Protocol::Http => return Some(Hello::plaintext()),
            Protocol::ProxyHeader => return Some(Hello::proxy_header()),
            Protocol::Tls | Protocol::Unknown => {}
        }
        self.received += read.len();
        match self.acceptor.read_tls(&mut read) {
            Ok(_) if read.is_empty() => {}
            // A record longer than TLS allows left no room for the rest.
            Ok(_) => return Some(Hello::too_large()),
            Err(error) => {
                let failure = Failure::handshake(HandshakeFailure::Malformed, error.to_string());
                return Some(Hello::Refused(Answer::too_large(), failure));
            }
        }
        if protocol == Protocol::Unknown {
            // The beginning of another protocol would be refused as a record of TLS.
            return None;
        }
        match self.acceptor.accept() {
            Ok(accepted) => accepted.map(Hello::Accepted),
            Err((error, alert)) => {
                let failure = Failure::of_hello(&error, &self.first);
                let answer = Answer::alert(alert, &error, &self.first);
                Some(Hello::Refused(answer, failure))
            }
        }
    }
}

/// Returns how much to read after this many bytes. Until `accept` has seen the first record, rustls
/// takes no more than the longest record; bytes of a read that it does not take would be lost.
fn next_read(received: usize) -> usize {
    match received < MAX_RECORD - HELLO_READ {
        true => HELLO_READ,
        false => (MAX_CLIENT_HELLO - received).min(READ_AFTER_FIRST_RECORD),
    }
}

/// The longest that rustls accepts: 64 KiB less one byte, record headers included. HAProxy and nginx
/// accept the same; clients with many post-quantum key shares send about 10 KiB.
pub(super) const MAX_CLIENT_HELLO: usize = 0xffff;
/// The longest record in cleartext (RFC 8446 §5.1), without its header.
const MAX_RECORD: usize = 16 * 1024;
/// Nearly every ClientHello arrives in one read of this size.
const HELLO_READ: usize = 4_096;
/// The room that rustls has left after all but the last byte of the longest record.
const READ_AFTER_FIRST_RECORD: usize = 2_048;
