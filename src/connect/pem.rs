//! Reading of PEM files (RFC 7468), with the byte order marks and line ends of any editor.
//!
//! Errors are texts for a `ConfigError`: they name what is wrong with the file (UTF-16, an
//! encrypted key, no key at all), as "no certificate found" costs an operator an hour.
//!
//! Used for the certificates of this server, the roots and certificates towards backends, and
//! revocation lists. Blocking and pure: the caller reads the file.

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};

/// Reads all certificates.
///
/// Text between the sections is skipped; a text without a certificate yields none, and no error.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = plain(text)?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// Reads all certificate revocation lists.
pub(crate) fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let text = plain(text)?;
    CertificateRevocationListDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// Reads the first private key.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = plain(text)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if is_encrypted(&text) => ENCRYPTED.to_owned(),
        pem::Error::NoItemsFound => NO_KEY.to_owned(),
        other => other.to_string(),
    })
}

/// Removes byte order marks of UTF-8: editors on Windows write one at the beginning, and a file that
/// was joined from several has one for each.
fn plain(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    // Editors on Windows offer this as "Unicode"; every second byte would be zero.
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err("the text is UTF-16; PEM in ASCII or UTF-8 is accepted");
    }
    let mut left = text;
    let mut plain = Vec::with_capacity(text.len());
    while let Some((byte, rest)) = left.split_first() {
        left = match left.strip_prefix(MARK) {
            Some(rest) => rest,
            None => {
                plain.push(*byte);
                rest
            }
        };
    }
    Ok(plain)
}

/// Returns true if a private key needs a passphrase: PKCS #8 says so in the label (RFC 7468 §11), the
/// older forms in a field of the section (RFC 1421 §4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| matches!(byte, b'\r' | b'\n'))
        .any(|line| {
            line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
                || (line.starts_with(b"Proc-Type:")
                    && line.trim_ascii_end().ends_with(b"ENCRYPTED"))
        })
}

const MARK: &[u8] = b"\xef\xbb\xbf";
const ENCRYPTED: &str = "the private key is encrypted; only a key without a passphrase is accepted";
const NO_KEY: &str = "no private key found; a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC \
                      PRIVATE KEY is accepted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_as_any_editor_leaves_it() {
        const SECTION: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let marked = |text: &str| [MARK, text.as_bytes()].concat();
        for (text, count) in [
            (SECTION.as_bytes().to_vec(), 1),
            (SECTION.replace('\n', "\r\n").into_bytes(), 1),
            (SECTION.replace('\n', "\r").into_bytes(), 1),
            (SECTION.replace('\n', "  \n").into_bytes(), 1),
            (SECTION.trim_end().as_bytes().to_vec(), 1),
            (marked(SECTION), 1),
            (marked(&SECTION.replace('\n', "\r\n")), 1),
            ([marked(SECTION), marked(SECTION)].concat(), 2),
            (marked(""), 0),
        ] {
            let found = certificates(&text).unwrap();
            assert_eq!(found.len(), count, "{:?}", String::from_utf8_lossy(&text));
            assert!(found.iter().all(|certificate| **certificate == [0; 3]));
        }
        let wide: Vec<u8> = SECTION.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = certificates(&[b"\xff\xfe", &*wide].concat()).unwrap_err();
        assert!(error.contains("UTF-16"), "{error}");
    }

    #[test]
    fn a_key_that_needs_a_passphrase_is_named_as_such() {
        const PKCS8: &str =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        const PKCS1: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
            DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        const PLAIN: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for text in [PKCS8, PKCS1] {
            for text in [text.to_owned(), text.replace('\n', "\r\n")] {
                assert_eq!(
                    private_key(text.as_bytes()).unwrap_err(),
                    ENCRYPTED,
                    "{text}"
                );
            }
        }
        assert!(private_key(PLAIN.as_bytes()).is_ok());
        let beside = format!("ENCRYPTED no more\n{PLAIN}");
        assert!(private_key(beside.as_bytes()).is_ok());
        for text in [
            "",
            "ENCRYPTED",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(private_key(text.as_bytes()).unwrap_err(), NO_KEY, "{text}");
        }
        let broken = PLAIN.replace("AAAA", "A!AA");
        let error = private_key(broken.as_bytes()).unwrap_err();
        assert!(error.contains("base64"), "{error}");
    }
}
