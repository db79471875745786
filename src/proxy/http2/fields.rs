//! The fields of HTTP/2 messages: those sent to the backend, and those received from it.
//!
//! The decision which fields pass is that of `headers`; here it is written into a map, as `h2`
//! encodes one. Pseudo-fields are made of the request's parts by `h2`: `:authority` is the host for
//! the backend, and no Host field is sent beside it.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header};

use crate::{
    error::{Error, ErrorKind},
    pool::Backend,
    proxy::{
        config::Settings,
        headers::{Length, ScannedHead},
    },
    wire::{fields::trim_values, framing::keep_one_length, trailers},
};

/// Makes the head of the request for the backend.
///
/// # Errors
///
/// `BadRequest` if the parts make no valid URI, which a validated host and path do not.
pub(super) fn request(
    settings: &Settings,
    backend: &Backend,
    scanned: &ScannedHead<'_>,
    length: Length,
) -> Result<Request<()>, Error> {
    let parts = scanned.parts;
    let mut target = Vec::new();
    scanned.write_target(backend, &mut target);
    // Built from its parts: `*` after an authority would be parsed as a part of it.
    let uri = Uri::builder()
        .scheme(backend.scheme().as_str())
        .authority(scanned.host_for(backend, settings))
        .path_and_query(target)
        .build()
        .map_err(|error| Error::new(ErrorKind::BadRequest).with_source(error))?;
    let mut fields = HeaderMap::with_capacity(parts.headers.len() + 4);
    scanned.fields(settings, &mut fields);
    if let Length::Exact(length) = length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    if scanned.accepts_trailers() {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

/// Prepares the fields of a response for the client. h2 has refused what RFC 9113 §8.2.2 forbids, and
/// lengths that contradict each other.
///
/// # Errors
///
/// With the reason, for a response that is refused: over 100 fields, as over HTTP/1.1.
pub(super) fn clean(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    if fields.len() > MAX_FIELDS {
        return Err("more than 100 fields");
    }
    fields.remove(header::TE);
    trim_values(fields);
    // RFC 9110 §8.6 forbids a length in these.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        fields.remove(header::CONTENT_LENGTH);
    }
    keep_one_length(fields);
    Ok(())
}

/// Removes the fields that must not be trailers. h2 removes pseudo-fields itself.
pub(super) fn keep_trailers(fields: &mut HeaderMap, nominated: &[HeaderName]) {
    trailers::retain(fields, nominated);
    trim_values(fields);
}

/// The limit of HTTP/1.1.
const MAX_FIELDS: usize = 100;
