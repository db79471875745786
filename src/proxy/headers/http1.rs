//! The head of a request in HTTP/1.1, as bytes.
//!
//! The order of the lines is: request line, Host, the fields that pass, the fields about the
//! client, `Via`, framing. Host comes first as RFC 9110 §7.2 asks. Names are in lower case, as they
//! came out of the map.

use super::{Length, ScannedHead};
use crate::{
    pool::Backend,
    proxy::config::{HostField, Settings},
    wire::{write_field, write_number},
};

impl ScannedHead<'_> {
    /// Writes the request line, all fields, and the empty line.
    ///
    /// Appends to `out`; the caller clears it. Allocates only if `out` grows.
    pub(in crate::proxy) fn write_h1(
        &self,
        backend: &Backend,
        settings: &Settings,
        length: Length,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.parts.method.as_str().as_bytes());
        out.push(b' ');
        self.write_target(backend, out);
        match (settings.host, self.cached) {
            (HostField::Client, Some(cached)) => out.extend_from_slice(&cached.first),
            _ => write_host(self.host_for(backend, settings), out),
        }
        self.pass_on(settings, out);
        match self.cached {
            Some(cached) => out.extend_from_slice(&cached.fields),
            None => self.describe_client(settings, out),
        }
        if let Some(via) = &settings.via {
            out.extend_from_slice(&via[self.version()].line);
        }
        // Most requests: neither a body, an upgrade nor trailers.
        let is_bare = length == Length::None && self.upgrade.is_none() && !self.accepts_trailers;
        if !is_bare {
            self.write_framing(length, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// `TE: trailers` is sent to the backend only if the client said so, and named in `Connection`,
    /// as it ends at the next hop (RFC 9110 §10.1.4).
    #[inline(never)]
    fn write_framing(&self, length: Length, out: &mut Vec<u8>) {
        match length {
            Length::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Length::Exact(length) => {
                out.extend_from_slice(b"content-length: ");
                write_number(length, 10, out);
                out.extend_from_slice(b"\r\n");
            }
            Length::None => {}
        }
        if let Some(upgrade) = self.upgrade {
            write_field(out, "upgrade", upgrade.as_bytes());
        }
        match (self.upgrade.is_some(), self.accepts_trailers) {
            (false, false) => {}
            (true, false) => out.extend_from_slice(b"connection: upgrade\r\n"),
            (false, true) => out.extend_from_slice(b"connection: te\r\n"),
            (true, true) => out.extend_from_slice(b"connection: upgrade, te\r\n"),
        }
        if self.accepts_trailers {
            out.extend_from_slice(b"te: trailers\r\n");
        }
    }
}

/// Also the form in which `ClientFields::first` caches it.
#[inline(never)]
pub(super) fn write_host(host: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
}
