//! `DangerousClientTls`: TLS without the verification that makes it worth something.
//!
//! Its name says what it is, and so does every use: rustls calls such things dangerous as well.
//! Signatures are still verified, so that the handshake means that the peer holds the key of the
//! certificate which it showed; any peer can show one.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{ClientTls, crypto::provider, tls::builder};

/// Makes [`ClientTls`] that accepts any certificate.
///
/// **Any machine on the way to the backend can read and change every request.** The encryption keeps out
/// only a listener that does nothing. For a backend with a certificate of its own making, give that
/// certificate to [`ClientTls::roots_pem`] in place of this.
///
/// ```
/// use evenkeel::connect::{Connector, DangerousClientTls};
///
/// let tls = DangerousClientTls::without_verification();
/// let connector = Connector::new().tls(tls);
/// # let _: Connector = connector;
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DangerousClientTls;

impl DangerousClientTls {
    /// Accepts any certificate of a backend: expired, for another name, from any issuer.
    pub fn without_verification() -> ClientTls {
        let algorithms = provider().signature_verification_algorithms;
        let verifier = Arc::new(AcceptsAny { algorithms });
        let config = builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        ClientTls::from_config(&config).mark_dangerous()
    }
}

/// Verifies that the backend has the key of the certificate, and nothing else.
#[derive(Debug)]
struct AcceptsAny {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AcceptsAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
