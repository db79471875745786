//! What a client speaks, by its first bytes: pure.

/// The first bytes of a connection. They are kept however the client splits them.
#[derive(Default)]
pub(super) struct FirstBytes {
    bytes: [u8; MOST],
    len: usize,
}

/// What the first bytes are the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// An HTTP request in cleartext: a method and a space.
    Http,
    /// A header of the PROXY protocol, version 1 or 2.
    ProxyHeader,
    /// TLS, or what its parser refuses.
    Tls,
    /// Too few bytes are known.
    Unknown,
}

impl FirstBytes {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds what was read next; takes only as much as it keeps.
    pub(super) fn push(&mut self, read: &[u8]) {
        let free = &mut self.bytes[self.len..];
        let taken = read.len().min(free.len());
        free[..taken].copy_from_slice(&read[..taken]);
        self.len += taken;
    }

    pub(super) fn protocol(&self) -> Protocol {
        let seen = &self.bytes[..self.len];
        for header in [PROXY_1, PROXY_2] {
            if seen.starts_with(header) {
                return Protocol::ProxyHeader;
            }
            if header.starts_with(seen) {
                return Protocol::Unknown;
            }
        }
        // Methods that are registered have capital letters and `-`. `SSH-2.0` is none.
        let method = seen
            .iter()
            .position(|b| !b.is_ascii_uppercase() && *b != b'-');
        match method {
            Some(end @ 1..) if seen[0] != b'-' && seen[end] == b' ' => Protocol::Http,
            None if self.len < MOST => Protocol::Unknown,
            _ => Protocol::Tls,
        }
    }

    /// Returns true for a ClientHello whose newest version is older than TLS 1.2.
    pub(super) fn is_before_tls12(&self) -> bool {
        let seen = &self.bytes[..self.len];
        matches!(seen, [22, 3, _, _, _, 1, _, _, _, 3, 0..=2, ..])
    }
}

/// The beginning of version 1. No method of HTTP has this name.
const PROXY_1: &[u8] = b"PROXY ";
/// The signature of version 2 (PROXY protocol §2.2).
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest method that is registered, `UPDATEREDIRECTREF`, and its space.
const MOST: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> FirstBytes {
        let mut first = FirstBytes::default();
        // A split changes nothing.
        bytes.chunks(1).for_each(|byte| first.push(byte));
        let mut whole = FirstBytes::default();
        whole.push(bytes);
        assert_eq!(first.bytes, whole.bytes);
        first
    }

    #[test]
    fn protocols_are_recognized_by_their_first_bytes() {
        for (bytes, protocol) in [
            (&b"G"[..], Protocol::Unknown),
            (b"GET", Protocol::Unknown),
            (b"GET ", Protocol::Http),
            (b"GET / HTTP/1.1\r\n", Protocol::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol::Http),
            (b"M-SEARCH * HTTP/1.1\r\n", Protocol::Http),
            (b"VERSION-CONTROL / HTTP/1.1", Protocol::Http),
            (b"UPDATEREDIRECTREF / HTTP/1.1", Protocol::Http),
            (b"PROPFIND / HTTP/1.1", Protocol::Http),
            (b"PROXY", Protocol::Unknown),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
                Protocol::ProxyHeader,
            ),
            (b"PROXYING / HTTP/1.1\r\n", Protocol::Http),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Protocol::ProxyHeader),
            (b"\r\n\r\n", Protocol::Unknown),
            (b"\r\nGET / HTTP/1.1\r\n", Protocol::Tls),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Protocol::Tls),
            (b"EHLO\r\n", Protocol::Tls),
            (b"A23456", Protocol::Tls),
            (b"-A / HTTP/1.1", Protocol::Tls),
            (b" / HTTP/1.1", Protocol::Tls),
            (&[b'A'; 17], Protocol::Unknown),
            (&[b'A'; 30], Protocol::Tls),
            (b"\x16\x03\x01", Protocol::Tls),
            (b"\x80\x2e\x01", Protocol::Tls),
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(first(bytes).protocol(), protocol, "{text:?}");
        }
        assert!(first(b"").is_empty() && !first(b"G").is_empty());
    }

    #[test]
    fn old_versions_are_seen() {
        let hello = |version: u8| [22, 3, 1, 0, 47, 1, 0, 0, 43, 3, version, 7, 7];
        for (version, is_old) in [(0, true), (1, true), (2, true), (3, false)] {
            assert_eq!(
                first(&hello(version)).is_before_tls12(),
                is_old,
                "{version}"
            );
        }
        assert!(!first(&hello(1)[..10]).is_before_tls12());
        assert!(!first(b"GET / HTTP/1.1").is_before_tls12());
    }
}
