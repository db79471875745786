//! The common name of a certificate's subject. Pure: no I/O, no clock.
//!
//! A reader of its own, since a certificate parser would be a dependency for one field of the PROXY
//! header. It reads tags and lengths only and never decodes a value; malformed input ends it with
//! `None` (a property test feeds it garbage).
//!
//! The path through the structure: certificate, its first part, then past an optional version, the
//! serial number, the algorithm, the issuer and the validity to the subject; in the subject, the
//! first attribute 2.5.4.3.

/// Returns the first common name of the subject (RFC 5280 §4.1); `None` if there is none, or if the
/// certificate is not DER. The certificate was verified before, so that this reads only its structure.
pub(super) fn common_name(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = read(certificate)?;
    let (_, mut rest, _) = read(certificate)?;
    if rest.first() == Some(&VERSION) {
        (_, _, rest) = read(rest)?;
    }
    // The serial number, the signature algorithm, the issuer and the validity.
    for _ in 0..4 {
        (_, _, rest) = read(rest)?;
    }
    let (_, mut subject, _) = read(rest)?;
    while let Some((_, mut set, after)) = read(subject) {
        while let Some((_, attribute, next)) = read(set) {
            let (_, kind, value) = read(attribute)?;
            if kind == COMMON_NAME {
                let (_, name, _) = read(value)?;
                return Some(name);
            }
            set = next;
        }
        subject = after;
    }
    None
}

/// Returns the tag and the value of the first element, and what follows it.
fn read(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        // The number of bytes of the length. A certificate has less than 16 MiB.
        long => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            if bytes.is_empty() || bytes.len() > 3 {
                return None;
            }
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

/// The tag of the version, which version 1 leaves out.
const VERSION: u8 = 0xa0;
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_found_behind_others() {
        for (name, found) in [("ä client", Some("ä client")), ("", None)] {
            let mut params = rcgen::CertificateParams::new([]).unwrap();
            let mut subject = rcgen::DistinguishedName::new();
            subject.push(rcgen::DnType::CountryName, "CH");
            if found.is_some() {
                subject.push(rcgen::DnType::CommonName, name);
            }
            params.distinguished_name = subject;
            let key = rcgen::KeyPair::generate().unwrap();
            let made = params.self_signed(&key).unwrap();
            assert_eq!(common_name(made.der()), found.map(str::as_bytes));
            // Cut anywhere: no panic.
            for end in 0..made.der().len() {
                let _ = common_name(&made.der()[..end]);
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = common_name(&bytes);
        }
    }
}
