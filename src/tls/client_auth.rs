//! [`ClientAuth`]: certificates of clients, and whose signature on them counts.

use std::{
    fmt, fs,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore,
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    connect::{pem, provider},
    error::ConfigError,
};

/// Where the roots and the revocation lists for client certificates come from.
#[derive(Clone, Default)]
#[must_use]
pub struct ClientRoots {
    roots: Vec<Source>,
    crls: Vec<Source>,
}

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Pem(Arc<[u8]>),
}

impl ClientRoots {
    /// Takes the certificates in these PEM files. Each reload reads them again.
    pub fn files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        let paths = paths.into_iter().map(Into::into);
        Self {
            roots: paths.map(Source::File).collect(),
            crls: Vec::new(),
        }
    }

    /// Takes the certificates in a PEM text.
    pub fn pem(text: impl Into<Vec<u8>>) -> Self {
        Self {
            roots: vec![Source::Pem(text.into().into())],
            crls: Vec::new(),
        }
    }

    /// Adds PEM files of certificate revocation lists (RFC 5280 §5). Each reload reads them again.
    ///
    /// With any list, each certificate of a client's chain needs one that its issuer signed, or the
    /// client is refused: a missing list must not let a revoked certificate in. A list is used on after
    /// its `nextUpdate`, so that a late list does not lock all clients out; watch that lists arrive.
    ///
    /// Default: no revocation is checked.
    pub fn crl_files<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        let paths = paths.into_iter().map(Into::into);
        self.crls.extend(paths.map(Source::File));
        self
    }

    /// Adds certificate revocation lists in a PEM text; see [`crl_files`](Self::crl_files).
    pub fn crl_pem(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.crls.push(Source::Pem(text.into().into()));
        self
    }

    fn read(&self) -> Result<Texts, ConfigError> {
        let roots = self.roots.iter().map(|source| source.read("client_roots"));
        let crls = self.crls.iter().map(|source| source.read("crl"));
        Ok(Texts {
            roots: roots.collect::<Result<_, _>>()?,
            crls: crls.collect::<Result<_, _>>()?,
        })
    }
}

impl Source {
    fn read(&self, field: &str) -> Result<Text, ConfigError> {
        match self {
            Self::File(path) => {
                let from = format!("{}: ", path.display());
                let bytes = fs::read(path).map_err(|error| {
                    let message = format!("{from}{error}; a readable PEM file is accepted");
                    ConfigError::new(field, message)
                })?;
                Ok(Text {
                    from,
                    bytes: bytes.into(),
                })
            }
            Self::Pem(text) => Ok(Text {
                from: String::new(),
                bytes: text.clone(),
            }),
        }
    }
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRoots").finish_non_exhaustive()
    }
}

/// A PEM text, and the file that it is from.
struct Text {
    from: String,
    bytes: Arc<[u8]>,
}

struct Texts {
    roots: Vec<Text>,
    crls: Vec<Text>,
}

impl Texts {
    fn fingerprint(&self, hasher: &RandomState) -> u64 {
        let bytes = |texts: &[Text]| texts.iter().map(|t| t.bytes.clone()).collect::<Vec<_>>();
        hasher.hash_one((bytes(&self.roots), bytes(&self.crls)))
    }

    fn verifier(&self, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
        let mut roots = RootCertStore::empty();
        for text in &self.roots {
            let bad = |why: String| ConfigError::new("client_roots", format!("{}{why}", text.from));
            let found = pem::certificates(&text.bytes).map_err(bad)?;
            if found.is_empty() {
                let why = "no certificate is there; a PEM section CERTIFICATE is accepted";
                return Err(bad(why.into()));
            }
            for root in found {
                roots.add(root).map_err(|error| bad(error.to_string()))?;
            }
        }
        let mut crls = Vec::new();
        for text in &self.crls {
            let bad = |why: String| ConfigError::new("crl", format!("{}{why}", text.from));
            let found = pem::revocation_lists(&text.bytes).map_err(bad)?;
            if found.is_empty() {
                let why = "no revocation list is there; a PEM section X509 CRL is accepted";
                return Err(bad(why.into()));
            }
            crls.extend(found);
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = builder.with_crls(crls);
        let builder = match optional {
            true => builder.allow_unauthenticated(),
            false => builder,
        };
        builder.build().map(|made| made as _).map_err(|error| {
            let field = match &error {
                VerifierBuilderError::InvalidCrl(_) => "crl",
                _ => "client_roots",
            };
            ConfigError::new(field, format!("{error}; 1 or more roots are accepted"))
        })
    }
}

/// Asks clients for a certificate, and verifies it: a shared handle, cheap to clone.
///
/// A client proves that it has the key, and its certificate must lead to one of the roots, be valid now
/// and be made for client authentication. What it says is in
/// [`TlsInfo::client`](crate::context::TlsInfo::client) of every request. A client without a session is
/// verified each time: hosts that ask for certificates issue no tickets, because a resumed session would
/// skip a revocation.
///
/// ```
/// use evenkeel::tls::{ClientAuth, ClientRoots, HostPolicy};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// # let (mut params, key) = (rcgen::CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
/// # params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
/// # let ca_pem = params.self_signed(&key).unwrap().pem();
/// // In production: `ClientRoots::files(["clients.pem"]).crl_files(["revoked.pem"])`.
/// let auth = ClientAuth::required(ClientRoots::pem(ca_pem))?;
/// let policy = HostPolicy::new().client_auth(auth);
/// # let _ = policy;
/// let error = ClientAuth::optional(ClientRoots::pem("nonsense")).unwrap_err();
/// assert!(error.to_string().starts_with("client_roots: no certificate is there"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ClientAuth {
    inner: Arc<Inner>,
}

struct Inner {
    source: ClientRoots,
    optional: bool,
    hasher: RandomState,
    current: ArcSwap<Trust>,
    change_lock: Mutex<()>,
}

/// The verifier that is in force.
pub(super) struct Trust {
    /// Counts the changes.
    pub(super) generation: u64,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    fingerprint: u64,
}

impl ClientAuth {
    /// Refuses clients without a valid certificate, with an alert.
    ///
    /// Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// If there is no root, if a file cannot be read, or if a certificate or list in it cannot.
    pub fn required(roots: ClientRoots) -> Result<Self, ConfigError> {
        Self::new(roots, false)
    }

    /// Lets clients in that send no certificate, but none that sends an invalid one. The application
    /// reads from [`TlsInfo::client`](crate::context::TlsInfo::client) which of the two it is.
    ///
    /// Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// As for [`required`](Self::required).
    pub fn optional(roots: ClientRoots) -> Result<Self, ConfigError> {
        Self::new(roots, true)
    }

    fn new(source: ClientRoots, optional: bool) -> Result<Self, ConfigError> {
        let hasher = RandomState::new();
        let texts = source.read()?;
        let trust = Trust {
            generation: 0,
            verifier: texts.verifier(optional)?,
            fingerprint: texts.fingerprint(&hasher),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                source,
                optional,
                hasher,
                current: ArcSwap::from_pointee(trust),
                change_lock: Mutex::new(()),
            }),
        })
    }

    /// Reads the files again. Returns true if they changed: handshakes that begin afterwards follow the
    /// new roots and lists. Connections stay open, those of clients that are revoked now as well.
    ///
    /// [`Certificates::reload`](super::Certificates::reload) and its `watch` do so as well, for the
    /// certificates of the same configuration. Blocks while it reads files; [`watch`](Self::watch) does
    /// not.
    ///
    /// # Errors
    ///
    /// As for [`required`](Self::required); the previous roots and lists stay.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let change_lock = self.inner.change_lock.lock();
        let _guard = change_lock.unwrap_or_else(PoisonError::into_inner);
        let texts = self.inner.source.read()?;
        let fingerprint = texts.fingerprint(&self.inner.hasher);
        let previous = self.inner.current.load();
        if fingerprint == previous.fingerprint {
            return Ok(false);
        }
        let trust = Trust {
            generation: previous.generation + 1,
            verifier: texts.verifier(self.inner.optional)?,
            fingerprint,
        };
        self.inner.current.store(Arc::new(trust));
        tracing::info!(target: "evenkeel::tls", "roots or revocation lists of clients changed");
        Ok(true)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(super) fn downgrade(&self) -> WeakClientAuth {
        WeakClientAuth(Arc::downgrade(&self.inner))
    }

    pub(super) fn current(&self) -> Arc<Trust> {
        self.inner.current.load_full()
    }

    pub(super) fn generation(&self) -> u64 {
        self.inner.current.load().generation
    }
}

/// A handle that keeps nothing alive.
pub(super) struct WeakClientAuth(Weak<Inner>);

impl WeakClientAuth {
    pub(super) fn upgrade(&self) -> Option<ClientAuth> {
        Some(ClientAuth {
            inner: self.0.upgrade()?,
        })
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth")
            .field("optional", &self.inner.optional)
            .finish_non_exhaustive()
    }
}
