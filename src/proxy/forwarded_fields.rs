//! Fields that describe the client to the backend: `X-Forwarded-*` and `Forwarded` (RFC 7239).

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
