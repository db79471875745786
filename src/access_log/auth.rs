//! The failed authentication that a line shows where the application left no note of it.
//!
//! The line is written for operators, and read by many more people than may see credentials. So only
//! what names a scheme is taken from `Authorization`, by its form: a word of at most 20 characters
//! before a space, or one of the known schemes where it stands alone. A client that sends its bare
//! token as the value has no scheme in the line (`credentials_are_never_taken_for_a_scheme`).
//!
//! An application that authenticates knows more, such as the user: its `AuthFailure` in the response's
//! extensions takes precedence, and this file is not asked.

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::context::AuthFailure;

/// Returns what a refusal (401, 403, 407) says itself: the scheme and the reason, never the credentials.
pub(super) fn derived_failure<B>(
    response: &Response<B>,
    authorization: Option<&HeaderValue>,
) -> Option<Box<AuthFailure>> {
    if !matches!(response.status().as_u16(), 401 | 403 | 407) {
        return None;
    }
    derive(response, authorization).map(Box::new)
}

fn derive<B>(response: &Response<B>, authorization: Option<&HeaderValue>) -> Option<AuthFailure> {
    let (challenge, reason) = match response.status().as_u16() {
        401 => (header::WWW_AUTHENTICATE, "unauthorized"),
        407 => (header::PROXY_AUTHENTICATE, "proxy authentication required"),
        _ => (header::WWW_AUTHENTICATE, "forbidden"),
    };
    let offered = first_token(response.headers(), &challenge);
    // What the client tried comes first: a server may offer several schemes, of which one failed.
    let scheme = authorization.and_then(scheme_of).or(offered)?;
    Some(AuthFailure::new(scheme, reason))
}

fn first_token(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(scheme_of)
}

/// Returns the scheme before the credentials; `None` if the first word does not look like one.
fn scheme_of(value: &HeaderValue) -> Option<String> {
    // A comma ends a scheme, too: `WWW-Authenticate` may list several (RFC 9110 §11.6.1).
    let text = value.as_bytes();
    let scheme = text.split(|byte| matches!(byte, b' ' | b',')).next()?;
    // As bytes until here: a value with one odd byte still has its scheme in front.
    let scheme = std::str::from_utf8(scheme).ok()?;
    let has_form = !scheme.is_empty()
        && scheme.len() <= MAX_SCHEME
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // Without a space, a value may be the credentials themselves.
    let is_bare = scheme.len() == text.len();
    let is_known = || KNOWN_SCHEMES.contains(&scheme.to_ascii_lowercase().as_str());
    (has_form && (!is_bare || is_known())).then(|| scheme.to_owned())
}

/// In bytes; a longer word may be a part of the credentials.
const MAX_SCHEME: usize = 20;
const KNOWN_SCHEMES: [&str; 5] = ["negotiate", "ntlm", "basic", "bearer", "digest"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_taken_for_a_scheme() {
        for (value, scheme) in [
            ("Basic dXNlcjpwYXNz", Some("Basic")),
            ("Bearer abc", Some("Bearer")),
            ("Negotiate", Some("Negotiate")),
            ("Basic realm=\"x\", Digest", Some("Basic")),
            ("s3cr3t", None),
            ("dXNlcjpwYXNz=", None),
            ("a.b.c d", None),
            ("", None),
            ("Bearer caf\u{e9}", Some("Bearer")),
            ("B\u{e9}arer abc", None),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            assert_eq!(scheme_of(&value).as_deref(), scheme, "{value:?}");
        }
    }
}
