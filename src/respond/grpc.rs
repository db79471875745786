//! The response to a gRPC call that failed: trailers only, since clients read any other body as a
//! broken frame.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{ResponseBody, status};
use crate::error::{Error, ErrorKind};

/// Returns true for a call of gRPC ("gRPC over HTTP2", Requests). gRPC-Web is another protocol.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    *request.method() == Method::POST && is_grpc(request.headers())
}

/// `application/grpc`, with a subtype (`+proto`) or parameters; `application/grpc-web` is neither.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some((begin, rest)) = value.as_bytes().split_at_checked(MEDIA_TYPE.len()) else {
        return false;
    };
    begin.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes()) && matches!(rest, [] | [b'+' | b';', ..])
}

/// Makes a Trailers-Only response ("gRPC over HTTP2", Responses): the trailers are in the head.
pub(super) fn answer<R>(error: &Error) -> Response<ResponseBody<R>> {
    let mut response = Response::new(ResponseBody::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert("grpc-status", grpc_status(error.kind()).into());
    // The reason of the status, without details of the failure. It needs no percent-encoding.
    let reason = status(error.kind()).canonical_reason().unwrap_or_default();
    headers.insert("grpc-message", HeaderValue::from_static(reason));
    if let Some(after) = error.retry_after() {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        headers.insert("grpc-retry-pushback-ms", millis.into());
    }
    response
}

/// Returns the `grpc-status` that a client of gRPC gets for this kind of failure.
///
/// ```
/// use evenkeel::{ErrorKind, respond::{grpc_status, status}};
///
/// // An overloaded pool: 503, or RESOURCE_EXHAUSTED.
/// assert_eq!(status(ErrorKind::Overloaded), 503);
/// assert_eq!(grpc_status(ErrorKind::Overloaded), 8);
/// ```
#[must_use]
pub fn grpc_status(kind: ErrorKind) -> u16 {
    match kind {
        // The call broke off on the client's side: INTERNAL would blame the server.
        ErrorKind::ClientBody => CANCELLED,
        // Nothing was sent, so the client may retry.
        ErrorKind::ConnectTimeout => UNAVAILABLE,
        ErrorKind::BodyTooLarge
        | ErrorKind::LoadShed
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout => RESOURCE_EXHAUSTED,
        kind => match status(kind) {
            StatusCode::METHOD_NOT_ALLOWED => UNIMPLEMENTED,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => DEADLINE_EXCEEDED,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
            _ => INTERNAL,
        },
    }
}

const MEDIA_TYPE: &str = "application/grpc";
const CANCELLED: u16 = 1;
const DEADLINE_EXCEEDED: u16 = 4;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_of_grpc_is_answered_so() {
        for (method, value, is) in [
            ("POST", "application/grpc", true),
            ("POST", "application/grpc+proto", true),
            ("POST", "Application/GRPC;v=1", true),
            ("POST", "application/grpc-web", false),
            ("POST", "application/grpc-web+proto", false),
            ("POST", "application/grpcx", false),
            ("POST", "application/json", false),
            ("POST", "", false),
            ("GET", "application/grpc", false),
        ] {
            let request = Request::builder().method(method);
            let request = request.header("content-type", value).body(()).unwrap();
            assert_eq!(is_call(&request), is, "{method} {value}");
        }
        assert!(!is_call(&Request::post("/").body(()).unwrap()));
    }

    #[test]
    fn the_doc_table_matches_the_code() {
        let docs = include_str!("mod.rs");
        let (_, table) = docs.split_once("| kind | `grpc-status` |").unwrap();
        let (table, _) = table.split_once("//! #").unwrap();
        for (kind, code) in [
            (ErrorKind::BadRequest, 13),
            (ErrorKind::BodyTooLarge, 8),
            (ErrorKind::ClientBody, 1),
            (ErrorKind::ClientBodyTimeout, 4),
            (ErrorKind::Connect, 14),
            (ErrorKind::ConnectTimeout, 14),
            (ErrorKind::ConnectTls, 14),
            (ErrorKind::LoadShed, 8),
            (ErrorKind::MethodRefused, 12),
            (ErrorKind::NoBackend, 14),
            (ErrorKind::NotRouted, 13),
            (ErrorKind::Overloaded, 8),
            (ErrorKind::QueueTimeout, 8),
            (ErrorKind::ResponseClosed, 14),
            (ErrorKind::ResponseHeadTimeout, 4),
            (ErrorKind::Service, 14),
            (ErrorKind::Timeout, 4),
        ] {
            assert_eq!(grpc_status(kind), code, "{kind}");
            let name = format!("`{kind}`");
            let named = table.lines().find(|line| line.contains(&name));
            let row = named.or_else(|| {
                let with = status(kind).as_u16().to_string();
                let others = |line: &&str| line.contains("others with") && line.contains(&with);
                table.lines().find(others)
            });
            let wanted = format!("| {code} (");
            assert!(
                row.is_some_and(|row| row.contains(&wanted)),
                "{kind}: {row:?}"
            );
        }
    }
}
