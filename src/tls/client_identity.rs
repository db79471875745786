//! Reads what a client's verified certificate says.

use std::{fmt::Write, net::IpAddr, slice};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    x509::X509Name,
};

use super::x509;
use crate::{connect::crypto::sha256, context::ClientIdentity};

/// Returns the identity; `None` without a certificate, or if it cannot be read.
pub(super) fn read(chain: &[CertificateDer<'_>]) -> Option<Box<ClientIdentity>> {
    let (leaf, rest) = chain.split_first()?;
    let parsed = match x509::parse(leaf) {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(target: "evenkeel::tls", error, "a client's certificate cannot be read");
            return None;
        }
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().filter_map(name));
    Some(Box::new(ClientIdentity {
        subject: distinguished_name(parsed.subject()).into(),
        issuer: distinguished_name(parsed.issuer()).into(),
        names: names.into_iter().flatten().collect(),
        serial: x509::hex(parsed.raw_serial()).into(),
        fingerprint: x509::hex(&sha256(leaf)).into(),
        not_after: x509::system_time(parsed.validity().not_after),
        client_cert: field(slice::from_ref(leaf))?,
        client_cert_chain: field(rest),
    }))
}

fn name(name: &GeneralName<'_>) -> Option<Box<str>> {
    let text = match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        GeneralName::IPAddress(bytes) => format!("IP:{}", address(bytes)?),
        _ => return None,
    };
    Some(text.into())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Writes a name as RFC 4514 says: the last part first, and special characters escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push(',');
        }
        for (n, attribute) in part.iter().enumerate() {
            if n > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type();
            let id = oid.to_id_string();
            match oid2abbrev(oid, oid_registry()) {
                Ok(abbreviation) if SHORT.contains(&abbreviation) => text.push_str(abbreviation),
                _ => text.push_str(&id),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => {
                    let _ = write!(text, "#{}", x509::hex(attribute.as_slice()));
                }
            }
        }
    }
    text
}

/// Escapes a value (RFC 4514 §2.4). Control characters are escaped as well: the text stands in logs.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (n, c) in value.chars().enumerate() {
        let is_edge = (n == 0 && matches!(c, ' ' | '#')) || (n == last && c == ' ');
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => text.extend(['\\', c]),
            c if is_edge => text.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
}

/// Writes certificates as a list of byte sequences (RFC 9440 §2, RFC 9651 §3.3.5).
fn field(certificates: &[CertificateDer<'_>]) -> Option<HeaderValue> {
    if certificates.is_empty() {
        return None;
    }
    let mut value = String::new();
    for certificate in certificates {
        if !value.is_empty() {
            value.push_str(", ");
        }
        value.push(':');
        STANDARD.encode_string(certificate, &mut value);
        value.push(':');
    }
    HeaderValue::from_maybe_shared(value.into_bytes()).ok()
}

/// The short names of RFC 4514 §3, and that of the e-mail address.
const SHORT: [&str; 10] = [
    "CN", "L", "ST", "O", "OU", "C", "STREET", "DC", "UID", "Email",
];

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_says_its_names() {
        let mut params = CertificateParams::new(["a.test".into(), "10.0.0.1".into()]).unwrap();
        let uri = "spiffe://a.test/app".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let mail = "me@a.test".try_into().unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(mail));
        params.distinguished_name = rcgen::DistinguishedName::new();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CountryName, "NL");
        subject.push(DnType::OrganizationName, "A, B + C");
        subject.push(DnType::CommonName, " #x\n\"y\" ");
        params.serial_number = Some(vec![1, 0xab].into());
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let chain = [made.der().clone(), made.der().clone(), made.der().clone()];
        let identity = read(&chain).unwrap();
        assert_eq!(
            &*identity.subject,
            "CN=\\ #x\\0a\\\"y\\\"\\ ,O=A\\, B \\+ C,C=NL"
        );
        assert_eq!(identity.subject, identity.issuer);
        let names: Vec<_> = identity.names.iter().map(|name| &**name).collect();
        let wanted = [
            "DNS:a.test",
            "IP:10.0.0.1",
            "URI:spiffe://a.test/app",
            "email:me@a.test",
        ];
        assert_eq!(names, wanted);
        assert_eq!(&*identity.serial, "01ab");
        assert_eq!(identity.fingerprint.len(), 64);
        let own = identity.client_cert().to_str().unwrap();
        let encoded = own.strip_prefix(':').unwrap().strip_suffix(':').unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), **made.der());
        let chain = identity.client_cert_chain().unwrap();
        assert_eq!(chain.to_str().unwrap(), format!("{own}, {own}"));
        assert!(read(&[]).is_none());
        assert!(read(&[CertificateDer::from(vec![0x30, 0])]).is_none());
    }
}
