//! `[listen.tls.acme]`: automatic certificates.

use std::path::PathBuf;
#[cfg(feature = "__acme")]
use std::{path::Path, sync::Arc};

use serde::{Deserialize, Deserializer};

use super::value;
#[cfg(feature = "__acme")]
use super::{
    FleetSettings, ListenSettings, Settings, SettingsError, draft::Draft, error::Location,
};
#[cfg(feature = "__acme")]
use crate::{
    error::ConfigError,
    store::{FileStore, Store, StoreFuture},
    tls::acme::{Acme, Authority, Challenge, ChallengeAnswers, KeyType},
};

/// `[listen.tls.acme]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AcmeSettings {
    /// One certificate for each text, of the names in it.
    pub domains: Vec<String>,
    /// Whether the operator agrees to the authority's terms of service; nothing starts without.
    #[serde(default)]
    pub agree_to_terms: bool,
    /// The folder for certificates, keys and the account, or `redis` for the store of `[fleet]`.
    pub storage: PathBuf,
    /// The folder in which this instance keeps a copy of each certificate in force, to start with while
    /// `storage` fails; none if absent.
    pub copies: Option<PathBuf>,
    /// The address that the authority writes to; none if absent.
    pub email: Option<String>,
    /// `letsencrypt`, `letsencrypt-staging`, or the URL of the directory; the first if absent.
    pub directory: Option<String>,
    /// The PEM file of the roots that the directory is verified against; those of Mozilla if absent.
    pub ca: Option<PathBuf>,
    /// How names are checked; `tls-alpn-01`, and `http-01` where a listener is in cleartext, if absent.
    #[cfg(feature = "__acme")]
    #[serde(default, deserialize_with = "challenges")]
    pub challenges: Option<Vec<Challenge>>,
    /// The profile of the certificate; the authority chooses if absent.
    pub profile: Option<String>,
    /// The key by which the authority knows a customer; none if absent.
    pub eab: Option<EabSettings>,
    /// `p256`, `p384` or `rsa2048`; the first if absent.
    #[cfg(feature = "__acme")]
    #[serde(default, deserialize_with = "value::optional")]
    pub key_type: Option<KeyType>,
}

/// `[listen.tls.acme] eab`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EabSettings {
    /// The identifier of the key.
    pub key_id: String,
    /// The file with the key in base64url.
    pub key_file: PathBuf,
}

/// Reads the section, which needs a feature.
pub(super) fn section<'de, D>(deserializer: D) -> Result<Option<AcmeSettings>, D::Error>
where
    D: Deserializer<'de>,
{
    if cfg!(not(feature = "__acme")) {
        return Err(value::refused("built without the feature `acme`"));
    }
    AcmeSettings::deserialize(deserializer).map(Some)
}

#[cfg(feature = "__acme")]
impl value::Value for KeyType {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            "rsa2048" => Ok(Self::Rsa2048),
            other => Err(format!("{other:?}: p256, p384 or rsa2048 is accepted")),
        }
    }
}

#[cfg(feature = "__acme")]
impl value::Value for Challenge {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tls-alpn-01" => Ok(Self::TlsAlpn01),
            "http-01" => Ok(Self::Http01),
            other => Err(format!("{other:?}: tls-alpn-01 or http-01 is accepted")),
        }
    }
}

#[cfg(feature = "__acme")]
fn challenges<'de, D>(deserializer: D) -> Result<Option<Vec<Challenge>>, D::Error>
where
    D: Deserializer<'de>,
{
    let given = Vec::<String>::deserialize(deserializer)?;
    let parsed = given.iter().map(|text| value::Value::parse(text));
    parsed
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(value::refused)
}

#[cfg(feature = "__acme")]
impl Settings {
    /// Opens the store of the nth listener's automatic certificates; `None` without `[listen.tls.acme]`.
    /// [`Acme::start`] takes the certificates that [`tls`](Self::tls) returned. The answers are those of an
    /// [`Http01Layer`](crate::tls::acme::Http01Layer) on the listeners in cleartext.
    ///
    /// Blocks while it opens the store.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or a store not opened.
    pub fn acme(
        &self,
        nth: usize,
        answers: &ChallengeAnswers,
    ) -> Result<Option<Acme>, SettingsError> {
        let Some(given) = self.draft.acme_of(nth) else {
            return Ok(None);
        };
        let store = self.draft.acme_store(nth, &given.storage)?;
        let mut made = self.draft.acme(nth, given, store)?;
        if let Some(folder) = &given.copies {
            made = made.copies(self.draft.acme_folder(nth, "copies", folder)?);
        }
        Ok(Some(made.answers(answers.clone())))
    }
}

#[cfg(feature = "__acme")]
impl Draft {
    fn acme_of(&self, nth: usize) -> Option<&AcmeSettings> {
        let tls = self.sections.listen.get(nth)?.tls.as_ref();
        tls?.acme.as_ref()
    }

    fn acme_store(&self, nth: usize, storage: &Path) -> Result<Arc<dyn Store>, SettingsError> {
        #[cfg(feature = "redis")]
        if storage.as_os_str() == REDIS
            && let Some(store) = self.fleet_store()?
        {
            return Ok(Arc::new(store));
        }
        self.acme_folder(nth, "storage", storage)
    }

    fn acme_folder(
        &self,
        nth: usize,
        key: &str,
        folder: &Path,
    ) -> Result<Arc<dyn Store>, SettingsError> {
        match FileStore::new(folder) {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(self.acme_mistake(nth, key, error.message())),
        }
    }

    /// Checks the section, and not the files that it names.
    pub(super) fn check_acme(&self, nth: usize) -> Result<(), SettingsError> {
        let Some(given) = self.acme_of(nth) else {
            return Ok(());
        };
        let fleet = self.sections.fleet.as_ref();
        if given.storage.as_os_str() == REDIS && !fleet.is_some_and(FleetSettings::has_redis) {
            let why = "redis: [fleet] names no server; `./redis` is a folder of that name";
            return Err(self.acme_mistake(nth, "storage", why));
        }
        let is_cleartext = |listen: &ListenSettings| listen.tls.is_none();
        let asks_in_cleartext = given
            .challenges
            .iter()
            .flatten()
            .any(|c| *c == Challenge::Http01);
        // Another instance may answer what is in Redis.
        if asks_in_cleartext
            && given.storage.as_os_str() != REDIS
            && !self.sections.listen.iter().any(is_cleartext)
        {
            return Err(self.acme_mistake(nth, "challenges", NO_CLEARTEXT));
        }
        let without_files = AcmeSettings {
            ca: None,
            eab: None,
            ..given.clone()
        };
        self.acme(nth, &without_files, Arc::new(NoStore)).map(drop)
    }

    /// Returns the mistakes of the files that the section names.
    pub(super) fn acme_mistakes(&self, nth: usize) -> Option<SettingsError> {
        let given = self.acme_of(nth)?;
        let found = self.acme(nth, given, Arc::new(NoStore)).err();
        found.or_else(|| self.storage_mistake(nth, &given.storage))
    }

    fn storage_mistake(&self, nth: usize, storage: &Path) -> Option<SettingsError> {
        if storage.as_os_str() == REDIS {
            return None;
        }
        let error = FileStore::check(storage).err()?;
        Some(self.acme_mistake(nth, "storage", error.message()))
    }

    fn acme(
        &self,
        nth: usize,
        given: &AcmeSettings,
        store: Arc<dyn Store>,
    ) -> Result<Acme, SettingsError> {
        let at = |key: &'static str| {
            move |error: ConfigError| self.acme_mistake(nth, key, error.message())
        };
        let mut acme = Acme::new(store)
            .terms_of_service_agreed(given.agree_to_terms)
            .authorities([self.authority(nth, given)?])
            .challenges(self.challenges(given))
            .map_err(at("challenges"))?;
        if !given.agree_to_terms {
            let why = "it is not true; true is accepted once you have read the authority's terms";
            return Err(self.acme_mistake(nth, "agree_to_terms", why));
        }
        for names in &given.domains {
            acme = acme
                .certificate(names.split_whitespace())
                .map_err(at("domains"))?;
        }
        if let Some(email) = &given.email {
            acme = acme.email(email).map_err(at("email"))?;
        }
        if let Some(kind) = given.key_type {
            acme = acme.key_type(kind).map_err(at("key_type"))?;
        }
        acme.check().map_err(at("domains"))?;
        Ok(acme)
    }

    fn authority(&self, nth: usize, given: &AcmeSettings) -> Result<Authority, SettingsError> {
        let at = |key: &'static str| {
            move |error: ConfigError| self.acme_mistake(nth, key, error.message())
        };
        let read = |key: &'static str, path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                let why = format!("{}: {error}; a readable file is accepted", path.display());
                self.acme_mistake(nth, key, &why)
            })
        };
        let mut authority = match given.directory.as_deref() {
            None | Some("letsencrypt") => Authority::lets_encrypt(),
            Some("letsencrypt-staging") => Authority::lets_encrypt_staging(),
            Some(url) => Authority::new(url).map_err(|_error| {
                let accepted = "letsencrypt, letsencrypt-staging or a URL of https is accepted";
                self.acme_mistake(nth, "directory", &format!("{url:?}: {accepted}"))
            })?,
        };
        if let Some(path) = &given.ca {
            authority = authority.roots_pem(&read("ca", path)?).map_err(at("ca"))?;
        }
        if let Some(profile) = &given.profile {
            authority = authority.profile(profile).map_err(at("profile"))?;
        }
        if let Some(eab) = &given.eab {
            let key = read("eab", &eab.key_file)?;
            let key = String::from_utf8_lossy(&key);
            let bound = authority.external_account(&eab.key_id, key.trim());
            authority = bound.map_err(at("eab"))?;
        }
        Ok(authority)
    }

    /// A request of HTTP-01 comes in cleartext.
    fn challenges(&self, given: &AcmeSettings) -> Vec<Challenge> {
        given.challenges.clone().unwrap_or_else(|| {
            let mut listeners = self.sections.listen.iter();
            match listeners.any(|listen| listen.tls.is_none()) {
                true => vec![Challenge::TlsAlpn01, Challenge::Http01],
                false => vec![Challenge::TlsAlpn01],
            }
        })
    }

    /// Makes an error, with the line of the key or, in a table without a header, of the table.
    fn acme_mistake(&self, nth: usize, key: &str, message: &str) -> SettingsError {
        let header = "[listen.tls.acme]";
        let mut lines = self.text.lines();
        match lines.any(|line| line.trim_start().starts_with(header)) {
            true => Location { header, nth, key }.wrong(&self.text, message),
            false => {
                let location = Location {
                    header: "[listen.tls]",
                    nth,
                    key: "acme",
                };
                location.wrong(&self.text, format!("{key}: {message}"))
            }
        }
    }
}

/// The storage that is no folder.
#[cfg(feature = "__acme")]
const REDIS: &str = "redis";

/// Why HTTP-01 is refused. The search for mistakes passes it over where a listener was wrong.
#[cfg(feature = "__acme")]
pub(super) const NO_CLEARTEXT: &str =
    "http-01: no [[listen]] is in cleartext, which the authority asks at port 80";

/// Stands for the store while settings are checked.
#[cfg(feature = "__acme")]
#[derive(Debug)]
struct NoStore;

#[cfg(feature = "__acme")]
impl Store for NoStore {
    fn get<'a>(&'a self, _: &'a str) -> StoreFuture<'a, Option<bytes::Bytes>> {
        Box::pin(async { Err("no store".into()) })
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        _: bytes::Bytes,
        _: Option<std::time::Duration>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async { Err("no store".into()) })
    }

    fn remove<'a>(&'a self, _: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async { Err("no store".into()) })
    }

    fn lock<'a>(&'a self, _: &'a str, _: &'a str, _: std::time::Duration) -> StoreFuture<'a, bool> {
        Box::pin(async { Err("no store".into()) })
    }

    fn unlock<'a>(&'a self, _: &'a str, _: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async { Err("no store".into()) })
    }
}
