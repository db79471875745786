//! Which peers are believed in what they say of clients.

use std::net::IpAddr;

use crate::error::ConfigError;

/// Networks of balancers and proxies whose fields about the client are believed.
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

    /// Returns true if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
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

#[cfg(test)]
mod tests {
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
}
