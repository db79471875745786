//! `[admin]`: the listener for operators.

use std::{fmt, fs, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

use super::{
    Settings, SettingsError,
    draft::Draft,
    error::Location,
    value::{self, Value},
};

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminSettings {
    /// The address and port.
    #[serde(deserialize_with = "value::required")]
    pub address: SocketAddr,
    /// Whether `/metrics` is served.
    #[serde(default = "served")]
    pub metrics: bool,
    /// Whether the status page and the operator's API are served.
    #[serde(default = "served")]
    pub status: bool,
    /// What an order needs in `Authorization: Bearer`; without a token the API is read-only.
    #[serde(default, deserialize_with = "value::optional")]
    pub token: Option<AdminToken>,
    /// A file that holds the token instead. A line break at its end does not count.
    pub token_file: Option<PathBuf>,
}

/// `[admin] token`: 16 or more visible ASCII characters. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// Returns the text of the token.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminToken").finish_non_exhaustive()
    }
}

impl Value for AdminToken {
    /// The message does not show the text.
    fn parse(text: &str) -> Result<Self, String> {
        match text.len() >= SHORTEST && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{SHORTEST} or more visible ASCII characters are accepted"
            )),
        }
    }
}

impl Settings {
    /// Returns the token of `[admin]`, from `token` or from `token_file`; `None` without one.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or holds no token.
    pub fn admin_token(&self) -> Result<Option<AdminToken>, SettingsError> {
        self.draft.admin_token()
    }

    /// Returns the status page of this pool with its API, under the name of `[access_log] node` and
    /// with the token of `[admin]`; `None` without `[admin]`, and with `status = false`. A caller adds
    /// numbers and `/metrics`: [`Admin::stats`](crate::admin::Admin::stats),
    /// [`Admin::metrics`](crate::admin::Admin::metrics).
    ///
    /// # Errors
    ///
    /// As [`admin_token`](Self::admin_token).
    #[cfg(feature = "admin")]
    pub fn status_page(
        &self,
        pool: &crate::pool::Pool,
    ) -> Result<Option<crate::admin::Admin>, SettingsError> {
        if !self.admin.as_ref().is_some_and(|admin| admin.status) {
            return Ok(None);
        }
        let node = self.access_log.as_ref().and_then(|log| log.node.as_deref());
        let page = crate::admin::Admin::new(pool.clone()).name(node.unwrap_or_default());
        let Some(token) = self.admin_token()? else {
            return Ok(Some(page));
        };
        let page = page.token("operator", token.expose());
        page.map(Some)
            .map_err(|error| self.draft.at(at("token"), &error))
    }
}

impl Draft {
    /// Refuses keys that have no effect.
    pub(super) fn check_admin(&self) -> Result<(), SettingsError> {
        let Some(admin) = &self.sections.admin else {
            return Ok(());
        };
        let key = match (&admin.token, &admin.token_file) {
            (Some(_), Some(_)) => {
                let message = "beside `token`: one of the two is accepted";
                return Err(at("token_file").wrong(&self.text, message));
            }
            (Some(_), None) => "token",
            (None, Some(_)) => "token_file",
            (None, None) => return Ok(()),
        };
        match admin.status {
            true => Ok(()),
            false => {
                let message =
                    "for the API beside the status page, which `status = false` leaves out";
                Err(at(key).wrong(&self.text, message))
            }
        }
    }

    /// Reads the token.
    pub(super) fn admin_token(&self) -> Result<Option<AdminToken>, SettingsError> {
        let Some(admin) = &self.sections.admin else {
            return Ok(None);
        };
        let Some(path) = &admin.token_file else {
            return Ok(admin.token.clone());
        };
        let wrong =
            |message: String| at("token_file").wrong(&self.text, format!("{path:?}: {message}"));
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let token = AdminToken::parse(text.trim_end_matches(['\r', '\n']));
        token.map(Some).map_err(wrong)
    }
}

fn at(key: &str) -> Location<'_> {
    Location::new("[admin]", key)
}

fn served() -> bool {
    true
}

/// As `admin::Admin::token`.
const SHORTEST: usize = 16;
