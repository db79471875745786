//! The fields of a message in HTTP/2: what goes to the backend, and what comes from it.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header, request::Parts};

use crate::{
    error::{Error, ErrorKind},
    pool::Backend,
    proxy::{
        config::Settings,
        headers::{Facts, Length},
    },
    wire::trailers::is_trailer,
};

/// Makes the head of a request as the backend gets it.
pub(super) fn request(
    settings: &Settings,
    backend: &Backend,
    parts: &Parts,
    facts: &Facts<'_>,
    length: Length,
) -> Result<Request<()>, Error> {
    let mut target = Vec::new();
    facts.write_target(backend, &mut target);
    // Apart, as `*` after an authority would read as more of it.
    let uri = Uri::builder()
        .scheme(backend.scheme().as_str())
        .authority(facts.host_for(backend, settings))
        .path_and_query(target)
        .build()
        .map_err(|error| Error::new(ErrorKind::BadRequest).with_source(error))?;
    let mut fields = HeaderMap::with_capacity(parts.headers.len() + 4);
    facts.fields(settings, &mut fields);
    if let Length::Exact(length) = length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    if facts.accepts_trailers() {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

/// Makes the fields of a response fit to go on. h2 has refused what RFC 9113 §8.2.2 forbids, and
/// lengths that contradict each other.
pub(super) fn clean(fields: &mut HeaderMap) -> Result<(), &'static str> {
    if fields.len() > MOST {
        return Err("more than 100 fields");
    }
    fields.remove(header::TE);
    for value in fields.values_mut() {
        trim(value);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), true) = (lengths.next(), lengths.next().is_some()) {
        let first = first.clone();
        fields.insert(header::CONTENT_LENGTH, first);
    }
    Ok(())
}

/// Removes blanks around a value: RFC 9113 §8.2.1 forbids them, and an HTTP/1.1 reader drops them.
fn trim(value: &mut HeaderValue) {
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let bytes = value.as_bytes();
    if !bytes.first().is_some_and(is_blank) && !bytes.last().is_some_and(is_blank) {
        return;
    }
    let start = bytes.iter().take_while(|b| is_blank(b)).count();
    let rest = &bytes[start..];
    let end = rest.len() - rest.iter().rev().take_while(|b| is_blank(b)).count();
    let sensitive = value.is_sensitive();
    // A part of a valid value is valid.
    if let Ok(mut trimmed) = HeaderValue::from_bytes(&rest[..end]) {
        trimmed.set_sensitive(sensitive);
        *value = trimmed;
    }
}

/// Removes the fields that may not stand in a trailer section. Pseudo-fields never get here: h2
/// drops them.
pub(super) fn keep_trailers(fields: &mut HeaderMap) {
    let may_stay = |name: &HeaderName| is_trailer(name);
    let unfit: Vec<HeaderName> = fields.keys().filter(|n| !may_stay(n)).cloned().collect();
    for name in unfit {
        fields.remove(name);
    }
    for value in fields.values_mut() {
        trim(value);
    }
}

/// As many as in HTTP/1.1.
const MOST: usize = 100;
