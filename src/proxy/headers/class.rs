//! What a field is to this hop.

use http::{HeaderName, header};

/// What a field of a request is to this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Authorization,
    /// Tells about the client.
    Client,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    ForwardedFor,
    /// About this hop only, and nothing to act on.
    Hop,
    Host,
    /// Goes on as it is.
    Plain,
    Te,
    TransferEncoding,
    Upgrade,
}

impl Class {
    #[inline]
    pub(super) fn of(name: &HeaderName) -> Self {
        match *name {
            header::AUTHORIZATION => Self::Authorization,
            header::CONNECTION => Self::Connection,
            header::CONTENT_LENGTH => Self::ContentLength,
            header::COOKIE => Self::Cookie,
            header::EXPECT => Self::Expect,
            header::FORWARDED => Self::Forwarded,
            header::HOST => Self::Host,
            header::PROXY_AUTHORIZATION => Self::Hop,
            header::TE => Self::Te,
            header::TRANSFER_ENCODING => Self::TransferEncoding,
            header::UPGRADE => Self::Upgrade,
            // What most requests have, so that their names need not be compared.
            header::ACCEPT
            | header::ACCEPT_ENCODING
            | header::ACCEPT_LANGUAGE
            | header::CACHE_CONTROL
            | header::CONTENT_TYPE
            | header::DNT
            | header::IF_MODIFIED_SINCE
            | header::IF_NONE_MATCH
            | header::ORIGIN
            | header::PRAGMA
            | header::RANGE
            | header::REFERER
            | header::UPGRADE_INSECURE_REQUESTS
            | header::USER_AGENT
            | header::VIA => Self::Plain,
            _ => Self::of_other(name.as_str()),
        }
    }

    #[inline(never)]
    fn of_other(name: &str) -> Self {
        match name {
            "http2-settings" | "keep-alive" | "proxy-connection" => Self::Hop,
            "x-forwarded-for" => Self::ForwardedFor,
            _ if speaks_of_client(name) => Self::Client,
            _ => Self::Plain,
        }
    }
}

/// Returns true for a field by which proxies tell backends about the client; so are those with
/// underscores, which many backends read as the same.
fn speaks_of_client(name: &str) -> bool {
    match name.as_bytes() {
        [b'x', b'-' | b'_', rest @ ..] => match rest.strip_prefix(b"forwarded") {
            Some(rest) => matches!(rest, [b'-' | b'_', ..]),
            None => matches!(rest, b"real-ip" | b"real_ip"),
        },
        _ => false,
    }
}
