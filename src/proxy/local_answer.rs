//! Answers of the proxy itself: it refuses some methods, and answers OPTIONS and TRACE with
//! `Max-Forwards: 0` (RFC 9110 §7.6.2).
//!
//! Such an answer says nothing about the backend, which was not asked: the response carries
//! [`LocalReply`](crate::context::LocalReply), and `health` counts it neither as success nor as
//! failure.
//!
//! CONNECT is refused always: a proxy that opened it would be an open relay into the network
//! behind. TRACE is refused unless allowed, as its answer shows the fields that proxies on the way
//! have added (cross-site tracing).

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};

use super::{Body, config::Settings, headers::is_reflected};
use crate::{
    error::{Error, ErrorKind},
    wire::write_field,
};

/// Refuses the methods that are not forwarded.
pub(super) fn check_method(method: &Method, settings: &Settings) -> Result<(), Error> {
    match *method {
        // A reverse proxy opens no tunnels to hosts that the client names.
        Method::CONNECT => Err(ErrorKind::MethodRefused.into()),
        Method::TRACE if !settings.allow_trace => Err(ErrorKind::MethodRefused.into()),
        _ => Ok(()),
    }
}

/// Answers an OPTIONS or TRACE request as its final recipient.
///
/// The caller has checked that `Max-Forwards` is 0. An OPTIONS lists the methods that pass this
/// proxy, not those of the backend, which are unknown here.
#[cold]
pub(super) fn answer(parts: &Parts, settings: &Settings) -> Response<Body> {
    if parts.method == Method::TRACE {
        return reflect(parts);
    }
    let mut response = Response::new(Body::default());
    let allowed = match settings.allow_trace {
        true => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE",
        false => "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    };
    let fields = response.headers_mut();
    fields.insert(header::ALLOW, HeaderValue::from_static(allowed));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// Answers TRACE with the request as it came, without cookies and credentials (RFC 9110 §9.3.8).
///
/// The target is in origin form, whatever the client sent.
fn reflect(parts: &Parts) -> Response<Body> {
    let mut message = Vec::new();
    message.extend_from_slice(b"TRACE ");
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    message.extend_from_slice(target.as_bytes());
    message.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        if is_reflected(name) {
            write_field(&mut message, name.as_str(), value.as_bytes());
        }
    }
    message.extend_from_slice(b"\r\n");
    let mut response = Response::new(Body::whole(Bytes::from(message)));
    let kind = HeaderValue::from_static("message/http");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
