//! What a certificate says: its names, its validity, its subject.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{SignatureAlgorithm, pki_types::CertificateDer};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, time::ASN1Time};

use super::{crypto::sha256, distinguished_name};
use crate::{calendar::date, context::CertificateInfo};

/// What this process needs to know of a certificate of its own.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The DNS names in lower case, those with `*.` included.
    pub(crate) names: Box<[Box<str>]>,
    /// True if there is a subjectAltName; it may hold addresses only.
    pub(crate) has_names: bool,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The serial number in hexadecimal, two digits a byte.
    pub(crate) serial: Box<str>,
    /// The subject's public key with its algorithm, in DER.
    pub(crate) public_key: Box<[u8]>,
    pub(crate) subject: Box<[u8]>,
    pub(crate) issuer: Box<[u8]>,
    /// The issuer as text (RFC 4514).
    pub(crate) issuer_name: Box<str>,
}

impl Facts {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = parse(certificate)?;
        let names = dns_names(&parsed)?;
        Ok(Self {
            has_names: names.is_some(),
            names: names.unwrap_or_default(),
            not_before: system_time(parsed.validity().not_before),
            not_after: system_time(parsed.validity().not_after),
            serial: hex(parsed.raw_serial()).into(),
            public_key: parsed.public_key().raw.into(),
            subject: parsed.subject().as_raw().into(),
            issuer: parsed.issuer().as_raw().into(),
            issuer_name: distinguished_name::text(parsed.issuer()).into(),
        })
    }

    /// Describes the certificate, whose key is of this kind.
    pub(crate) fn describe(
        &self,
        certificate: &CertificateDer<'_>,
        key: SignatureAlgorithm,
    ) -> CertificateInfo {
        CertificateInfo {
            id: None,
            path: None,
            names: self.names.clone(),
            issuer: self.issuer_name.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            serial: self.serial.clone(),
            fingerprint: hex(&sha256(certificate)).into(),
            key: match key {
                SignatureAlgorithm::RSA => "RSA",
                SignatureAlgorithm::ECDSA => "ECDSA",
                SignatureAlgorithm::ED25519 => "Ed25519",
                _ => "other",
            },
            on_demand: false,
        }
    }

    /// Returns true if a client that asks for `name`, in lower case, accepts the certificate for it.
    pub(crate) fn covers(&self, name: &str) -> bool {
        // A wildcard stands for one whole label (RFC 9525 §6.3).
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(rest) => Some(rest) == parent,
            None => **own == *name,
        })
    }
}

pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, String> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("the certificate cannot be read: bytes follow its end".into()),
        Err(error) => Err(format!("the certificate cannot be read: {error}")),
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Result<Option<Box<[Box<str>]>>, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| format!("its subjectAltName cannot be read: {error}"))?;
    let lower_case = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    };
    Ok(names.map(|names| {
        let names = names.value.general_names.iter();
        names.filter_map(lower_case).collect()
    }))
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let moved = match time.timestamp() < 0 {
        true => UNIX_EPOCH.checked_sub(seconds),
        false => UNIX_EPOCH.checked_add(seconds),
    };
    moved.unwrap_or(UNIX_EPOCH)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let digits = bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]);
    digits.collect()
}

/// Writes a time for an error or a log line: `2027-03-01 12:00:00 UTC`.
pub(crate) fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_facts_of_a_certificate_are_read() {
        let mut params =
            rcgen::CertificateParams::new(["A.test".into(), "*.b.test".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2055, 1, 2);
        params.serial_number = Some(vec![0x1f, 0, 0xab].into());
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let facts = Facts::of(made.der()).unwrap();
        let names: Vec<&str> = facts.names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["a.test", "*.b.test"]);
        assert_eq!(utc(facts.not_before), "2020-02-29 00:00:00 UTC");
        assert_eq!(utc(facts.not_after), "2055-01-02 00:00:00 UTC");
        assert_eq!(&*facts.serial, "1f00ab");
        assert_eq!(facts.subject, facts.issuer);
        let longer = [made.der(), &b"\0"[..]].concat();
        let error = Facts::of(&longer.into()).unwrap_err();
        assert!(error.contains("follow its end"), "{error}");
    }
}
