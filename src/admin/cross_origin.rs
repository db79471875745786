//! Whether a page of another origin sent a request.
//!
//! The API takes credentials in a header alone, which no other origin can set. This check stands in
//! front of it for authorizers that read something a browser sends by itself, such as a client
//! certificate.
//!
//! | `Sec-Fetch-Site` | `Origin` | the order is |
//! |---|---|---|
//! | `same-origin`, `none` | any | accepted |
//! | another value | any | refused |
//! | absent (an old browser) | the host of the request | accepted |
//! | absent | another, or `null` | refused |
//! | absent | absent (a program such as curl) | accepted |
//!
//! `same-site` is refused as well: another host of the same domain is another party. The scheme of
//! `Origin` is not compared, because a proxy in front may end TLS. A token in a cookie or a hidden
//! field of the page would need state and would protect no more: `tests/it/admin/operations.rs`,
//! `a_page_of_another_origin_cannot_order`.

use http::{HeaderName, header, request::Parts};

/// Returns true if a browser says that a page of another origin sent the request. The algorithm is
/// that of Go's `http.CrossOriginProtection`: `Sec-Fetch-Site` decides where it is there, because no
/// page can set it and no proxy on the way changes it; else `Origin` must name the host of the
/// request. A request with neither does not come from a browser.
pub(super) fn is_cross_origin(head: &Parts) -> bool {
    if let Some(site) = head.headers.get(SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = head.headers.get(header::ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok();
    let origin = origin.and_then(|origin| origin.split_once("://"));
    match (origin, host(head)) {
        (Some((_, authority)), Some(host)) => !authority.eq_ignore_ascii_case(host),
        // An origin of `null` (a sandboxed frame) has no authority, and a request without a host names
        // none.
        _ => true,
    }
}

/// Returns the authority that the client asked for: that of the target (HTTP/2), or the Host field.
fn host(head: &Parts) -> Option<&str> {
    let of_target = head.uri.authority().map(http::uri::Authority::as_str);
    let field = || head.headers.get(header::HOST)?.to_str().ok();
    of_target.or_else(field)
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn the_browser_decides_and_without_one_the_origin() {
        for (fields, uri, cross) in [
            (vec![], "/", false),
            (vec![("sec-fetch-site", "same-origin")], "/", false),
            (vec![("sec-fetch-site", "none")], "/", false),
            (vec![("sec-fetch-site", "same-site")], "/", true),
            (vec![("sec-fetch-site", "cross-site")], "/", true),
            (
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://lb:9900"),
                ],
                "/",
                true,
            ),
            // A proxy changed the Host field.
            (
                vec![
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://ops.example"),
                ],
                "/",
                false,
            ),
            (vec![("origin", "http://lb:9900")], "/", false),
            (vec![("origin", "https://LB:9900")], "/", false),
            (vec![("origin", "http://lb:9901")], "/", true),
            (vec![("origin", "http://evil.example")], "/", true),
            (vec![("origin", "null")], "/", true),
            (vec![("origin", "http://h2:9900")], "http://h2:9900/", false),
            (vec![("origin", "http://lb:9900")], "http://h2:9900/", true),
        ] {
            let mut request = Request::post(uri).header("host", "lb:9900");
            for (name, value) in &fields {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(is_cross_origin(&head), cross, "{fields:?}");
        }
    }
}
