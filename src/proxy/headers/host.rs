//! What is asked for: the form of the target, and the host.

use http::{HeaderValue, Method, Version, request::Parts};

use super::refuse;
use crate::error::Error;

/// RFC 9112 §3.2: an authority alone is for CONNECT, and `*` for OPTIONS.
pub(super) fn check_form(parts: &Parts) -> Result<(), Error> {
    let Some(target) = parts.uri.path_and_query() else {
        return Err(refuse("a target without a path"));
    };
    if target.as_str() == "*" && parts.method != Method::OPTIONS {
        return Err(refuse("a target of * and not OPTIONS"));
    }
    Ok(())
}

/// Finds the one host that the client asked for (RFC 9112 §3.2, RFC 9113 §8.3.1), not validated.
pub(super) fn asked_for<'a>(
    parts: &'a Parts,
    field: Option<&'a HeaderValue>,
) -> Result<Option<&'a [u8]>, Error> {
    let field = field.map(HeaderValue::as_bytes);
    let Some(target) = parts.uri.authority() else {
        return Ok(field);
    };
    let target = target.as_str().as_bytes();
    match field {
        Some(field) if parts.version == Version::HTTP_2 && !target.eq_ignore_ascii_case(field) => {
            Err(refuse("Host is not :authority"))
        }
        // RFC 9112 §3.2.2: the authority of an absolute target stands.
        _ => Ok(Some(target)),
    }
}

/// Refuses what is no host, and a missing one where there must be one.
pub(super) fn check(
    host: Option<&[u8]>,
    version: Version,
    over_connection: bool,
) -> Result<Option<&[u8]>, Error> {
    match host {
        Some(host) if is_host(host) => Ok(Some(host)),
        Some(b"") => Ok(None),
        Some(_) => Err(refuse("a bad Host")),
        None if over_connection && version == Version::HTTP_11 => Err(refuse("no Host")),
        None => Ok(None),
    }
}

/// Returns true for a name or an address with an optional port (RFC 3986 §3.2.2), and nothing
/// that could be read as more.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', ..] => match host.iter().position(|&b| b == b']') {
            Some(end) => host.split_at(end + 1),
            None => return false,
        },
        _ => host.split_at(host.iter().position(|&b| b == b':').unwrap_or(host.len())),
    };
    let port_is_fine = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit) && digits.len() <= 5,
        _ => false,
    };
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b);
    let name_is_fine = match name {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(|b| is_name(b) || *b == b':')
        }
        name => !name.is_empty() && name.iter().all(is_name),
    };
    port_is_fine && name_is_fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in [
            "a",
            "a.b:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "a_b.c",
            "a:",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a@b", "a/b", "a b", "a:b", "[::1", "[]", "a:123456", "a\"b", "a#b", "a?b",
            "[::1]x",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
