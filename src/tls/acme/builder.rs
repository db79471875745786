//! [`Acme`]: which certificates are obtained, where, and how.

use std::{fmt, sync::Arc, time::Duration};

use instant_acme::ChallengeType;

use super::{
    account::Accounts,
    answers::ChallengeAnswers,
    authority::Authority,
    cleanups::Cleanups,
    dns::DnsProvider,
    handle::{AcmeHandle, LoadedAcme},
    key::KeyType,
    manager::{self, Common},
    names::Names,
    order::Orders,
    takeover::Predecessor,
};
use crate::{error::ConfigError, store::Store, tls::Certificates};

/// How an authority checks that a name belongs to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Challenge {
    /// A request to port 80 (RFC 8555 §8.3), which [`Http01Layer`](super::Http01Layer) answers.
    Http01,
    /// A handshake at port 443 (RFC 8737), which [`Certificates`] answer.
    TlsAlpn01,
    /// A record in the DNS (RFC 8555 §8.4), which a [`DnsProvider`] publishes.
    Dns01,
}

impl Challenge {
    pub(super) fn kind(self) -> ChallengeType {
        match self {
            Self::Http01 => ChallengeType::Http01,
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Dns01 => ChallengeType::Dns01,
        }
    }
}

/// Obtains certificates and renews them; see the [module](super).
#[derive(Clone)]
#[must_use]
pub struct Acme {
    store: Arc<dyn Store>,
    certificates: Vec<Names>,
    email: Option<String>,
    authorities: Vec<Authority>,
    challenges: Vec<Challenge>,
    dns: Option<Arc<dyn DnsProvider>>,
    key_type: KeyType,
    answers: ChallengeAnswers,
    poll_interval: Duration,
    copies: Option<Arc<dyn Store>>,
    predecessor: Option<Predecessor>,
    has_agreed: bool,
}

impl Acme {
    /// Begins with the store for certificates, their keys and the account. Instances that share the store
    /// share these.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            certificates: Vec::new(),
            email: None,
            authorities: Vec::new(),
            challenges: vec![Challenge::TlsAlpn01],
            dns: None,
            key_type: KeyType::default(),
            answers: ChallengeAnswers::new(),
            poll_interval: POLL_INTERVAL,
            copies: None,
            predecessor: None,
            has_agreed: false,
        }
    }

    /// Adds a certificate for these names: one certificate has them all. A wildcard such as `*.a.example`
    /// needs a [`dns_provider`](Self::dns_provider).
    ///
    /// # Errors
    ///
    /// If there is no name or there are more than 100, or if one is no DNS name or is there twice.
    pub fn certificate<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let names = Names::new(names)?;
        if self
            .certificates
            .iter()
            .any(|other| other.id() == names.id())
        {
            let why = format!("{names}: there is a certificate of these names already");
            return Err(ConfigError::new("domains", why));
        }
        self.certificates.push(names);
        Ok(self)
    }

    /// States whether the operator agrees to the terms of service of the authorities (RFC 8555 §7.3.3).
    /// Let's Encrypt's are at <https://letsencrypt.org/repository/>.
    ///
    /// Default: `false`, and nothing starts.
    pub fn terms_of_service_agreed(mut self, agreed: bool) -> Self {
        self.has_agreed = agreed;
        self
    }

    /// Sets the address to which an authority writes before it revokes a certificate.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// If it is no address.
    pub fn email(mut self, email: impl Into<String>) -> Result<Self, ConfigError> {
        let email = email.into();
        let is_of = |c: char| c.is_ascii_graphic() && !",;<>\"?".contains(c);
        let parts = email.split_once('@');
        let is_address = parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
        if !is_address || !email.chars().all(is_of) {
            return Err(ConfigError::new(
                "email",
                format!("{email:?}: an address such as \"admin@a.example\" is accepted"),
            ));
        }
        self.email = Some(email);
        Ok(self)
    }

    /// Sets the authorities, in order of preference. One that fails is passed over until its wait is
    /// over, and the next one gets the order.
    ///
    /// Default: Let's Encrypt.
    pub fn authorities(mut self, authorities: impl IntoIterator<Item = Authority>) -> Self {
        self.authorities = authorities.into_iter().collect();
        self
    }

    /// Sets how names are checked, in order of preference. After a failure, it is the next one's turn.
    ///
    /// Default: TLS-ALPN-01 alone, which needs no other listener.
    ///
    /// # Errors
    ///
    /// If the list is empty.
    pub fn challenges(
        mut self,
        challenges: impl IntoIterator<Item = Challenge>,
    ) -> Result<Self, ConfigError> {
        self.challenges.clear();
        for challenge in challenges {
            if !self.challenges.contains(&challenge) {
                self.challenges.push(challenge);
            }
        }
        if self.challenges.is_empty() {
            let why = "the list is empty; 1 or more kinds are accepted";
            return Err(ConfigError::new("challenges", why));
        }
        Ok(self)
    }

    /// Sets the zone for DNS-01. It is used for wildcards, and for other names if
    /// [`challenges`](Self::challenges) says so.
    ///
    /// Default: none.
    pub fn dns_provider(mut self, provider: impl DnsProvider) -> Self {
        self.dns = Some(Arc::new(provider));
        self
    }

    /// Sets the kind of key.
    ///
    /// Default: ECDSA with P-256.
    ///
    /// # Errors
    ///
    /// If the cryptography provider cannot make such keys.
    pub fn key_type(mut self, key_type: KeyType) -> Result<Self, ConfigError> {
        self.key_type = key_type.check()?;
        Ok(self)
    }

    /// Shares the answers to challenges with these layers and managers. Each
    /// [`Http01Layer`](super::Http01Layer) needs them.
    ///
    /// Default: answers of its own.
    pub fn answers(mut self, answers: ChallengeAnswers) -> Self {
        self.answers = answers;
        self
    }

    /// Sets how often the store is read for a certificate that another instance obtained: one read for
    /// each certificate.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// If it is under 100 ms or over an hour.
    pub fn poll_interval(mut self, interval: Duration) -> Result<Self, ConfigError> {
        if interval < Duration::from_millis(100) || interval > Duration::from_secs(3_600) {
            let why = format!("{interval:?}: 100 ms to 1 h is accepted");
            return Err(ConfigError::new("poll_interval", why));
        }
        self.poll_interval = interval;
        Ok(self)
    }

    /// Keeps a copy of each certificate in force in another store, which this instance has for itself, such
    /// as a folder beside a store in Redis. A process that starts while the store fails serves the copies;
    /// so no restart replaces a certificate by a placeholder. The private keys are in that store as well.
    ///
    /// Default: no copies.
    pub fn copies(mut self, copies: Arc<dyn Store>) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Takes over from the process before this one, which runs until this one is ready: what its
    /// [`Exporter`](super::Exporter) exported, or `None` if it exported nothing.
    ///
    /// Its certificates are put in force, so that no store is needed for them. [`load`](Self::load) then
    /// fails where the store does not answer and the process may have a certificate that it did not
    /// export: to go on would replace that by a placeholder. A certificate that it had for some of the
    /// names, under another set of names, is served until there is one for all.
    ///
    /// Default: no process is taken over from.
    pub fn predecessor(mut self, exported: Option<&[u8]>) -> Self {
        self.predecessor = Some(Predecessor::read(exported));
        self
    }

    /// Returns the mistake that [`start`](Self::start) would return.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.has_agreed {
            return Err(ConfigError::new(
                "terms_of_service_agreed",
                "false: true is accepted, once the operator has read the authority's terms",
            ));
        }
        if self.certificates.is_empty() {
            let why = "no certificate is named; 1 or more is accepted";
            return Err(ConfigError::new("domains", why));
        }
        if self.dns.is_some() {
            return Ok(());
        }
        let mut wildcards = self.certificates.iter();
        if let Some(names) = wildcards.find(|names| names.has_wildcard()) {
            let why = format!("{names}: a wildcard needs DNS-01, and no DNS provider is set");
            return Err(ConfigError::new("domains", why));
        }
        if self.challenges.contains(&Challenge::Dns01) {
            let why = "dns-01 needs a DNS provider, and none is set";
            return Err(ConfigError::new("challenges", why));
        }
        Ok(())
    }

    /// Puts the certificates in force, and starts to renew them: [`load`](Self::load), and
    /// [`LoadedAcme::start`].
    ///
    /// Everything ends when the returned [`AcmeHandle`] is dropped or [stopped](AcmeHandle::stop). The
    /// certificates stay in force.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start(self, certificates: &Certificates) -> Result<AcmeHandle, ConfigError> {
        Ok(self.load(certificates).await?.start())
    }

    /// Puts the certificates in force, and orders nothing yet. Each is read from the store and
    /// [inserted](Certificates::insert); where the store has none, or does not answer within 2 s, and there
    /// is neither a [copy](Self::copies) nor one of a [predecessor](Self::predecessor), one that
    /// no client accepts is served until the authority has issued a true one. Nothing else is waited for.
    ///
    /// With TLS-ALPN-01, it takes [`Certificates::answer_challenges`] for itself.
    ///
    /// # Errors
    ///
    /// If no certificate is named, the terms of service are not agreed to, or a wildcard or DNS-01 has no
    /// DNS provider; and where a [`predecessor`](Self::predecessor) serves better.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn load(self, certificates: &Certificates) -> Result<LoadedAcme, ConfigError> {
        self.check()?;
        let authorities = match self.authorities.is_empty() {
            true => vec![Authority::lets_encrypt()],
            false => self.authorities,
        };
        let email = &self.email;
        let accounts = authorities
            .into_iter()
            .map(|authority| Accounts::new(authority, email.clone()))
            .collect::<Result<_, _>>()?;
        self.answers.follow(&self.store);
        if self.challenges.contains(&Challenge::TlsAlpn01) {
            certificates.answer_challenges(self.answers.clone());
        }
        let (cleanups, done) = Cleanups::new();
        let common = Common {
            orders: Orders {
                store: self.store,
                answers: self.answers,
                challenges: self.challenges,
                dns: self.dns,
                key_type: self.key_type,
                cleanups,
            },
            done,
            accounts,
            certificates: certificates.clone(),
            poll_interval: self.poll_interval,
            copies: self.copies,
            predecessor: self.predecessor,
        };
        manager::load(common, self.certificates).await
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme")
            .field("certificates", &self.certificates)
            .field("authorities", &self.authorities)
            .field("challenges", &self.challenges)
            .field("key_type", &self.key_type)
            .field("email", &self.email)
            .field("copies", &self.copies.is_some())
            .finish_non_exhaustive()
    }
}

pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(60);
