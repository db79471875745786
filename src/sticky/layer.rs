//! What you configure.

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

/// Keeps a client's session on one backend, by cookie; see the [module](super).
#[derive(Clone)]
#[must_use]
pub struct StickyLayer {
    pub(super) pool: Pool,
    pub(super) config: Arc<StickyConfig>,
    state: Arc<StickyState>,
}

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

/// What all services of one layer share.
#[derive(Default)]
pub(super) struct StickyState {
    tokens: OnceLock<Arc<TokenLookup>>,
    pub(super) warned_cleartext: AtomicBool,
    pub(super) warned_order: AtomicBool,
}

/// Every backend's token, and where to look them up.
pub(super) struct TokenLookup {
    pub(super) pool: Pool,
    pub(super) table: Derived<TokenTable>,
}

/// When browsers send the cookie along with requests from other sites (RFC 6265bis §5.5.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// With links followed from other sites, and not with what they embed or post.
    #[default]
    Lax,
    /// With every request; needs `Secure`, which stays on.
    None,
    /// With requests from the same site only.
    Strict,
}

impl StickyLayer {
    /// Keeps sessions on the backends of this pool, with cookies that these keys vouch for.
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

    /// Returns the pool that the layer was made for.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sets the cookie's name. It is part of what the keys vouch for: pools behind one host need
    /// a name each, and a cookie of one is worth nothing to another.
    ///
    /// Default: `PROXY_SERVER_ID`.
    ///
    /// # Errors
    ///
    /// When it is not a token (RFC 6265 §4.1.1), or begins with `__Host-` or `__Secure-` while
    /// other settings contradict that.
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

    /// Sets the path that the cookie is for.
    ///
    /// Default: `/`.
    ///
    /// # Errors
    ///
    /// When it does not begin with a slash or holds a control character or a semicolon.
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

    /// Sends the cookie to this domain and its subdomains.
    ///
    /// Default: to the host that set it only.
    ///
    /// # Errors
    ///
    /// When it is no domain name.
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

    /// Lets browsers keep the cookie for this long.
    ///
    /// Default: until the browser's session ends.
    ///
    /// # Errors
    ///
    /// When it is shorter than a second or longer than 400 days, which browsers cut it to.
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

    /// Sets when browsers send the cookie along with requests from other sites.
    ///
    /// Default: [`SameSite::Lax`].
    ///
    /// # Errors
    ///
    /// [`SameSite::None`] for an [insecure](Self::insecure) cookie: browsers refuse that.
    pub fn same_site(mut self, same_site: SameSite) -> Result<Self, ConfigError> {
        let config = self.config_mut();
        config.same_site = same_site;
        config.check_combination()?;
        Ok(self)
    }

    /// Lets the cookie travel over cleartext: whoever listens can then join the session's node.
    /// For development, and networks that nobody shares.
    ///
    /// Default: off; the cookie is `Secure`.
    ///
    /// # Errors
    ///
    /// With [`SameSite::None`], or a name that begins with `__Host-` or `__Secure-`.
    pub fn insecure(mut self) -> Result<Self, ConfigError> {
        let config = self.config_mut();
        config.secure = false;
        config.check_combination()?;
        Ok(self)
    }

    fn config_mut(&mut self) -> &mut StickyConfig {
        // Other settings are other cookies: another table.
        self.state = Arc::default();
        Arc::make_mut(&mut self.config)
    }

    fn token_lookup(&self) -> Arc<TokenLookup> {
        let tokens = self.state.tokens.get_or_init(|| {
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
        // Every part was checked by its setter.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

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

/// What HAProxy and others commonly call it, too.
pub(super) const DEFAULT_COOKIE_NAME: &str = "PROXY_SERVER_ID";
const DEFAULT_PATH: &str = "/";
