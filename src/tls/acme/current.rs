//! [`Current`]: a certificate in force, and what its renewal depends on.

use std::time::SystemTime;

use instant_acme::CertificateIdentifier;
use rustls::pki_types::{CertificateDer, Der};
use x509_parser::extensions::ParsedExtension;

use super::{
    names::Names,
    renewal::{Validity, Window, position},
    stored::StoredCertificate,
};
use crate::{connect::crypto::sha256, connect::x509, error::ConfigError, tls::Certificate};

pub(super) struct Current {
    pub(super) stored: StoredCertificate,
    pub(super) validity: Validity,
    /// What the authority calls it (RFC 9773 §4.1); `None` if it does not name its issuer's key.
    pub(super) id: Option<CertificateIdentifier<'static>>,
    /// Where in a window it is renewed, from 0 to 1.
    position: f64,
}

impl Current {
    /// Reads a certificate; refuses one without these names, or one that has expired at the time `now`.
    pub(super) fn new(
        stored: StoredCertificate,
        names: &Names,
        now: SystemTime,
    ) -> Result<Self, ConfigError> {
        let source = certificate(&stored).required_names(names.iter());
        let (chain, key) = source.read()?;
        let parsed = source.parse(&chain, &key, now)?;
        let leaf = parsed.key.cert.first();
        let validity = Validity {
            from: parsed.facts.not_before,
            until: parsed.facts.not_after,
        };
        if now > validity.until {
            let until = x509::utc(validity.until);
            let why = format!("the certificate expired at {until}");
            return Err(ConfigError::new("chain", why));
        }
        Ok(Self {
            stored,
            validity,
            id: leaf.and_then(identifier),
            position: leaf.map_or(0.0, |leaf| position(&sha256(leaf))),
        })
    }

    pub(super) fn certificate(&self) -> Certificate {
        certificate(&self.stored)
    }

    pub(super) fn renewal(&self, window: Option<Window>) -> SystemTime {
        let obtained = self.stored.obtained();
        self.validity.renewal(window, self.position, obtained)
    }

    pub(super) fn is(&self, id: &str) -> bool {
        self.id.as_ref().is_some_and(|own| own.to_string() == id)
    }

    /// Returns the identifier, and its text.
    pub(super) fn identifier(&self) -> Option<(CertificateIdentifier<'static>, String)> {
        let id = self.id.clone()?;
        let text = id.to_string();
        Some((id, text))
    }
}

/// One that has expired is served until there is another: a placeholder would be no better.
pub(super) fn certificate(stored: &StoredCertificate) -> Certificate {
    Certificate::pem(stored.chain.clone(), stored.key.clone()).any_validity(true)
}

fn identifier(leaf: &CertificateDer<'_>) -> Option<CertificateIdentifier<'static>> {
    let parsed = x509::parse(leaf).ok()?;
    let mut extensions = parsed.iter_extensions().map(|e| e.parsed_extension());
    let issuer = extensions.find_map(|extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(issuer) => issuer.key_identifier.as_ref(),
        _ => None,
    })?;
    let id = CertificateIdentifier::new(
        Der::from_slice(issuer.0),
        Der::from_slice(parsed.raw_serial()),
    );
    Some(id.into_owned())
}
