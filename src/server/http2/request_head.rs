//! Validates request heads beyond what the codec checks, and answers those that are refused.
//!
//! | what | status |
//! |---|---|
//! | over 100 fields (the parts of a cookie count as one) | 431 |
//! | `:path` with bytes that are not ASCII | 400 |
//! | `:authority` or Host that is not a host, two Host fields, Host other than `:authority` | 400 |
//! | a host that the TLS session does not cover | 421 |
//!
//! The codec has refused the rest with a stream error before: pseudo-fields twice or missing, names
//! in upper case, connection-specific fields, a body of another length. The rules are those of
//! HTTP/1.1's reader, so that a backend gets the same requests from both
//! (`what_is_refused_has_a_status_and_never_reaches_the_service`).
//!
//! Only the stream ends: HTTP/2 knows where the next request begins.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode, header, request::Parts};

use super::fields;
use crate::{
    context::{ConnInfo, ConnectionEventKind},
    server::{http::ConnectionReporter, http1::MISDIRECTED},
    wire::{
        fields::{MAX_FIELDS, trim_values},
        target::is_host,
    },
};

/// The reason to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: &'static str,
}

/// Checks a request head beyond what the codec does, and trims its field values.
///
/// # Errors
///
/// The first rule that is broken, in the order of the table above. The field values are trimmed
/// only if none was broken before.
pub(super) fn check(head: &mut Parts) -> Result<(), Refusal> {
    if head.headers.len() > MAX_FIELDS && lines(&head.headers) > MAX_FIELDS {
        return Err(Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            reason: "more than 100 fields",
        });
    }
    trim_values(&mut head.headers);
    // A fragment cannot be detected, since the codec has removed it.
    // `http::Uri` accepts bytes over 0x7F, which backends decode in different ways.
    let target = head.uri.path_and_query();
    if target.is_some_and(|target| !target.as_str().is_ascii()) {
        return Err(malformed(":path is not ASCII"));
    }
    check_host(head)
}

/// Checks that the TLS session covers the host (RFC 9110 §15.5.20).
///
/// A connection that was authenticated for one host must not carry requests for another one with a
/// stricter policy (sozu#369, rpxy#647).
pub(super) fn check_policy(head: &Parts, conn: &ConnInfo) -> Result<(), Refusal> {
    match conn.tls() {
        Some(tls) if !tls.covers_request(&head.uri, &head.headers) => Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            reason: MISDIRECTED,
        }),
        _ => Ok(()),
    }
}

/// Counts the fields; a cookie in parts is one (RFC 9113 §8.2.3), as an HTTP/1.1 backend gets it.
#[cold]
fn lines(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

/// Checks that `:authority` and Host are valid and equal (RFC 9113 §8.3.1).
///
/// An absent Host is right if `:authority` is there; without both the request has no host, and a
/// layer that needs one refuses it.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let authority = head.uri.authority().map(|name| name.as_str().as_bytes());
    if authority.is_some_and(|name| !is_host(name)) {
        return Err(malformed(":authority is not a host"));
    }
    let mut fields = head.headers.get_all(header::HOST).iter();
    let Some(field) = fields.next() else {
        return Ok(());
    };
    if fields.next().is_some() {
        return Err(malformed("more than one Host"));
    }
    match authority {
        Some(name) if !name.eq_ignore_ascii_case(field.as_bytes()) => {
            Err(malformed("Host is not :authority"))
        }
        None if !is_host(field.as_bytes()) => Err(malformed("Host is not a host")),
        _ => Ok(()),
    }
}

fn malformed(reason: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        reason,
    }
}

/// Answers a refused request, and reports it.
#[cold]
pub(super) fn refuse(
    refusal: Refusal,
    head: &Parts,
    reporter: &ConnectionReporter,
    reply: &mut SendResponse<Bytes>,
) {
    let Refusal { status, reason } = refusal;
    let kind = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ConnectionEventKind::HeadTooLarge,
        _ => ConnectionEventKind::BadRequest,
    };
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    reporter.refuse(kind, reason, status, Some(method), Some(path));
    let mut response = Response::new(());
    *response.status_mut() = status;
    fields::normalize(response.headers_mut(), Some(0), false);
    if let Err(error) = reply.send_response(response, true) {
        tracing::debug!(target: "evenkeel::server", %error, "a refusal cannot be sent");
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn checked(uri: &str, fields: &[(&'static str, &'static str)]) -> Result<HeaderMap, u16> {
        let mut request = Request::get(uri).body(()).unwrap();
        for &(name, value) in fields {
            request
                .headers_mut()
                .append(name, HeaderValue::from_static(value));
        }
        let (mut head, ()) = request.into_parts();
        match check(&mut head) {
            Ok(()) => Ok(head.headers),
            Err(refusal) => Err(refusal.status.as_u16()),
        }
    }

    #[test]
    fn the_one_host_is_a_host() {
        for (uri, fields, passes) in [
            ("http://a/", &[][..], true),
            ("http://a/", &[("host", "a")], true),
            ("http://a/", &[("host", " A\t")], true),
            ("http://a:1/", &[("host", "a")], false),
            ("http://a/", &[("host", "b")], false),
            ("http://a/", &[("host", "a"), ("host", "a")], false),
            ("http://u@a/", &[], false),
            ("http://a/", &[("host", "")], false),
            ("/", &[("host", "a")], true),
            ("/", &[], true),
            ("/", &[("host", "")], false),
            ("/", &[("host", "a/b")], false),
            ("/", &[("host", "a"), ("host", "b")], false),
        ] {
            let checked = checked(uri, fields).map(drop);
            let expected = if passes { Ok(()) } else { Err(400) };
            assert_eq!(checked, expected, "{uri} {fields:?}");
        }
    }

    #[test]
    fn a_target_is_ascii() {
        assert_eq!(checked("http://a/%C3%A9?b", &[]).map(drop), Ok(()));
        assert_eq!(checked("http://a/\u{e9}", &[]).map(drop), Err(400));
        assert_eq!(checked("http://a/?\u{e9}", &[]).map(drop), Err(400));
    }

    #[test]
    fn a_hundred_fields_pass_and_the_parts_of_a_cookie_are_one() {
        let many = vec![("a", "1"); MAX_FIELDS];
        assert!(checked("http://a/", &many).is_ok());
        let more = vec![("a", "1"); MAX_FIELDS + 1];
        assert_eq!(checked("http://a/", &more).map(drop), Err(431));
        let mut crumbs = vec![("cookie", "a=1"); MAX_FIELDS];
        crumbs.extend(vec![("a", "1"); MAX_FIELDS - 1]);
        assert!(checked("http://a/", &crumbs).is_ok());
        crumbs.push(("a", "1"));
        assert_eq!(checked("http://a/", &crumbs).map(drop), Err(431));
    }
}
