//! [`StickyLayer`]: the pool, the keys and the attributes of the cookie.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use http::HeaderValue;
use tower_layer::Layer;

use super::{Keys, Sticky, token::TokenTable};
use crate::{
    error::ConfigError,
    pool::{Derived, Pool},
};

/// Keeps the sessions of clients on their backends by a cookie; see the [module](super).
///
/// Clones of a layer, and the services that they make, share one table of cookies. A setter gives
/// the layer a table of its own.
#[derive(Clone)]
#[must_use]
pub struct StickyLayer {
    pub(super) pool: Pool,
    pub(super) config: Arc<StickyConfig>,
    state: Arc<StickyState>,
}

/// The keys and the attributes of the cookie.
#[derive(Clone)]
pub(super) struct StickyConfig {
    keys: Keys,
    pub(super) cookie_name: String,
    path: String,
    domain: Option<String>,
    max_age: Option<Duration>,
    same_site: SameSite,
    pub(super) secure: bool,
}

/// State shared by the services of one layer.
#[derive(Default)]
pub(super) struct StickyState {
    tokens: OnceLock<Arc<TokenLookup>>,
    pub(super) warned_cleartext: AtomicBool,
    pub(super) warned_order: AtomicBool,
}

/// The table of all tokens, and the pool whose snapshots hold it.
pub(super) struct TokenLookup {
    pub(super) pool: Pool,
    pub(super) table: Derived<TokenTable>,
}

/// Whether browsers send the cookie with requests that another site caused (RFC 6265bis §5.5.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Only when a user follows a link from another site, not for embedded resources and forms.
    #[default]
    Lax,
    /// With every request. Needs a `Secure` cookie.
    None,
    /// Never: only with requests from the same site.
    Strict,
}

impl StickyLayer {
    /// Makes a layer that keeps sessions on the backends of `pool`, with cookies made and verified
    /// by `keys`.
    pub fn new(pool: Pool, keys: Keys) -> Self {
        Self {
            pool,
            config: Arc::new(StickyConfig {
                keys,
                cookie_name: DEFAULT_COOKIE_NAME.into(),
                path: DEFAULT_PATH.into(),
                domain: None,
                max_age: None,
                same_site: SameSite::default(),
                secure: true,
            }),
            state: Arc::default(),
        }
    }

    /// Returns the pool whose sessions the layer keeps.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns a layer with the same keys and attributes for another pool, with a table of its own.
    pub fn for_pool(&self, pool: Pool) -> Self {
        Self {
            pool,
            config: self.config.clone(),
            state: Arc::default(),
        }
    }

    /// Sets the name of the cookie. Pools behind one host each need a name of their own. The name
    /// is part of the keyed hash, so the cookie of one pool does not verify in another.
    ///
    /// Default: `PROXY_SERVER_ID`.
    ///
    /// # Errors
    ///
    /// When the name is not a token (RFC 6265 §4.1.1). When it begins with `__Secure-` and the
    /// cookie is [insecure](Self::insecure), or with `__Host-` and the cookie is insecure, has a
    /// [domain](Self::domain) or a [path](Self::path) other than `/`: browsers refuse such cookies.
    pub fn cookie_name(mut self, name: &str) -> Result<Self, ConfigError> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(ConfigError::new(
                "cookie",
                format!("{name:?}: letters, digits and !#$%&'*+-.^_`|~ are accepted"),
            ));
        }
        let config = self.config_mut();
        config.cookie_name = name.into();
        config.check_combination()?;
        Ok(self)
    }

    /// Sets the path of the cookie: browsers send it only with requests for this path and those
    /// below it.
    ///
    /// Default: `/`.
    ///
    /// # Errors
    ///
    /// When the path does not begin with `/`, or has a control character, a byte outside ASCII or a
    /// semicolon; when the name begins with `__Host-` and the path is not `/`.
    pub fn path(mut self, path: &str) -> Result<Self, ConfigError> {
        if !path.starts_with('/') || !is_attribute_value(path) {
            return Err(ConfigError::new(
                "path",
                format!("{path:?}: a path from / on without ; is accepted"),
            ));
        }
        let config = self.config_mut();
        config.path = path.into();
        config.check_combination()?;
        Ok(self)
    }

    /// Sets the domain of the cookie: browsers send it to this domain and all its subdomains.
    ///
    /// Default: none; browsers send the cookie only to the host that set it.
    ///
    /// # Errors
    ///
    /// When the domain is empty, or has other bytes than letters, digits, hyphens and dots; when
    /// the name begins with `__Host-`.
    pub fn domain(mut self, domain: &str) -> Result<Self, ConfigError> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if domain.is_empty() || !domain.bytes().all(is_name) {
            return Err(ConfigError::new(
                "domain",
                format!("{domain:?}: a domain name is accepted"),
            ));
        }
        let config = self.config_mut();
        config.domain = Some(domain.into());
        config.check_combination()?;
        Ok(self)
    }

    /// Sets how long browsers keep the cookie, in whole seconds. The time counts from the response
    /// that sets the cookie; later responses do not extend it.
    ///
    /// Default: none; browsers drop the cookie when their session ends.
    ///
    /// # Errors
    ///
    /// When it is shorter than 1 s or longer than 400 days, which is the most that browsers accept.
    pub fn max_age(mut self, max_age: Duration) -> Result<Self, ConfigError> {
        if max_age.as_secs() == 0 || max_age.as_secs() > 400 * 86_400 {
            return Err(ConfigError::new(
                "max_age",
                format!("{max_age:?}: 1 s to 400 days is accepted"),
            ));
        }
        self.config_mut().max_age = Some(max_age);
        Ok(self)
    }

    /// Sets whether browsers send the cookie with requests that another site caused.
    ///
    /// Default: [`SameSite::Lax`].
    ///
    /// # Errors
    ///
    /// [`SameSite::None`] for an [insecure](Self::insecure) cookie: browsers refuse it.
    pub fn same_site(mut self, same_site: SameSite) -> Result<Self, ConfigError> {
        let config = self.config_mut();
        config.same_site = same_site;
        config.check_combination()?;
        Ok(self)
    }

    /// Leaves out the attribute `Secure`, so that browsers send the cookie over cleartext too.
    /// A listener on the network path can then read the cookie and reach the same backend. For
    /// development, and for networks that only your own hosts use.
    ///
    /// Default: off; the cookie is `Secure`.
    ///
    /// # Errors
    ///
    /// With [`SameSite::None`], and with a name that begins with `__Host-` or `__Secure-`.
    pub fn insecure(mut self) -> Result<Self, ConfigError> {
        let config = self.config_mut();
        config.secure = false;
        config.check_combination()?;
        Ok(self)
    }

    fn config_mut(&mut self) -> &mut StickyConfig {
        // Other attributes make other cookies, which need another table.
        self.state = Arc::default();
        Arc::make_mut(&mut self.config)
    }

    fn token_lookup(&self) -> Arc<TokenLookup> {
        let tokens = self.state.tokens.get_or_init(|| {
            // Computed with each snapshot of another membership: a request does no cryptography.
            let config = self.config.clone();
            let table = self.pool.derive(move |backends| {
                TokenTable::new(backends, &config.keys, &config.cookie_name, |token| {
                    config.set_cookie(token)
                })
            });
            Arc::new(TokenLookup {
                pool: self.pool.clone(),
                table,
            })
        });
        tokens.clone()
    }
}

impl StickyConfig {
    /// Returns the value of `Set-Cookie` for a token.
    fn set_cookie(&self, token: &str) -> HeaderValue {
        let mut text = format!("{}={token}; Path={}", self.cookie_name, self.path);
        if let Some(domain) = &self.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if let Some(max_age) = self.max_age {
            text.push_str(&format!("; Max-Age={}", max_age.as_secs()));
        }
        text.push_str("; HttpOnly");
        if self.secure {
            text.push_str("; Secure");
        }
        text.push_str(match self.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
            SameSite::Strict => "; SameSite=Strict",
        });
        // The setters have checked every part.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Refuses combinations of attributes that browsers refuse.
    fn check_combination(&self) -> Result<(), ConfigError> {
        let error = |why: &str| {
            Err(ConfigError::new(
                "cookie",
                format!("{:?}: {why}", self.cookie_name),
            ))
        };
        if self.cookie_name.starts_with("__Secure-") && !self.secure {
            return error("browsers accept this prefix with Secure only");
        }
        let host_bound = self.secure && self.domain.is_none() && self.path == "/";
        if self.cookie_name.starts_with("__Host-") && !host_bound {
            return error("browsers accept this prefix with Secure, Path=/ and no Domain only");
        }
        if self.same_site == SameSite::None && !self.secure {
            return error("SameSite=None needs Secure");
        }
        Ok(())
    }
}

impl fmt::Debug for StickyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyLayer")
            .field("cookie", &self.config.cookie_name)
            .field("keys", &self.config.keys)
            .field("secure", &self.config.secure)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for StickyLayer {
    type Service = Sticky<S>;

    fn layer(&self, inner: S) -> Sticky<S> {
        Sticky::new(self, self.token_lookup(), self.state.clone(), inner)
    }
}

fn is_attribute_value(text: &str) -> bool {
    text.bytes()
        .all(|b| (b' '..=b'~').contains(&b) && b != b';')
}

/// A name that HAProxy configurations commonly use for the same purpose.
pub(super) const DEFAULT_COOKIE_NAME: &str = "PROXY_SERVER_ID";
const DEFAULT_PATH: &str = "/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let layer = StickyLayer::new(Pool::new([]).unwrap(), Keys::new([7; 32]));
        let attributes = "; Path=/; HttpOnly; Secure; SameSite=Lax";
        let cookie = layer.config.set_cookie("token");
        assert_eq!(cookie, format!("{DEFAULT_COOKIE_NAME}=token{attributes}"));
        let compared = [
            ("cookie", format!("`{DEFAULT_COOKIE_NAME}`")),
            ("`HttpOnly`", "always".to_owned()),
            ("`Secure`", "on".to_owned()),
            ("`SameSite`", format!("`{:?}`", SameSite::default())),
            ("`Path`", format!("`{DEFAULT_PATH}`")),
            ("`Domain`, `Max-Age`", "none".to_owned()),
            ("keys", "none".to_owned()),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
