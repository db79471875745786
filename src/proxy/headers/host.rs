//! The form of a request's target, and the host that it asks for.
//!
//! Where a client's message names the host twice (target and field), a proxy and a backend could
//! each believe another one. This file decides which counts, and refuses what cannot be decided.
//!
//! | version | target | Host field | host |
//! |---|---|---|---|
//! | 1.1 | path | one | the field |
//! | 1.1 | absolute | any | that of the target (RFC 9112 §3.2.2) |
//! | 1.1 | path | none or empty | refused; empty passes with [`HostField::Backend`](crate::proxy::HostField::Backend) |
//! | 1.0 | path | none | none: the backend gets its own |
//! | 2 | `:authority` | none or the same | `:authority` |
//! | 2 | `:authority` | another | refused (RFC 9113 §8.3.1) |

use http::{HeaderValue, Method, Version, request::Parts};

use super::refuse;
use crate::{error::Error, wire::target::is_host};

/// Refuses a target in a form that the method does not allow: an authority alone is for CONNECT, and `*`
/// for OPTIONS (RFC 9112 §3.2).
pub(super) fn check_form(parts: &Parts) -> Result<(), Error> {
    let Some(target) = parts.uri.path_and_query() else {
        return Err(refuse("a target without a path"));
    };
    if target.as_str() == "*" && parts.method != Method::OPTIONS {
        return Err(refuse("the target * with a method other than OPTIONS"));
    }
    Ok(())
}

/// Returns the host that the client asked for (RFC 9112 §3.2, RFC 9113 §8.3.1), not validated.
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
            Err(refuse("Host differs from :authority"))
        }
        // RFC 9112 §3.2.2: the authority of an absolute target takes precedence over `Host`.
        _ => Ok(Some(target)),
    }
}

/// Refuses a host that is not valid, and a missing one if the version requires one. `needed` is false
/// if the backend gets a host of its own.
///
/// `over_connection` is false for a request that a program made itself, without a connection in
/// front: there the backend's own host stands in for a missing one.
pub(super) fn check(
    host: Option<&[u8]>,
    version: Version,
    over_connection: bool,
    needed: bool,
) -> Result<Option<&[u8]>, Error> {
    // RFC 9112 §3.2 requires the field in HTTP/1.1 alone.
    let must = over_connection && version == Version::HTTP_11;
    match host {
        Some(host) if is_host(host) => Ok(Some(host)),
        Some(b"") if must && needed => Err(refuse("an empty Host")),
        Some(b"") => Ok(None),
        Some(_) => Err(refuse("Host is not a valid host")),
        None if must => Err(refuse("no Host field")),
        None => Ok(None),
    }
}
