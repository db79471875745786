//! [`ClientAuthMode`]: `[listen.tls] client_auth`, and that of a host.

use super::value;

/// Whether clients need a certificate: `client_auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuthMode {
    /// `off`: clients are asked for none.
    Off,
    /// `optional`: a client may have none, but not an invalid one.
    Optional,
    /// `required`: a client needs a valid one.
    Required,
}

impl value::Value for ClientAuthMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            other => Err(format!("{other:?}: off, optional or required is accepted")),
        }
    }
}
