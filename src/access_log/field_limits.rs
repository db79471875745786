//! [`FieldLimits`]: how long the fields of a line may be that clients choose.
//!
//! Only fields whose length a client chooses have a limit. Limits apply when the request arrives,
//! before any sink sees it, so that all formats cut alike; what an application adds itself has the
//! bound of `LogFields`.

use crate::error::ConfigError;

/// How long the fields of a line may be that a client chooses, in bytes. A longer one is cut at a whole
/// character, and the line names it: `"truncated":["path"]`.
///
/// The subject of a client's certificate, which its issuer chooses, is cut at 1 KiB, whatever the
/// limits are. The server's own limits (32 KiB for a head) hold as well. A collector may accept less: syslog over UDP
/// and many indexes take 8 KiB a line.
///
/// ```
/// use evenkeel::access_log::{AccessLogLayer, FieldLimits, TracingSink};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let limits = FieldLimits::new().path(2_048)?.user_agent(256)?;
/// let layer = AccessLogLayer::new(TracingSink::new()).field_limits(limits);
/// assert!(FieldLimits::new().path(0).is_err());
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FieldLimits {
    pub(super) host: usize,
    pub(super) path: usize,
    pub(super) query: usize,
    pub(super) user_agent: usize,
    pub(super) referer: usize,
}

impl FieldLimits {
    /// Makes the default limits.
    pub fn new() -> Self {
        Self {
            host: HOST,
            path: PATH,
            query: QUERY,
            user_agent: USER_AGENT,
            referer: REFERER,
        }
    }

    /// Sets the longest `host`.
    ///
    /// Default: 512 bytes.
    ///
    /// # Errors
    ///
    /// If it is 0 or over 64 KiB.
    pub fn host(mut self, bytes: usize) -> Result<Self, ConfigError> {
        self.host = validate("host", bytes)?;
        Ok(self)
    }

    /// Sets the longest `path`.
    ///
    /// Default: 8 KiB.
    ///
    /// # Errors
    ///
    /// If it is 0 or over 64 KiB.
    pub fn path(mut self, bytes: usize) -> Result<Self, ConfigError> {
        self.path = validate("path", bytes)?;
        Ok(self)
    }

    /// Sets the longest `query`, which is cut after its redaction.
    ///
    /// Default: 8 KiB.
    ///
    /// # Errors
    ///
    /// If it is 0 or over 64 KiB.
    pub fn query(mut self, bytes: usize) -> Result<Self, ConfigError> {
        self.query = validate("query", bytes)?;
        Ok(self)
    }

    /// Sets the longest `user_agent`.
    ///
    /// Default: 1 KiB.
    ///
    /// # Errors
    ///
    /// If it is 0 or over 64 KiB.
    pub fn user_agent(mut self, bytes: usize) -> Result<Self, ConfigError> {
        self.user_agent = validate("user_agent", bytes)?;
        Ok(self)
    }

    /// Sets the longest `referer`.
    ///
    /// Default: 2 KiB.
    ///
    /// # Errors
    ///
    /// If it is 0 or over 64 KiB.
    pub fn referer(mut self, bytes: usize) -> Result<Self, ConfigError> {
        self.referer = validate("referer", bytes)?;
        Ok(self)
    }
}

impl Default for FieldLimits {
    fn default() -> Self {
        Self::new()
    }
}

fn validate(field: &str, bytes: usize) -> Result<usize, ConfigError> {
    match (1..=MAX_LIMIT).contains(&bytes) {
        true => Ok(bytes),
        false => Err(ConfigError::new(
            format!("field_limits.{field}"),
            format!("{bytes}: 1 to {MAX_LIMIT} bytes are accepted"),
        )),
    }
}

/// A name of 253 bytes (RFC 1035 §2.3.4), a port, and room for what is no name.
const HOST: usize = 512;
/// Common servers and browsers stop at 8 KiB.
const PATH: usize = 8 * 1_024;
const QUERY: usize = PATH;
/// Those of browsers have about 130 bytes, those of applications in them up to 400.
const USER_AGENT: usize = 1_024;
/// A URL of a page, which may have a query.
const REFERER: usize = 2 * 1_024;
/// Those of usual authorities have about 100 bytes. Not a limit of a layer, since the text is kept with
/// the connection, for all layers that log its requests.
pub(super) const CLIENT_SUBJECT: usize = 1_024;
/// Twice the largest head that the server accepts by default.
const MAX_LIMIT: usize = 64 * 1_024;
