//! [`Authority`]: a certificate authority, and how it knows this account.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    connect::x509::hex,
    connect::{ClientTls, crypto::sha256},
    error::ConfigError,
    pool::{Backend, Scheme},
};

/// A certificate authority that speaks ACME (RFC 8555).
///
/// ```
/// use evenkeel::tls::acme::Authority;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let staging = Authority::lets_encrypt_staging().profile("shortlived")?;
/// assert_eq!(staging.directory(), "https://acme-staging-v02.api.letsencrypt.org/directory");
/// let error = Authority::new("http://ca.example/directory").unwrap_err();
/// assert!(error.to_string().starts_with("directory: \"http://ca.example/directory\""));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Authority {
    directory: String,
    pub(super) tls: ClientTls,
    pub(super) profile: Option<String>,
    pub(super) external_account: Option<ExternalAccount>,
}

/// The key by which an authority knows a customer (RFC 8555 §7.3.4).
#[derive(Clone)]
pub(super) struct ExternalAccount {
    pub(super) key_id: String,
    pub(super) key: Vec<u8>,
}

impl Authority {
    /// Names the URL of the directory, which begins with `https://` (RFC 8555 §6.1).
    ///
    /// # Errors
    ///
    /// If it is not such a URL.
    pub fn new(directory: impl Into<String>) -> Result<Self, ConfigError> {
        let directory = directory.into();
        let uri = directory.parse::<http::Uri>();
        let authority = uri.as_ref().ok().and_then(|uri| uri.authority());
        let origin = authority.map(|authority| format!("https://{authority}"));
        let backend = origin.map(|origin| Backend::new("directory", &origin));
        let is_https = matches!(&backend, Some(Ok(backend)) if backend.scheme() == Scheme::Https);
        if !is_https || !directory.starts_with("https://") {
            return Err(ConfigError::new(
                "directory",
                format!("{directory:?}: a URL that begins with https:// is accepted"),
            ));
        }
        Ok(Self::of(directory))
    }

    fn of(directory: String) -> Self {
        Self {
            directory,
            tls: ClientTls::new(),
            profile: None,
            external_account: None,
        }
    }

    /// Let's Encrypt.
    pub fn lets_encrypt() -> Self {
        Self::of(LETS_ENCRYPT.to_owned())
    }

    /// The staging environment of Let's Encrypt: for trials, since its limits are wide. Clients do not
    /// accept its certificates.
    pub fn lets_encrypt_staging() -> Self {
        Self::of(LETS_ENCRYPT_STAGING.to_owned())
    }

    /// Verifies the directory against these roots alone, in PEM: for an authority of one's own.
    ///
    /// Default: Mozilla's roots.
    ///
    /// # Errors
    ///
    /// If there is no certificate, or one cannot be read.
    pub fn roots_pem(mut self, pem: &[u8]) -> Result<Self, ConfigError> {
        let tls = ClientTls::roots_pem(pem);
        self.tls = tls.map_err(|error| ConfigError::new("ca", error.message()))?;
        Ok(self)
    }

    /// Binds the account to one that the authority knows already (RFC 8555 §7.3.4): the key's identifier,
    /// and the key in base64url, as the authority shows them.
    ///
    /// Default: no binding.
    ///
    /// # Errors
    ///
    /// If the identifier is empty, or the key is empty or not base64url. No message shows the key.
    pub fn external_account(
        mut self,
        key_id: impl Into<String>,
        key: &str,
    ) -> Result<Self, ConfigError> {
        let bad = |why: &str| ConfigError::new("eab", why);
        let key_id = key_id.into();
        if key_id.is_empty() {
            return Err(bad("the key identifier is empty; a text is accepted"));
        }
        // Some authorities show it with padding.
        let key = BASE64_URL_SAFE_NO_PAD.decode(key.trim_end_matches('='));
        let key = key.ok().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| bad("the key is not one in base64url, which is accepted"))?;
        self.external_account = Some(ExternalAccount { key_id, key });
        Ok(self)
    }

    /// Asks for certificates of this profile, such as `shortlived`. The names of the profiles are in the
    /// authority's directory; an order for another one fails.
    ///
    /// Default: the authority chooses.
    ///
    /// # Errors
    ///
    /// If the name is empty.
    pub fn profile(mut self, name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() {
            let why = "the name is empty; one of the directory's profiles is accepted";
            return Err(ConfigError::new("profile", why));
        }
        self.profile = Some(name);
        Ok(self)
    }

    /// Returns the URL of the directory.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Returns the last segment of the account's key in the store: another email or another binding is
    /// another account.
    pub(super) fn account_id(&self, email: Option<&str>) -> String {
        let binding = self.external_account.as_ref().map(|eab| &*eab.key_id);
        let parts = [&*self.directory, email.unwrap_or(""), binding.unwrap_or("")];
        let digest = hex(&sha256(parts.join("\n").as_bytes())[..8]);
        format!("{}-{digest}", host(&self.directory))
    }
}

/// Returns the segment of keys in the store of what belongs to a directory.
pub(super) fn directory_id(directory: &str) -> String {
    let digest = hex(&sha256(directory.as_bytes())[..8]);
    let host = host(directory);
    // Beside it, the names of the certificate must have their place in a key.
    let shown = host.get(..MAX_HOST).unwrap_or(&host);
    format!("{shown}-{digest}")
}

/// Returns the host of the directory, of characters that a key may have.
fn host(directory: &str) -> String {
    let uri = directory.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    let is_of = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    host.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .replace(|c| !is_of(c), "_")
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("directory", &self.directory)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

pub(super) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
pub(super) const LETS_ENCRYPT_STAGING: &str =
    "https://acme-staging-v02.api.letsencrypt.org/directory";
const MAX_HOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::check_key;

    #[test]
    fn a_directory_is_a_url_of_https() {
        for (url, is_accepted) in [
            ("https://ca.example/directory", true),
            ("https://localhost:14000/dir", true),
            ("https://[::1]:14000/dir", true),
            (LETS_ENCRYPT, true),
            (LETS_ENCRYPT_STAGING, true),
            ("http://ca.example/directory", false),
            ("ca.example", false),
            ("https://", false),
            ("", false),
            ("letsencrypt", false),
        ] {
            let made = Authority::new(url);
            assert_eq!(made.is_ok(), is_accepted, "{url}");
            if let Ok(authority) = made {
                for id in [authority.account_id(Some("me@a.test")), directory_id(url)] {
                    assert!(check_key(&id).is_ok(), "{id}");
                }
            }
        }
    }

    #[test]
    fn another_email_or_binding_is_another_account() {
        let authority = Authority::lets_encrypt();
        let bound = authority
            .clone()
            .external_account("kid", "c2VjcmV0")
            .unwrap();
        let ids = [
            authority.account_id(None),
            authority.account_id(Some("me@a.test")),
            bound.account_id(None),
            Authority::lets_encrypt_staging().account_id(None),
        ];
        for (n, id) in ids.iter().enumerate() {
            assert!(!ids[..n].contains(id), "{id}");
        }
    }

    #[test]
    fn each_directory_has_a_segment_of_its_own_and_the_longest_fits_into_a_key() {
        let long = ["a".repeat(60).as_str(); 4].join(".");
        let urls = [
            LETS_ENCRYPT.to_owned(),
            LETS_ENCRYPT_STAGING.to_owned(),
            "https://ca.example/one".to_owned(),
            "https://ca.example/two".to_owned(),
            format!("https://{long}/directory"),
            format!("https://{long}b/directory"),
        ];
        let names = super::super::names::Names::new([&long]).unwrap();
        for (n, url) in urls.iter().enumerate() {
            let id = directory_id(url);
            assert!(
                !urls[..n].iter().any(|other| directory_id(other) == id),
                "{id}"
            );
            let key = format!("acme/certificates/{id}/{}", names.id());
            assert!(check_key(&key).is_ok(), "{key}");
        }
    }

    #[test]
    fn no_message_shows_the_key() {
        let of = |key_id: &str, key| Authority::lets_encrypt().external_account(key_id, key);
        for (key_id, key) in [
            ("", "c2VjcmV0"),
            ("kid", "not base64"),
            ("kid", ""),
            ("kid", "=="),
        ] {
            let error = of(key_id, key).unwrap_err().to_string();
            assert!(
                error.starts_with("eab: ") && !error.contains("base64\""),
                "{error}"
            );
            assert!(key.is_empty() || !error.contains(key), "{error}");
        }
        assert!(of("kid", "c2VjcmV0cw==").is_ok());
        let shown = format!("{:?}", of("kid", "c2VjcmV0").unwrap());
        assert!(!shown.contains("kid") && !shown.contains("115"), "{shown}");
    }
}
