//! Responses, and the header fields that all of them have.
//!
//! Codes are for programs and never change; messages are for people and may. Every response has the
//! fields of [`SECURITY`], errors included: a cached 401, or an error that a browser guesses to be
//! HTML, would be a hole like any other.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Body, authorize::Refusal, fields::BadBody};

/// Makes a response of a text. A HEAD request gets the head of the response to a GET.
pub(super) fn text(
    method: &Method,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    let text = text.into();
    let length = text.len();
    let mut response = Response::new(match *method == Method::HEAD {
        true => Body::default(),
        false => Body::text(text),
    });
    let headers = response.headers_mut();
    // Of the GET, for HEAD as well (RFC 9110 §8.6).
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    secured(response)
}

/// Makes a response of a JSON value.
pub(super) fn json(method: &Method, status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(method, "application/json", format!("{value}\n"));
    *response.status_mut() = status;
    response
}

/// Makes a response of a stable code and a message for people.
pub(super) fn error(
    method: &Method,
    status: StatusCode,
    code: &str,
    message: &str,
) -> Response<Body> {
    json(method, status, &json!({"error": code, "message": message}))
}

/// Adds what every response has: it is not stored, not sniffed, not framed and not read by others.
pub(super) fn secured(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// 404 for a path that is none of the API.
pub(super) fn not_found(method: &Method) -> Response<Body> {
    let message =
        "the paths are /status, /status.json, /status/events, /metrics and /backends/{id}/{action}";
    error(method, StatusCode::NOT_FOUND, "not_found", message)
}

/// 404 for an id that is none of the pool.
pub(super) fn unknown_backend(id: &str) -> Response<Body> {
    let message = format!("no backend of the pool has the id {id:?}");
    error(
        &Method::POST,
        StatusCode::NOT_FOUND,
        "unknown_backend",
        &message,
    )
}

/// 405 with the methods that the path has (RFC 9110 §15.5.6).
pub(super) fn method_not_allowed(method: &Method, allowed: &'static str) -> Response<Body> {
    let message = format!("the methods of this path are {allowed}");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut response = error(method, status, "method_not_allowed", &message);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// 503 for a viewer that gets no stream.
pub(super) fn no_stream(code: &str, message: &str) -> Response<Body> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = error(&Method::GET, status, code, message);
    let after = HeaderValue::from_static("10");
    response.headers_mut().insert(header::RETRY_AFTER, after);
    response
}

/// 401 with the challenge that RFC 9110 §11.6.1 asks for, or 403.
pub(super) fn refused(refusal: &Refusal) -> Response<Body> {
    let of = |status, code, message: &str| error(&Method::POST, status, code, message);
    match refusal {
        Refusal::Forbidden(reason) => of(StatusCode::FORBIDDEN, "forbidden", reason),
        Refusal::ReadOnly => {
            let message = "the API is read-only: neither a token nor an authorizer is configured";
            of(StatusCode::FORBIDDEN, "read_only", message)
        }
        Refusal::Unauthenticated(reason) => {
            let mut response = of(StatusCode::UNAUTHORIZED, "unauthenticated", reason);
            let challenge = HeaderValue::from_static("Bearer realm=\"evenkeel\"");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
    }
}

/// 403, whatever credentials the request has.
pub(super) fn cross_origin() -> Response<Body> {
    let message = "a page of another origin sent the request";
    error(
        &Method::POST,
        StatusCode::FORBIDDEN,
        "cross_origin",
        message,
    )
}

/// 400, or 415 for a type that is not read (RFC 9110 §15.5.16).
pub(super) fn bad_body(bad: &BadBody) -> Response<Body> {
    let of = |status, code, message: &str| error(&Method::POST, status, code, message);
    match bad {
        BadBody::Field { name, message } => {
            let value = json!({"error": "bad_field", "field": name, "message": message});
            json(&Method::POST, StatusCode::BAD_REQUEST, &value)
        }
        BadBody::Malformed(message) => of(StatusCode::BAD_REQUEST, "bad_body", message),
        BadBody::MediaType => {
            let message = "a body is application/json or application/x-www-form-urlencoded";
            of(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "bad_media_type",
                message,
            )
        }
    }
}

/// 413 (RFC 9110 §15.5.14). What is left of the body is not read.
pub(super) fn body_too_large(limit: usize) -> Response<Body> {
    let message = format!("a body of up to {limit} bytes is accepted");
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    error(&Method::POST, status, "body_too_large", &message)
}

/// 400; the client is mostly gone and sees nothing of it.
pub(super) fn broken_body() -> Response<Body> {
    let message = "the body ended early";
    error(&Method::POST, StatusCode::BAD_REQUEST, "bad_body", message)
}

const SECURITY: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];
