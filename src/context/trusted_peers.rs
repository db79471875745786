//! `TrustedPeers`: the networks whose header fields about the client count.
//!
//! All addresses are compared as 128 bits, IPv4 as IPv4-mapped, so that one mask and one comparison
//! serve both families and a dual-stack listener. Lists are short (a handful of networks), so that a
//! scan is the fastest look-up.

use std::net::IpAddr;

use crate::error::ConfigError;

/// The networks of load balancers and proxies whose header fields about the client count, such as
/// `X-Forwarded-For`. Any other peer could forge them.
///
/// ```
/// use evenkeel::context::TrustedPeers;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let trusted = TrustedPeers::new(["10.0.0.0/8", "fd00::/8"])?;
/// assert!(trusted.contains([10, 1, 2, 3].into()));
/// assert!(!trusted.contains([203, 0, 113, 7].into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u128,
    mask: u128,
}

impl TrustedPeers {
    /// Trusts these networks. Each is an address with or without a prefix length, such as
    /// `10.0.0.0/8`, `::1` or `fd00::/8`.
    ///
    /// # Errors
    ///
    /// If an element is neither an address nor a network, or if its prefix is too long.
    pub fn new<S: AsRef<str>>(networks: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let networks = networks
            .into_iter()
            .map(|network| Network::parse(network.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { networks })
    }

    /// Returns true if no network is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Returns true if the peer is in one of the networks. Costs one comparison for each network.
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
        // A prefix of 0 would shift by all 128 bits: `checked_shl` refuses, and the mask is 0.
        let mask = u128::MAX
            .checked_shl(most - prefix)
            .unwrap_or(0)
            // An IPv4 address is mapped to IPv6: its 96 leading bits are always compared.
            | if most == 32 { u128::MAX << 32 } else { 0 };
        Ok(Self {
            address: bits(address) & mask,
            mask,
        })
    }
}

/// Returns an address as IPv6, an IPv4 address as IPv4-mapped: a dual-stack listener reports IPv4
/// peers in that form.
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
