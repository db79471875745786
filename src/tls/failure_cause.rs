//! The cause of a failed handshake, from the error of rustls or of the socket.

use std::io;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::context::HandshakeFailure;

/// Returns the cause of an error that a session in the middle of its handshake returned.
pub(super) fn of_session(error: &io::Error) -> HandshakeFailure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(error) => of_rustls(error),
        None => of_socket(error),
    }
}

pub(super) fn of_rustls(error: &Error) -> HandshakeFailure {
    match error {
        Error::AlertReceived(alert) if refuses_certificate(*alert) => {
            HandshakeFailure::CertificateRefused
        }
        Error::AlertReceived(_) => HandshakeFailure::ClientAlert,
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => {
            HandshakeFailure::ClientCertificateInvalid
        }
        Error::NoCertificatesPresented => HandshakeFailure::ClientCertificateMissing,
        Error::NoApplicationProtocol => HandshakeFailure::NoSharedAlpn,
        Error::PeerIncompatible(why) => of_incompatibility(why),
        Error::General(why) if why == NO_CERTIFICATE => HandshakeFailure::UnknownServerName,
        Error::DecryptError
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InappropriateMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => HandshakeFailure::Malformed,
        _ => HandshakeFailure::Other,
    }
}

fn of_incompatibility(why: &PeerIncompatible) -> HandshakeFailure {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic => HandshakeFailure::NoSharedVersion,
        PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon => HandshakeFailure::NoSharedCipher,
        // An extension is missing that each version requires of its clients.
        _ => HandshakeFailure::Malformed,
    }
}

/// The alerts by which a client refuses a certificate (RFC 8446 §6.2).
fn refuses_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::BadCertificateStatusResponse
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

fn of_socket(error: &io::Error) -> HandshakeFailure {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => HandshakeFailure::ClientClosed,
        _ => HandshakeFailure::Other,
    }
}

/// The text of rustls for a resolver that has no certificate. The test of the cause over a socket fails
/// if it changes.
const NO_CERTIFICATE: &str = "no server certificate chain resolved";
