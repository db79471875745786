//! The scan of each field: what it says about the message, the connection and the client.
//!
//! What a scan records decides three things: how the message is framed (`declared`, `options`),
//! whether the proxy itself answers it (`max_forwards`), and which connection may carry it
//! (`connection_auth`, `upgrade`, `expects_continue`). The return value decides only whether the
//! field passes; the slow way of `mod.rs` asks again by class, since `Connection` may name a field
//! that was scanned before.

use http::{HeaderValue, Method, Version};

use super::{ScannedHead, class::Class, malformed};
use crate::{
    error::Error,
    wire::{
        connection::{authenticates_connection, elements},
        fields::Field,
        framing,
    },
};

impl<'a> ScannedHead<'a> {
    /// Records a field that this hop acts on. Returns true if the field ends at this hop.
    ///
    /// Called for each field that is not `Plain`, in the order of the head.
    ///
    /// # Errors
    ///
    /// If a field makes the framing ambiguous, or `Connection` has too many options.
    pub(super) fn scan_field(
        &mut self,
        class: Class,
        value: &'a HeaderValue,
    ) -> Result<bool, Error> {
        let bytes = value.as_bytes();
        match class {
            Class::Message(field) => return self.scan_message_field(field, value),
            Class::Cookie => {
                self.cookies += 1;
                return Ok(false);
            }
            Class::Authorization => {
                self.connection_auth |= authenticates_connection(bytes);
                return Ok(false);
            }
            Class::MaxForwards => {
                let counts = matches!(self.parts.method, Method::OPTIONS | Method::TRACE);
                let given = framing::content_length(bytes).filter(|_| counts);
                // Of several, the first counts; all of them end here.
                self.max_forwards = self.max_forwards.or(given);
                // A value that is not a number passes unchanged.
                return Ok(given.is_some());
            }
            Class::Plain => return Ok(false),
            // These fields of trusted peers pass all the same: see `ends_here`.
            Class::Client | Class::Forwarded | Class::ForwardedFor => {}
            Class::ClientCertificate => {}
        }
        Ok(true)
    }

    /// # Errors
    ///
    /// A second `Content-Length` or `Transfer-Encoding`, a bad one, or over 64 options in
    /// `Connection`.
    fn scan_message_field(&mut self, field: Field, value: &'a HeaderValue) -> Result<bool, Error> {
        let bytes = value.as_bytes();
        match field {
            Field::ContentLength => self.declared.request_length(bytes).map_err(malformed)?,
            Field::TransferEncoding => self.declared.transfer_coding(bytes).map_err(malformed)?,
            Field::Connection => self.options.read(bytes).map_err(malformed)?,
            Field::Upgrade => self.upgrade = Some(value),
            Field::Te => {
                let mut codings = elements(bytes);
                self.accepts_trailers |= codings.any(|c| c.eq_ignore_ascii_case(b"trailers"));
            }
            Field::Expect => {
                // RFC 9110 §10.1.1: HTTP/1.0 has no interim responses.
                self.expects_continue |= self.parts.version != Version::HTTP_10
                    && bytes.eq_ignore_ascii_case(b"100-continue");
                return Ok(false);
            }
            Field::Authenticate | Field::Plain => return Ok(false),
            Field::HopByHop | Field::Host => {}
        }
        Ok(true)
    }

    /// The expectation of an upgrade is dropped without an error: a server may ignore it (RFC 9110
    /// §7.8).
    #[cold]
    pub(super) fn check_upgrade(&mut self) {
        // After a switch to HTTP/2 over cleartext, requests would bypass the proxy.
        let is_h2 = |t: &[u8]| t.len() >= 2 && t[..2].eq_ignore_ascii_case(b"h2");
        let wanted = self.options.upgrade && self.parts.version == Version::HTTP_11;
        self.upgrade = self
            .upgrade
            .filter(|value| wanted && !elements(value.as_bytes()).any(is_h2));
    }
}
