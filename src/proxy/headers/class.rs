//! `Class`: how the proxy treats a field of a request.
//!
//! The names that browsers send are listed first: `http` keeps known names as a number, so the
//! match compares one byte, while any other name has to be compared as text in `of_other`. The list
//! is for speed alone; a name that is missing in it gets the same class.
//!
//! | class | on the way to the backend |
//! |---|---|
//! | `Plain`, `Cookie`, `Authorization` | passes; the latter may bind the connection |
//! | `Message` | by its meaning: see `scan` |
//! | `Forwarded`, `ForwardedFor`, `Client` | by trust |
//! | `ClientCertificate` | never |
//! | `MaxForwards` | counted down for OPTIONS and TRACE |

use http::{HeaderName, header};

use crate::wire::{
    connection::{describes_client, names_client_certificate},
    fields::Field,
};

/// How the proxy treats a field of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Authorization,
    /// The field describes the client.
    Client,
    /// The field has the certificate of the client, which this hop alone may name.
    ClientCertificate,
    Cookie,
    Forwarded,
    ForwardedFor,
    /// The field says something about the message or its connection.
    Message(Field),
    MaxForwards,
    /// The field passes unchanged.
    Plain,
}

impl Class {
    /// Never allocates.
    #[inline]
    pub(super) fn of(name: &HeaderName) -> Self {
        match *name {
            header::AUTHORIZATION => Self::Authorization,
            header::COOKIE => Self::Cookie,
            header::FORWARDED => Self::Forwarded,
            header::HOST => Self::Message(Field::Host),
            header::MAX_FORWARDS => Self::MaxForwards,
            // Credentials for the proxy itself.
            header::PROXY_AUTHORIZATION => Self::Message(Field::HopByHop),
            // The fields of most requests, listed so that their names need no comparison.
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
            _ => Self::of_other(name),
        }
    }

    #[inline(never)]
    fn of_other(name: &HeaderName) -> Self {
        match Field::of(name) {
            Field::Authenticate | Field::Plain => {}
            field => return Self::Message(field),
        }
        match name.as_str() {
            "x-forwarded-for" => Self::ForwardedFor,
            name if describes_client(name) => Self::Client,
            name if names_client_certificate(name) => Self::ClientCertificate,
            _ => Self::Plain,
        }
    }
}
