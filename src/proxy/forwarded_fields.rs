//! Fields that describe the client to the backend: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! | | `X-Forwarded-For` | `X-Forwarded-Proto`, `-Host` | `Forwarded` | other fields about the client |
//! |---|---|---|---|---|
//! | untrusted peer | replaced | replaced | replaced or removed | removed |
//! | trusted peer | its value, then the peer's address | the peer's, else added | its elements, then one more | pass |
//! | trusted peer, field switched off | passes | passes | passes | pass |
//!
//! The address that is added is that of the hop before this one: with the PROXY protocol, the
//! address that it names. A port is not added, as backends parse the value in too many ways. What
//! passes is decided in `headers`; this file has the choice and the form of the values.

use std::{io::Write, net::IpAddr};

/// Which fields describe the client to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedFields {
    /// `X-Forwarded-*` and `Forwarded`.
    Both,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None. Those of untrusted peers are removed all the same; those of trusted peers stay.
    Off,
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwarded,
}

impl ForwardedFields {
    pub(super) fn x(self) -> bool {
        matches!(self, Self::Both | Self::XForwarded)
    }

    pub(super) fn rfc7239(self) -> bool {
        matches!(self, Self::Both | Self::Forwarded)
    }
}

/// Writes an address. IPv4, the common case, is written by hand: `fmt` takes five times as long.
///
/// An IPv4 address that a dual-stack listener shows as IPv6 (`::ffff:1.2.3.4`) is written as IPv4.
pub(super) fn write_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                if octet >= 100 {
                    out.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    out.push(b'0' + octet / 10 % 10);
                }
                out.push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Writes one element of `Forwarded`.
///
/// An IPv6 address is quoted and in brackets (RFC 7239 §6). `unknown` stands for a peer without an
/// address, such as that of a Unix socket; a protocol that is not known is left out.
pub(super) fn write_element(
    client: Option<IpAddr>,
    host: Option<&[u8]>,
    https: Option<bool>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"for=");
    match client.map(|c| c.to_canonical()) {
        None => out.extend_from_slice(b"unknown"),
        Some(v4 @ IpAddr::V4(_)) => write_ip(v4, out),
        Some(v6) => {
            out.extend_from_slice(b"\"[");
            write_ip(v6, out);
            out.extend_from_slice(b"]\"");
        }
    }
    if let Some(host) = host {
        // A validated host holds neither a quote nor a backslash.
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(match https {
        Some(true) => b";proto=https",
        Some(false) => b";proto=http",
        None => b"",
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_element_quotes_what_must_be_quoted() {
        let mut out = Vec::new();
        write_element(
            Some("::1".parse().unwrap()),
            Some(b"a.b:80"),
            Some(true),
            &mut out,
        );
        assert_eq!(out, br#"for="[::1]";host="a.b:80";proto=https"#);
    }

    proptest! {
        #[test]
        fn addresses_are_written_as_fmt_does(address: IpAddr) {
            let mut out = Vec::new();
            write_ip(address, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), address.to_canonical().to_string());
        }
    }
}
