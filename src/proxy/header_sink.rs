//! `HeaderSink`: where the fields of a request for a backend are written, as bytes or into a map.
//!
//! Both protocols send the same fields, so the decision which pass is written once, generic over
//! the sink. The bytes of HTTP/1.1 go straight into the buffer that is written to the socket: a map
//! in between would cost an allocation and a hash for each field.
//!
//! An invalid value cannot come from a request's own fields, which were validated when they were
//! read; only values that this proxy composes are checked again for HTTP/2.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::write_field;

/// Takes header fields: as bytes for HTTP/1.1, in a map for HTTP/2.
pub(super) trait HeaderSink {
    /// True if cookies must be joined: only HTTP/2 allows more than one `Cookie` field (RFC 9113
    /// §8.2.3).
    const ONE_COOKIE: bool;
    /// Adds a field of the request.
    ///
    /// Adds and does not replace: a field that occurs twice is written twice, in its order.
    fn field(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a field whose value `write` writes. A value that is invalid in a map is left out.
    fn made(&mut self, name: HeaderName, write: impl FnOnce(&mut Vec<u8>));
}

impl HeaderSink for Vec<u8> {
    const ONE_COOKIE: bool = true;

    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        write_field(self, name.as_str(), value.as_bytes());
    }

    fn made(&mut self, name: HeaderName, write: impl FnOnce(&mut Self)) {
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        write(self);
        self.extend_from_slice(b"\r\n");
    }
}

impl HeaderSink for HeaderMap {
    const ONE_COOKIE: bool = false;

    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name.clone(), value.clone());
    }

    fn made(&mut self, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        write(&mut value);
        if let Ok(value) = HeaderValue::try_from(value) {
            self.append(name, value);
        }
    }
}
