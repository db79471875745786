//! Trailer fields: the fields that follow a body (RFC 9110 §6.5).
//!
//! Trailers arrive after the head was acted upon. A field that decides about the message, merged
//! into the head by a careless reader, would act after the fact: hence a list of what is refused,
//! and not of what passes, as applications name their own (`grpc-status`, digests, timings).
//!
//! The list applies in both directions and to both protocols: requests and responses, chunked
//! bodies and HTTP/2.

use http::{HeaderMap, HeaderName, header};

use super::{Malformed, connection, write_field};

/// Returns true for a field that is allowed in a trailer section. Fields that frame, route, modify
/// or authenticate a message must be known before its body (RFC 9110 §6.5.1); so must the fields in
/// which proxies describe the client.
pub(crate) fn is_trailer(name: &HeaderName) -> bool {
    match *name {
        header::AGE
        | header::AUTHORIZATION
        | header::CACHE_CONTROL
        | header::CONTENT_ENCODING
        | header::CONTENT_LENGTH
        | header::CONTENT_RANGE
        | header::CONTENT_TYPE
        | header::COOKIE
        | header::DATE
        | header::EXPECT
        | header::EXPIRES
        | header::HOST
        | header::IF_MATCH
        | header::IF_MODIFIED_SINCE
        | header::IF_NONE_MATCH
        | header::IF_RANGE
        | header::IF_UNMODIFIED_SINCE
        | header::LOCATION
        | header::MAX_FORWARDS
        | header::PRAGMA
        | header::PROXY_AUTHENTICATE
        | header::PROXY_AUTHORIZATION
        | header::RANGE
        | header::RETRY_AFTER
        | header::SET_COOKIE
        | header::TRAILER
        | header::VARY
        | header::VIA
        | header::WWW_AUTHENTICATE => false,
        _ => {
            !connection::is_hop_by_hop(name)
                && !connection::describes_client(name.as_str())
                && !connection::names_client_certificate(name.as_str())
        }
    }
}

/// Removes the fields that are not allowed in a trailer section, and the `nominated` ones, which
/// `Connection` names. Allocates only if it removes a field.
pub(crate) fn retain(trailers: &mut HeaderMap, nominated: &[HeaderName]) {
    let is_unfit = |name: &&HeaderName| !is_trailer(name) || nominated.contains(name);
    let unfit: Vec<HeaderName> = trailers.keys().filter(is_unfit).cloned().collect();
    for name in unfit {
        // Removes every value of the name.
        trailers.remove(name);
    }
}

/// Writes the last chunk and the trailer section, without the fields that are not allowed in it.
///
/// Writes all that follows the last data chunk; the caller writes nothing behind it.
pub(crate) fn write(trailers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if is_trailer(name) {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The longest trailer section in bytes. A digest, a signature or a status takes far less.
pub(crate) const MAX_TRAILERS: usize = 8 * 1_024;
pub(crate) const TOO_LONG: Malformed = Malformed::new(
    super::MalformedKind::HeadTooLarge,
    "a trailer section over 8 KiB",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_frame_route_or_authenticate_are_no_trailers() {
        for name in [
            "content-length",
            "transfer-encoding",
            "trailer",
            "host",
            "authorization",
            "cookie",
            "set-cookie",
            "connection",
            "keep-alive",
            "te",
            "upgrade",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "x-real-ip",
            "max-forwards",
        ] {
            assert!(!is_trailer(&HeaderName::from_static(name)), "{name}");
        }
        for name in [
            "etag",
            "digest",
            "grpc-status",
            "server-timing",
            "x-checksum",
        ] {
            assert!(is_trailer(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let mut trailers = HeaderMap::new();
        trailers.insert("etag", "\"a\"".parse().unwrap());
        trailers.insert("content-length", "5".parse().unwrap());
        let mut out = Vec::new();
        write(&trailers, &mut out);
        assert_eq!(out, b"0\r\netag: \"a\"\r\n\r\n");
    }
}
