//! The URL of a backend: its scheme, host, port, base path and authority.
//!
//! Parsed once, when a backend is configured: the path of a request finds the Host field, the port and
//! the base path ready. What is refused here (user information, a query, a fragment) would have no
//! defined meaning in front of a request's own target.

use http::{HeaderValue, Uri, uri::PathAndQuery};

use crate::error::ConfigError;

/// A URL in the parts that a request needs.
#[derive(Clone)]
pub(super) struct BackendUrl {
    pub(super) scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
    /// Without a trailing slash; empty for `/`.
    pub(super) base_path: Box<str>,
    pub(super) authority: HeaderValue,
}

impl BackendUrl {
    /// Parses an `http` or `https` URL (RFC 9110 §4.2).
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let bad = |why: &str| ConfigError::new("url", format!("{url:?}: {why}"));
        let uri: Uri = url
            .parse()
            .map_err(|error| bad(&format!("not a URL ({error})")))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(bad("http:// or https:// is accepted")),
        };
        let authority = uri.authority().ok_or_else(|| bad("a host is missing"))?;
        // Credentials in a URL would end up in logs and status pages, and no request would send them.
        if authority.as_str().contains('@') {
            return Err(bad("user information is not accepted"));
        }
        // The text is searched for a fragment because `Uri` drops it without an error.
        if uri.query().is_some() || url.contains('#') {
            return Err(bad("a query or fragment is not accepted"));
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(bad("a host is missing"));
        }
        // `Authority::port` is `None` for a port that is empty or too large, which is an error here.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => scheme.default_port(),
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(bad("port 1 to 65535 is accepted")),
            },
        };
        let base_path = uri
            .path_and_query()
            .map_or("", PathAndQuery::path)
            .trim_end_matches('/');
        Ok(Self {
            scheme,
            host: host.into(),
            port,
            base_path: base_path.into(),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|error| bad(&error.to_string()))?,
        })
    }

    /// Returns true if connections to both reach the same endpoint in the same way.
    pub(super) fn has_same_endpoint(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host == other.host && self.port == other.port
    }
}

/// The scheme of a backend's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// Returns the port that a URL of this scheme has where it names none: 80 or 443 (RFC 9110
    /// §4.2).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Returns the scheme as it stands in a URL: `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
