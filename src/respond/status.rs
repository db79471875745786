//! The status of each kind of error, and its text.
//!
//! 502 says that a backend did wrong, 503 that none could be asked now, 504 that one took too long:
//! clients and balancers in front retry by it. The table in the module's docs is compared with this
//! one by a test.

use http::StatusCode;

use crate::error::ErrorKind;

/// Returns the status that a client gets for this kind of failure.
#[must_use]
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest | ErrorKind::ClientBody => StatusCode::BAD_REQUEST,
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::ClientBodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::LoadShed
        | ErrorKind::Local
        | ErrorKind::NoBackend
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotRouted => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::ConnectTimeout
        | ErrorKind::RequestWriteTimeout
        | ErrorKind::ResponseBodyTimeout
        | ErrorKind::ResponseHeadTimeout
        | ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Connect
        | ErrorKind::ConnectTls
        | ErrorKind::RequestWrite
        | ErrorKind::ResponseBody
        | ErrorKind::ResponseClosed
        | ErrorKind::ResponseHead
        | ErrorKind::Service
        | ErrorKind::Upgrade => StatusCode::BAD_GATEWAY,
    }
}

/// Returns the status and its reason, as a body.
pub(super) fn plain(status: StatusCode) -> &'static [u8] {
    match status.as_u16() {
        400 => b"400 Bad Request\n",
        405 => b"405 Method Not Allowed\n",
        408 => b"408 Request Timeout\n",
        413 => b"413 Payload Too Large\n",
        502 => b"502 Bad Gateway\n",
        503 => b"503 Service Unavailable\n",
        504 => b"504 Gateway Timeout\n",
        _ => b"500 Internal Server Error\n",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        // A row has the kinds of one status, in the order of their names.
        let mut rows: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for kind in ErrorKind::ALL {
            let status = status(kind);
            let text = plain(status);
            assert!(text.starts_with(status.as_str().as_bytes()), "{kind}");
            let row = rows.entry(status.as_u16()).or_default();
            row.push(kind.as_str());
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(status, mut kinds)| {
                kinds.sort();
                (format!("`{}`", kinds.join("`, `")), status.to_string())
            })
            .collect();
        let compared: Vec<_> = rows
            .iter()
            .map(|(kinds, status)| (kinds.as_str(), status.clone()))
            .collect();
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
