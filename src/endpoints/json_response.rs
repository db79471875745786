//! Short responses in JSON.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::Body;

/// Makes a response with `Cache-Control: no-store`. A HEAD request gets the head of the response to
/// a GET.
pub(super) fn reply(status: StatusCode, text: String, method: &Method) -> Response<Body> {
    let length = text.len();
    let text = match *method == Method::HEAD {
        true => Bytes::new(),
        false => text.into(),
    };
    let mut response = Response::new(Body::new(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns `text` as a JSON string (RFC 8259 §7).
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
