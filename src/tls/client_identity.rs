//! Reads what a client's verified certificate says.

use std::{net::IpAddr, slice};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::{
    connect::{crypto::sha256, distinguished_name, x509},
    context::ClientIdentity,
};

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
        subject: distinguished_name::text(parsed.subject()).into(),
        issuer: distinguished_name::text(parsed.issuer()).into(),
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
