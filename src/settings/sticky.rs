//! `[sticky]`: sticky sessions by cookie.

use std::fmt;

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::{
    error::ConfigError,
    pool::Pool,
    sticky::{Keys, StickyLayer},
};

/// `[sticky]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StickySettings {
    /// The name of the cookie; `PROXY_SERVER_ID` if absent.
    pub cookie: Option<String>,
    /// 64 hexadecimal digits each; the first signs, all verify.
    pub keys: Vec<String>,
    /// Whether the cookie is `Secure`; true if absent.
    pub secure: Option<bool>,
}

impl fmt::Debug for StickySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickySettings")
            .field("cookie", &self.cookie)
            .field("keys", &self.keys.len())
            .field("secure", &self.secure)
            .finish()
    }
}

impl Settings {
    /// Returns the sticky layer; `None` without `[sticky]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn sticky_layer(&self, pool: &Pool) -> Result<Option<StickyLayer>, SettingsError> {
        let Some(sticky) = &self.sticky else {
            return Ok(None);
        };
        let at = |error: ConfigError| {
            let location = Location::new("[sticky]", error.field());
            self.at(location, &error)
        };
        let keys = Keys::from_hex(&sticky.keys).map_err(at)?;
        let mut layer = StickyLayer::new(pool.clone(), keys);
        if let Some(name) = &sticky.cookie {
            layer = layer.cookie_name(name).map_err(at)?;
        }
        if sticky.secure == Some(false) {
            layer = layer.insecure().map_err(at)?;
        }
        Ok(Some(layer))
    }
}
