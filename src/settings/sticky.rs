//! `[sticky]`: sticky sessions by cookie.

use serde::Deserialize;

use super::{Settings, SettingsError, draft::Draft, error::Location, value};
use crate::{
    error::ConfigError,
    pool::Pool,
    sticky::{Keys, StickyLayer},
};

/// `[sticky]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StickySettings {
    /// The name of the cookie; `PROXY_SERVER_ID` if absent.
    pub cookie: Option<String>,
    /// 64 hexadecimal digits each; the first signs, all verify.
    #[serde(deserialize_with = "value::keys")]
    pub keys: Keys,
    /// Whether the cookie is `Secure`; true if absent.
    pub secure: Option<bool>,
}

impl Settings {
    /// Returns the sticky layer for this pool; `None` without `[sticky]`.
    #[must_use]
    pub fn sticky_layer(&self, pool: &Pool) -> Option<StickyLayer> {
        let layer = self.parts.sticky.as_ref()?;
        Some(layer.for_pool(pool.clone()))
    }
}

impl Draft {
    pub(super) fn sticky_layer(&self, pool: &Pool) -> Result<Option<StickyLayer>, SettingsError> {
        let Some(sticky) = &self.sections.sticky else {
            return Ok(None);
        };
        let at = |error: ConfigError| self.at(Location::new("[sticky]", error.field()), &error);
        let mut layer = StickyLayer::new(pool.clone(), sticky.keys.clone());
        if let Some(name) = &sticky.cookie {
            layer = layer.cookie_name(name).map_err(at)?;
        }
        if sticky.secure == Some(false) {
            layer = layer.insecure().map_err(at)?;
        }
        Ok(Some(layer))
    }
}
