//! [`HandshakeFailure`]: why a TLS handshake failed.

/// Why a TLS handshake with a client failed.
///
/// The set is fixed, whatever clients send, so that it can label a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// The client sent an alert that refuses the server's certificate: its issuer is unknown to the
    /// client, it has expired, or it is not for the name.
    CertificateRefused,
    /// The client sent another alert.
    ClientAlert,
    /// The client's certificate is invalid: expired, revoked, of an unknown issuer, or not for clients.
    ClientCertificateInvalid,
    /// The client sent no certificate, and the host requires one.
    ClientCertificateMissing,
    /// The client closed or reset the connection in the middle of the handshake.
    ClientClosed,
    /// The client sent what is not TLS, such as a header of the PROXY protocol that the listener does not
    /// expect, or a message that breaks the rules of TLS.
    Malformed,
    /// The client offers by ALPN only protocols that the listener does not have.
    NoSharedAlpn,
    /// Client and server share no cipher suite, no key exchange group or no signature scheme.
    NoSharedCipher,
    /// The client offers only versions of TLS that the host does not accept.
    NoSharedVersion,
    /// Another reason, within this process.
    Other,
    /// The client sent an HTTP request in cleartext.
    PlaintextHttp,
    /// The client began the handshake and did not complete it within the time-out, or its certificate was
    /// not looked up within it.
    Timeout,
    /// So many handshakes ran at once that this one did not begin within its time-out.
    TooManyHandshakes,
    /// No certificate is there for the server name that the client asked for, or the client asked for
    /// none.
    UnknownServerName,
}

impl HandshakeFailure {
    /// All of them, in the order of their names.
    pub(crate) const ALL: [Self; 14] = [
        Self::CertificateRefused,
        Self::ClientAlert,
        Self::ClientCertificateInvalid,
        Self::ClientCertificateMissing,
        Self::ClientClosed,
        Self::Malformed,
        Self::NoSharedAlpn,
        Self::NoSharedCipher,
        Self::NoSharedVersion,
        Self::Other,
        Self::PlaintextHttp,
        Self::Timeout,
        Self::TooManyHandshakes,
        Self::UnknownServerName,
    ];

    /// Returns the name in logs and metrics. It does not change between versions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateRefused => "certificate_refused",
            Self::ClientAlert => "client_alert",
            Self::ClientCertificateInvalid => "client_certificate_invalid",
            Self::ClientCertificateMissing => "client_certificate_missing",
            Self::ClientClosed => "client_closed",
            Self::Malformed => "malformed",
            Self::NoSharedAlpn => "no_shared_alpn",
            Self::NoSharedCipher => "no_shared_cipher",
            Self::NoSharedVersion => "no_shared_version",
            Self::Other => "other",
            Self::PlaintextHttp => "plaintext_http",
            Self::Timeout => "timeout",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::UnknownServerName => "unknown_server_name",
        }
    }
}
