//! [`HostPolicy`]: what differs for one host name.

use super::{ClientAuth, TlsVersion, config::check_alpn};
use crate::error::ConfigError;

/// What the handshakes of one host name may negotiate, where it differs from the rest of the
/// [`TlsConfig`](super::TlsConfig); see [`TlsConfig::host`](super::TlsConfig::host).
///
/// A session of one host is never resumed at a host with another policy: each policy has ticket keys of
/// its own.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HostPolicy {
    pub(super) min_version: Option<TlsVersion>,
    pub(super) alpn: Option<Vec<Vec<u8>>>,
    /// `Some(None)` asks for no certificate.
    pub(super) client_auth: Inherit<Option<ClientAuth>>,
}

/// A value of the policy, or that of the configuration.
#[derive(Clone, Debug, Default)]
pub(super) enum Inherit<T> {
    #[default]
    Inherited,
    Own(T),
}

impl HostPolicy {
    /// Makes a policy that differs in nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the oldest version that is accepted.
    ///
    /// Default: that of the configuration.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.min_version = Some(version);
        self
    }

    /// Sets the protocols for ALPN, as [`TlsConfig::alpn`](super::TlsConfig::alpn) does.
    ///
    /// Default: those of the configuration.
    ///
    /// # Errors
    ///
    /// If a name is not 1 to 255 bytes long.
    pub fn alpn<N: Into<Vec<u8>>>(
        mut self,
        protocols: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        self.alpn = Some(check_alpn(protocols)?);
        Ok(self)
    }

    /// Asks the clients of this host for a certificate.
    ///
    /// Default: as the configuration does.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = Inherit::Own(Some(auth));
        self
    }

    /// Asks the clients of this host for no certificate, even if the configuration asks for one.
    pub fn no_client_auth(mut self) -> Self {
        self.client_auth = Inherit::Own(None);
        self
    }
}
