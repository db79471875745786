//! The head of the request as the backend gets it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use super::{
    config::{HostField, Settings},
    emit::{Emit, line, write_number},
    forwarded::{write_element, write_ip},
    h1::head::{authenticates_connection, is_known_option, is_protected, tokens},
};
use crate::{
    context::ConnInfo,
    error::{Error, ErrorKind},
    pool::Backend,
};

/// What a request says about its connection and its client, read once.
pub(super) struct Facts<'a> {
    pub(super) parts: &'a Parts,
    pub(super) conn: Option<&'a ConnInfo>,
    client: Option<IpAddr>,
    trusted: bool,
    /// `None` where nothing is known about the client's connection.
    https: Option<bool>,
    /// The host that the client asked for, validated.
    host: Option<&'a [u8]>,
    /// The protocol switch that is asked for.
    pub(super) upgrade: Option<&'a HeaderValue>,
    accepts_trailers: bool,
    /// Fields that `Connection` names; nearly always none.
    nominated: Vec<HeaderName>,
    cookies: usize,
    pub(super) connection_auth: bool,
    pub(super) expects_continue: bool,
    declared: Option<u64>,
}

/// How the body's length is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Chunked,
    Exact(u64),
    None,
}

impl<'a> Facts<'a> {
    pub(super) fn read(parts: &'a Parts, settings: &Settings) -> Result<Self, Error> {
        let conn = ConnInfo::of(&parts.extensions);
        let peer = match conn {
            Some(conn) => conn.client(),
            None => ConnInfo::peer_of(&parts.extensions),
        };
        let client = peer.map(|p| p.ip());
        let fields = Fields::read(&parts.headers)?;
        check_form(parts)?;
        if fields.transfer_encoding && fields.length.is_some() {
            return Err(refuse("Content-Length beside Transfer-Encoding"));
        }
        // A cleartext switch to HTTP/2 would carry requests past this proxy.
        let is_h2 = |t: &[u8]| t.len() >= 2 && t[..2].eq_ignore_ascii_case(b"h2");
        let upgrade = fields
            .upgrade
            .filter(|_| fields.wants_upgrade && parts.version == Version::HTTP_11)
            .filter(|value| !tokens(value.as_bytes()).any(is_h2));
        Ok(Self {
            parts,
            conn,
            client,
            trusted: client.is_some_and(|c| settings.trusted.contains(c)),
            https: conn.map(|c| c.tls().is_some()),
            host: host(parts, fields.host, conn.is_some())?,
            upgrade,
            accepts_trailers: fields.accepts_trailers,
            expects_continue: fields.expects_continue && parts.version == Version::HTTP_11,
            nominated: fields.nominated,
            cookies: fields.cookies,
            connection_auth: fields.connection_auth,
            declared: fields.length,
        })
    }

    /// Decides how the body's length is told: what the body knows of itself, else what the head
    /// says.
    pub(super) fn length(&self, has_body: bool, exact: Option<u64>) -> Result<Length, Error> {
        match (has_body, exact, self.declared) {
            (true, Some(exact), Some(declared)) if exact != declared => {
                Err(refuse("Content-Length is not the body's"))
            }
            (true, Some(length), _) | (true, None, Some(length)) => Ok(Length::Exact(length)),
            (true, None, None) => Ok(Length::Chunked),
            (false, _, Some(declared)) if declared > 0 => {
                Err(refuse("Content-Length is not the body's"))
            }
            (false, _, Some(_)) => Ok(Length::Exact(0)),
            (false, _, None) => Ok(match self.parts.method {
                // RFC 9110 §8.6: methods that anticipate content say so when there is none.
                Method::POST | Method::PUT | Method::PATCH => Length::Exact(0),
                _ => Length::None,
            }),
        }
    }

    #[cfg(feature = "http2")]
    pub(super) fn accepts_trailers(&self) -> bool {
        self.accepts_trailers
    }

    /// Writes the request line and every field for HTTP/1.1.
    pub(super) fn write_h1(
        &self,
        backend: &Backend,
        settings: &Settings,
        length: Length,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.parts.method.as_str().as_bytes());
        out.push(b' ');
        self.write_target(backend, out);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(self.host_for(backend, settings));
        out.extend_from_slice(b"\r\n");
        self.fields(settings, out);
        match length {
            Length::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Length::Exact(length) => {
                out.extend_from_slice(b"content-length: ");
                write_number(length, out);
                out.extend_from_slice(b"\r\n");
            }
            Length::None => {}
        }
        if let Some(upgrade) = self.upgrade {
            line(out, "upgrade", upgrade.as_bytes());
        }
        match (self.upgrade.is_some(), self.accepts_trailers) {
            (false, false) => {}
            (true, false) => out.extend_from_slice(b"connection: upgrade\r\n"),
            (false, true) => out.extend_from_slice(b"connection: te\r\n"),
            (true, true) => out.extend_from_slice(b"connection: upgrade, te\r\n"),
        }
        if self.accepts_trailers {
            out.extend_from_slice(b"te: trailers\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the target: the backend's base path, and the path and query of the request.
    pub(super) fn write_target(&self, backend: &Backend, out: &mut Vec<u8>) {
        let base = backend.base_path().as_bytes();
        let uri = &self.parts.uri;
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        if base.is_empty() && target == "*" {
            out.push(b'*');
            return;
        }
        out.extend_from_slice(base);
        if !target.starts_with('/') {
            out.push(b'/');
        }
        if target != "*" {
            out.extend_from_slice(target.as_bytes());
        }
    }

    pub(super) fn host_for<'b>(&'b self, backend: &'b Backend, settings: &Settings) -> &'b [u8] {
        match (settings.host, self.host) {
            (HostField::Client, Some(host)) => host,
            _ => backend.authority().as_bytes(),
        }
    }

    /// Emits every field that goes on, and those that this hop adds.
    pub(super) fn fields<O: Emit>(&self, settings: &Settings, out: &mut O) {
        let join_cookies = O::ONE_COOKIE && self.cookies > 1;
        for (name, value) in &self.parts.headers {
            let joined = join_cookies && *name == header::COOKIE;
            if !joined && !self.ends_here(name, settings) {
                out.field(name, value);
            }
        }
        if join_cookies && !self.ends_here(&header::COOKIE, settings) {
            out.made(header::COOKIE, |value| self.join_cookies(value));
        }
        self.forwarded(settings, out);
        if let Some(via) = &settings.via {
            let value = match self.parts.version {
                Version::HTTP_10 => &via[0],
                Version::HTTP_2 => &via[2],
                _ => &via[1],
            };
            out.field(&header::VIA, value);
        }
    }

    fn join_cookies(&self, out: &mut Vec<u8>) {
        for (i, cookie) in self
            .parts
            .headers
            .get_all(header::COOKIE)
            .iter()
            .enumerate()
        {
            if i > 0 {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(cookie.as_bytes());
        }
    }

    fn ends_here(&self, name: &HeaderName, settings: &Settings) -> bool {
        let ours = match name.as_str() {
            "connection"
            | "content-length"
            | "host"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings" => true,
            // To these two the peer is added here; what else a trusted one says stays, whatever
            // `Connection` names.
            "x-forwarded-for" if self.trusted => return settings.forwarded.x(),
            "forwarded" if self.trusted => return settings.forwarded.rfc7239(),
            name if speaks_of_client(name) => return !self.trusted,
            _ => false,
        };
        ours || (!self.nominated.is_empty() && self.nominated.contains(name) && !is_protected(name))
    }

    fn forwarded(&self, settings: &Settings, out: &mut impl Emit) {
        if settings.forwarded.x() {
            if let Some(client) = self.client {
                out.made(X_FORWARDED_FOR, |value| {
                    self.earlier(&X_FORWARDED_FOR, value);
                    write_ip(client, value);
                });
            }
            let given = |name: &HeaderName| self.trusted && self.parts.headers.contains_key(name);
            if let Some(https) = self.https.filter(|_| !given(&X_FORWARDED_PROTO)) {
                let proto: &[u8] = if https { b"https" } else { b"http" };
                out.made(X_FORWARDED_PROTO, |value| value.extend_from_slice(proto));
            }
            if let Some(host) = self.host.filter(|_| !given(&X_FORWARDED_HOST)) {
                out.made(X_FORWARDED_HOST, |value| value.extend_from_slice(host));
            }
        }
        if settings.forwarded.rfc7239() {
            out.made(header::FORWARDED, |value| {
                self.earlier(&header::FORWARDED, value);
                write_element(self.client, self.host, self.https, value);
            });
        }
    }

    /// Writes what a trusted peer said before, and a comma.
    fn earlier(&self, name: &HeaderName, buf: &mut Vec<u8>) {
        if self.trusted {
            for value in self.parts.headers.get_all(name) {
                buf.extend_from_slice(value.as_bytes());
                buf.extend_from_slice(b", ");
            }
        }
    }
}

/// What the fields say that this hop acts on, gathered in one pass.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    length: Option<u64>,
    transfer_encoding: bool,
    wants_upgrade: bool,
    upgrade: Option<&'a HeaderValue>,
    accepts_trailers: bool,
    expects_continue: bool,
    connection_auth: bool,
    cookies: usize,
    nominated: Vec<HeaderName>,
}

impl<'a> Fields<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Error> {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.field(name, value)?;
        }
        Ok(fields)
    }

    fn field(&mut self, name: &HeaderName, value: &'a HeaderValue) -> Result<(), Error> {
        match *name {
            header::HOST => once(&mut self.host, value, "Host twice")?,
            header::CONTENT_LENGTH => {
                let length = content_length(value)?;
                once(&mut self.length, length, "Content-Length twice")?;
            }
            header::TRANSFER_ENCODING => self.transfer_encoding = true,
            header::CONNECTION => {
                for token in tokens(value.as_bytes()) {
                    if token.eq_ignore_ascii_case(b"upgrade") {
                        self.wants_upgrade = true;
                    } else if !is_known_option(token) {
                        self.nominated.extend(HeaderName::from_bytes(token));
                    }
                }
            }
            header::UPGRADE => self.upgrade = Some(value),
            header::TE => {
                let mut codings = tokens(value.as_bytes());
                self.accepts_trailers |= codings.any(|c| c.eq_ignore_ascii_case(b"trailers"));
            }
            header::EXPECT => {
                self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            header::COOKIE => self.cookies += 1,
            header::AUTHORIZATION => {
                self.connection_auth |= authenticates_connection(value.as_bytes());
            }
            _ => {}
        }
        Ok(())
    }
}

/// RFC 9112 §3.2: an authority alone is for CONNECT, and `*` for OPTIONS.
fn check_form(parts: &Parts) -> Result<(), Error> {
    let Some(target) = parts.uri.path_and_query() else {
        return Err(refuse("a target without a path"));
    };
    if target.as_str() == "*" && parts.method != Method::OPTIONS {
        return Err(refuse("a target of * and not OPTIONS"));
    }
    Ok(())
}

/// Returns true for a field by which proxies tell backends about the client; so are those with
/// underscores, which many backends read as the same.
fn speaks_of_client(name: &str) -> bool {
    match name.as_bytes() {
        [b'f', ..] => name == "forwarded",
        [b'x', b'-' | b'_', rest @ ..] => match rest.strip_prefix(b"forwarded") {
            Some(rest) => matches!(rest, [b'-' | b'_', ..]),
            None => matches!(rest, b"real-ip" | b"real_ip"),
        },
        _ => false,
    }
}

fn once<T>(place: &mut Option<T>, value: T, else_: &'static str) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse(else_)),
    }
}

fn content_length(value: &HeaderValue) -> Result<u64, Error> {
    value
        .to_str()
        .ok()
        .filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|v| v.parse::<u64>().ok())
        .ok_or_else(|| refuse("a bad Content-Length"))
}

/// Finds the one host that the client asked for (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn host<'a>(
    parts: &'a Parts,
    field: Option<&'a HeaderValue>,
    over_connection: bool,
) -> Result<Option<&'a [u8]>, Error> {
    let field = field.map(HeaderValue::as_bytes);
    let target = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = match (target, field) {
        (Some(target), Some(field))
            if parts.version == Version::HTTP_2 && !target.eq_ignore_ascii_case(field) =>
        {
            return Err(refuse("Host is not :authority"));
        }
        // RFC 9112 §3.2.2: the authority of an absolute target stands.
        (Some(target), _) => Some(target),
        (None, field) => field,
    };
    match host {
        Some(host) if is_host(host) => Ok(Some(host)),
        Some(b"") => Ok(None),
        Some(_) => Err(refuse("a bad Host")),
        None if over_connection && parts.version == Version::HTTP_11 => Err(refuse("no Host")),
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

pub(super) fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::BadRequest).with_source(why)
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

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
