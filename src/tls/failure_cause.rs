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
        // A client of TLS 1.3 left out an extension that it must send (RFC 8446 §9.2), or sent parts that
        // do not fit together. Clients of older versions are recognized by their version before.
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
        // The kernel gave the client up (tcp(7), TCP_USER_TIMEOUT), or learned that no way leads to it.
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut
        | io::ErrorKind::UnexpectedEof => HandshakeFailure::ClientClosed,
        _ => HandshakeFailure::Other,
    }
}

/// The text of rustls for a resolver that has no certificate. The test of the cause over a socket fails
/// if it changes.
const NO_CERTIFICATE: &str = "no server certificate chain resolved";

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, PeerMisbehaved};

    use super::*;

    fn socket(kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, "of the socket")
    }

    #[test]
    fn an_end_of_the_connection_is_the_clients_and_what_is_left_is_other() {
        for kind in [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::NotConnected,
            io::ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof,
        ] {
            let cause = of_session(&socket(kind));
            assert_eq!(cause, HandshakeFailure::ClientClosed, "{kind:?}");
        }
        for kind in [io::ErrorKind::OutOfMemory, io::ErrorKind::PermissionDenied] {
            assert_eq!(
                of_session(&socket(kind)),
                HandshakeFailure::Other,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_error_of_rustls_is_read_through_that_of_the_stream() {
        for (error, cause) in [
            (
                Error::InvalidCertificate(CertificateError::Expired),
                HandshakeFailure::ClientCertificateInvalid,
            ),
            (
                Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage),
                HandshakeFailure::Malformed,
            ),
            (Error::General("another".into()), HandshakeFailure::Other),
            // Faults of this process.
            (Error::EncryptError, HandshakeFailure::Other),
            (Error::FailedToGetRandomBytes, HandshakeFailure::Other),
            (Error::FailedToGetCurrentTime, HandshakeFailure::Other),
        ] {
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            assert_eq!(of_session(&wrapped), cause, "{error:?}");
        }
    }
}
