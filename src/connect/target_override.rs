//! `TargetOverride`: where a check connects to, if not to the backend's own address.

use std::path::Path;

use crate::{
    error::ConfigError,
    pool::{Backend, Scheme},
};

/// Another port, address, scheme or certificate name than the backend's own, for backends that
/// answer checks apart from their traffic, such as on a management port.
///
/// ```
/// use evenkeel::{Backend, connect::TargetOverride, pool::Scheme};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let backend = Backend::new("a", "https://app.example:8443")?;
/// let management = TargetOverride::new().port(9_000)?.scheme(Scheme::Http);
/// assert_eq!(management.scheme_of(&backend), Scheme::Http);
/// assert_eq!(TargetOverride::new().scheme_of(&backend), Scheme::Https);
/// # Ok(())
/// # }
/// ```
///
/// A check of another port proves less than one of the backend's own: that a process answers there,
/// not that it serves. Traffic is never redirected by it.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TargetOverride {
    host: Option<Box<str>>,
    port: Option<u16>,
    scheme: Option<Scheme>,
    #[cfg(feature = "__tls")]
    server_name: Option<rustls::pki_types::ServerName<'static>>,
}

impl TargetOverride {
    /// Makes an override that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the port. For a backend on a Unix socket, the check then dials the host of its URL.
    ///
    /// Default: the backend's.
    ///
    /// # Errors
    ///
    /// If it is 0.
    pub fn port(mut self, port: u16) -> Result<Self, ConfigError> {
        if port == 0 {
            return Err(ConfigError::new("port", "0: 1 to 65535 is accepted"));
        }
        self.port = Some(port);
        Ok(self)
    }

    /// Sets the host: a name or an address, an IPv6 address without brackets. It applies to a backend
    /// on a Unix socket as well. The name in the certificate stays the backend's.
    ///
    /// Default: the backend's.
    ///
    /// # Errors
    ///
    /// If it is neither a name nor an address.
    pub fn host(mut self, host: &str) -> Result<Self, ConfigError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        // An IPv6 address has colons, which names have not.
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        if host.is_empty()
            || host.len() > MAX_NAME_LENGTH
            || !(is_address || host.bytes().all(fits))
        {
            return Err(ConfigError::new(
                "address",
                format!("{host:?}: a host name or an IP address is accepted"),
            ));
        }
        self.host = Some(host.into());
        Ok(self)
    }

    /// Sets the scheme, and so whether TLS is spoken.
    ///
    /// Default: the backend's.
    pub fn scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = Some(scheme);
        self
    }

    /// Sets the name that TLS asks for (SNI) and verifies.
    ///
    /// Default: that of [`ClientTls`](super::ClientTls), else the host of the backend's URL.
    ///
    /// # Errors
    ///
    /// If it is neither a DNS name nor an IP address.
    #[cfg(feature = "__tls")]
    pub fn server_name(mut self, name: &str) -> Result<Self, ConfigError> {
        let parsed = rustls::pki_types::ServerName::try_from(name.to_owned())
            .map_err(|error| ConfigError::new("server_name", format!("{name:?}: {error}")))?;
        self.server_name = Some(parsed);
        Ok(self)
    }

    pub(super) fn host_and_port<'a>(&'a self, backend: &'a Backend) -> (&'a str, u16) {
        let host = self.host.as_deref().unwrap_or_else(|| backend.host());
        (host, self.port.unwrap_or_else(|| backend.port()))
    }

    pub(super) fn unix_path<'a>(&self, backend: &'a Backend) -> Option<&'a Path> {
        match (&self.host, self.port) {
            (None, None) => backend.configured_unix_socket(),
            _ => None,
        }
    }

    /// Returns the scheme that a check of this backend speaks.
    #[must_use]
    pub fn scheme_of(&self, backend: &Backend) -> Scheme {
        self.scheme.unwrap_or_else(|| backend.scheme())
    }

    #[cfg(feature = "__tls")]
    pub(super) fn certificate_name(&self) -> Option<&rustls::pki_types::ServerName<'static>> {
        self.server_name.as_ref()
    }
}

/// The longest name in DNS (RFC 1035 §2.3.4).
const MAX_NAME_LENGTH: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_parts_are_those_of_the_backend() {
        let backend = Backend::new("a", "https://app.example:8443")
            .unwrap()
            .unix_socket("/run/app");
        let own = TargetOverride::new();
        assert_eq!(own.host_and_port(&backend), ("app.example", 8443));
        assert_eq!(own.scheme_of(&backend), Scheme::Https);
        assert!(own.unix_path(&backend).is_some());
        let other = TargetOverride::new()
            .port(9_000)
            .unwrap()
            .scheme(Scheme::Http);
        assert_eq!(other.host_and_port(&backend), ("app.example", 9_000));
        assert_eq!(other.scheme_of(&backend), Scheme::Http);
        assert!(other.unix_path(&backend).is_none());
        let other = TargetOverride::new().host("::1").unwrap();
        assert_eq!(other.host_and_port(&backend), ("::1", 8443));
    }

    #[test]
    fn a_target_that_cannot_be_dialled_is_refused() {
        assert_eq!(TargetOverride::new().port(0).unwrap_err().field(), "port");
        for bad in ["", "a b", "http://a", "[::1]", "a:80", &"a".repeat(254)] {
            assert_eq!(
                TargetOverride::new().host(bad).unwrap_err().field(),
                "address",
                "{bad:?}"
            );
        }
    }
}
