//! Fields that describe the client to the backend: `X-Forwarded-*` and `Forwarded` (RFC 7239).

use std::{io::Write, net::IpAddr};

use crate::error::ConfigError;

/// Peers whose fields about the client are believed; see [`Proxy::trusted_peers`](super::Proxy::trusted_peers).
#[derive(Clone, Debug, Default)]
pub struct TrustedPeers {
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug)]
struct Network {
    address: u128,
    mask: u128,
}

impl TrustedPeers {
    /// Trusts these networks: addresses with or without a prefix length, as in `10.0.0.0/8`,
    /// `::1` or `fd00::/8`.
    ///
    /// # Errors
    ///
    /// When one is neither an address nor a network, or its prefix is too long.
    pub fn new<S: AsRef<str>>(networks: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let networks = networks
            .into_iter()
            .map(|network| Network::parse(network.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { networks })
    }

    /// Returns true if the peer is one of them.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = bits(peer);
        self.networks
            .iter()
            .any(|network| peer & network.mask == network.address)
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let bad = || {
            ConfigError::new(
                "trusted",
                format!("{text:?}: an address or a network such as 10.0.0.0/8 is accepted"),
            )
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (
                address,
                Some(prefix.parse::<u32>().map_err(|_error| bad())?),
            ),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_error| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most {
            return Err(bad());
        }
        let mask = u128::MAX
            .checked_shl(most - prefix)
            .unwrap_or(0)
            // An IPv4 address is mapped: its 96 leading bits always count.
            | if most == 32 { u128::MAX << 32 } else { 0 };
        Ok(Self {
            address: bits(address) & mask,
            mask,
        })
    }
}

/// IPv4 as IPv4-mapped IPv6, so that a dual-stack listener's peers compare equal.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Which fields describe the client to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedFields {
    /// Both of the others.
    Both,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Neither; what untrusted peers sent is still removed, and what trusted ones sent stays.
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

/// Writes an address; IPv4 by hand, as nearly all are and `fmt` takes five times as long.
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
    fn networks_hold_what_they_say() {
        let trusted = TrustedPeers::new(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"]).unwrap();
        for inside in ["10.1.2.3", "192.0.2.7", "fd12::1", "::1", "::ffff:10.9.9.9"] {
            assert!(trusted.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "fe80::1", "::2", "0.0.0.0"] {
            assert!(!trusted.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(
            TrustedPeers::new(["0.0.0.0/0"])
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        assert!(!TrustedPeers::default().contains("127.0.0.1".parse().unwrap()));
        for bad in ["10.0.0.0/33", "x", "10.0.0.0/", "::/129", "10.0.0"] {
            assert!(TrustedPeers::new([bad]).is_err(), "{bad}");
        }
    }

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
