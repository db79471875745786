//! The head of a request as the backend gets it.
//!
//! The head is scanned once: [`ScannedHead::read`] finds the framing, the fields that end at this hop,
//! the host and the client. `write_h1` and `fields` then write what passes, for HTTP/1.1 as bytes and
//! for HTTP/2 as a map. The fields about the client are the same for most requests of a connection, so
//! their bytes are cached with it.
//!
//! ```text
//!   read: one pass ─▶ Class::of each field ─▶ dropped: a bit for each field      simple?
//!                                           ├ declared: framing                    │ yes: write by bits
//!                                           ├ options: what Connection names       │ no: ask `ends_here`
//!                                           └ host, upgrade, expectation, …        ▼      for each field
//!                                                            request line, Host, fields, client, Via, framing
//! ```
//!
//! Two passes are needed, as `Connection` may name a field that came before it. Most requests name
//! none: their second pass tests a bit for each field and looks at no name. `simple` is false for
//! more than 64 fields, a trusted peer, several cookies, and fields that `Connection` names; those
//! requests take the slower way, which decides by name.
//!
//! | field | what happens to it | rule |
//! |---|---|---|
//! | `Connection`, what it names, `Keep-Alive`, `Proxy-*`, `TE`, `Upgrade` | ends here; the last two are written again if they apply | RFC 9110 §7.6.1 |
//! | `Content-Length`, `Transfer-Encoding` | replaced by this hop's framing | RFC 9112 §6 |
//! | `Host` | replaced, validated | RFC 9112 §3.2 |
//! | `X-Forwarded-*`, `X-Real-IP`, `Forwarded`, and spellings with underscores | by trust; see `forwarded_fields` | |
//! | `Client-Cert`, `Client-Cert-Chain` | never pass | RFC 9440 §2.4 |
//! | `Max-Forwards` with OPTIONS and TRACE | one less | RFC 9110 §7.6.2 |
//! | `Cookie` | passes; several become one over HTTP/1.1 | RFC 9113 §8.2.3 |
//! | all others | pass unchanged, in their order | |
//!
//! A `Connection` of an untrusted client could name `X-Forwarded-For` and so remove what this proxy
//! adds; what it adds is written after the pass and cannot be named.

mod class;
mod client;
mod host;
mod http1;
mod scan;

#[cfg(feature = "http2")]
use http::HeaderMap;
use http::{HeaderName, HeaderValue, Version, header, request::Parts};

use self::class::Class;
pub(super) use self::client::ClientFields;
use super::{
    config::{HostField, Settings},
    header_sink::HeaderSink,
};
use crate::{
    context::{ConnCache, ConnInfo},
    error::{Error, ErrorKind},
    pool::Backend,
    wire::{
        Malformed,
        connection::ConnectionOptions,
        fields::Field,
        framing::{Declared, anticipates_content},
        write_number,
    },
};

/// What a request says about its message, its connection and its client.
pub(super) struct ScannedHead<'a> {
    /// The head as the layers above have left it.
    pub(super) parts: &'a Parts,
    /// The connection in front; `None` for a request that a program made.
    pub(super) conn: Option<&'a ConnInfo>,
    /// The bytes that an earlier request of the same connection to the same host had.
    ///
    /// It is used only if the request asks for the same host: a connection may carry requests for
    /// several.
    cached: Option<&'a ClientFields>,
    /// True if the peer's fields about the client pass.
    trusted: bool,
    /// The host that the client asked for, validated.
    host: Option<&'a [u8]>,
    /// The value of `Upgrade`, if the request asks for an upgrade that may pass.
    pub(super) upgrade: Option<&'a HeaderValue>,
    options: ConnectionOptions,
    accepts_trailers: bool,
    /// The credentials belong to the connection (NTLM, Negotiate): it must serve this client alone.
    pub(super) connection_auth: bool,
    /// The body waits for 100; false in HTTP/1.0.
    pub(super) expects_continue: bool,
    declared: Declared,
    /// How many more proxies the request may pass, if it counts them (RFC 9110 §7.6.2).
    max_forwards: Option<u64>,
    cookies: usize,
    /// The first 64 fields, a bit each: set if the field ends at this hop.
    ///
    /// Bits of later fields fold into the first 64 (`i % 64`); `simple` is then false, and the bits
    /// are not used.
    dropped: u64,
    /// True if `dropped` alone decides which fields pass.
    simple: bool,
}

/// How the length of the request's body is declared to the backend.
///
/// A length of zero is sent where a request of the method usually has a body (RFC 9110 §8.6), and
/// left out of a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Chunked,
    Exact(u64),
    None,
}

impl<'a> ScannedHead<'a> {
    /// # Errors
    ///
    /// [`ErrorKind::BadRequest`] with the reason as its source. Nothing was sent, and no connection
    /// was taken.
    pub(super) fn read(parts: &'a Parts, settings: &Settings) -> Result<Self, Error> {
        let mut scanned = Self {
            parts,
            conn: ConnInfo::of(&parts.extensions),
            cached: None,
            trusted: false,
            host: None,
            upgrade: None,
            options: ConnectionOptions::default(),
            accepts_trailers: false,
            connection_auth: false,
            expects_continue: false,
            declared: Declared::default(),
            max_forwards: None,
            cookies: 0,
            dropped: 0,
            simple: true,
        };
        let mut field = None;
        for (i, (name, value)) in parts.headers.iter().enumerate() {
            let dropped = match Class::of(name) {
                Class::Plain => false,
                Class::Message(Field::Host) => {
                    once(&mut field, value, "Host twice")?;
                    true
                }
                class => scanned.scan_field(class, value)?,
            };
            scanned.dropped |= u64::from(dropped) << (i % 64);
        }
        // A field that `Connection` names does not pass, so the backend does not see the expectation.
        scanned.expects_continue &= !scanned.options.nominated.contains(&header::EXPECT);
        // After the scan, as an error of framing is the more serious one to name.
        host::check_form(parts)?;
        scanned
            .declared
            .request_framing(parts.version == Version::HTTP_10)
            .map_err(malformed)?;
        if scanned.upgrade.is_some() {
            scanned.check_upgrade();
        }
        scanned.resolve_host(host::asked_for(parts, field)?, settings)?;
        scanned.simple = !scanned.trusted
            && scanned.options.nominated.is_empty()
            && scanned.cookies <= 1
            && parts.headers.len() <= 64;
        Ok(scanned)
    }

    /// Finds the host and whether the peer is trusted. For most requests, the connection's cache has both.
    ///
    /// A cached host was validated when it was cached, and its peer was not trusted: nothing of
    /// trusted peers is cached.
    fn resolve_host(&mut self, host: Option<&'a [u8]>, settings: &Settings) -> Result<(), Error> {
        if let (Some(conn), Some(asked)) = (self.conn, host)
            && let Some(cached) = ConnCache::get(conn, &settings.client_fields)
            && *cached.host == *asked
        {
            self.cached = Some(cached);
            self.host = host;
            return Ok(());
        }
        self.resolve_host_anew(host, settings)
    }

    #[inline(never)]
    fn resolve_host_anew(
        &mut self,
        host: Option<&'a [u8]>,
        settings: &Settings,
    ) -> Result<(), Error> {
        let needed = settings.host == HostField::Client;
        self.host = host::check(host, self.parts.version, self.conn.is_some(), needed)?;
        self.trusted = self.sender().is_some_and(|s| settings.trusted.contains(s));
        Ok(())
    }

    /// Decides how the length of the body is declared: by the body's own length, else by what the head
    /// declares.
    pub(super) fn length(&self, has_body: bool, exact: Option<u64>) -> Result<Length, Error> {
        match (has_body, exact, self.declared.length) {
            (true, Some(exact), Some(declared)) if exact != declared => {
                Err(refuse("Content-Length differs from the length of the body"))
            }
            (true, Some(length), _) | (true, None, Some(length)) => Ok(Length::Exact(length)),
            (true, None, None) => Ok(Length::Chunked),
            (false, _, Some(declared)) if declared > 0 => {
                Err(refuse("Content-Length differs from the length of the body"))
            }
            (false, _, Some(_)) => Ok(Length::Exact(0)),
            (false, _, None) => Ok(match anticipates_content(&self.parts.method) {
                true => Length::Exact(0),
                false => Length::None,
            }),
        }
    }

    /// Returns true if the request may pass no further proxy: this one answers it.
    ///
    /// Only OPTIONS and TRACE count hops (RFC 9110 §7.6.2).
    pub(super) fn ends_at_this_hop(&self) -> bool {
        self.max_forwards == Some(0)
    }

    /// Returns the fields that `Connection` names: they end at this hop.
    pub(super) fn nominated(&self) -> &[HeaderName] {
        &self.options.nominated
    }

    #[cfg(feature = "http2")]
    pub(super) fn accepts_trailers(&self) -> bool {
        self.accepts_trailers
    }

    /// Returns the index in `via` for the request's version.
    ///
    /// Anything that is neither 1.0 nor 2 counts as 1.1.
    fn version(&self) -> usize {
        match self.parts.version {
            Version::HTTP_10 => 0,
            Version::HTTP_2 => 2,
            _ => 1,
        }
    }

    /// Writes the target: the backend's base path, and the path and query of the request.
    ///
    /// A base path has no slash at its end. `OPTIONS *` stays `*` without a base path, and becomes
    /// the base path itself with one.
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

    /// A request without a host gets the backend's, with either setting.
    pub(super) fn host_for<'b>(&'b self, backend: &'b Backend, settings: &Settings) -> &'b [u8] {
        match (settings.host, self.host) {
            (HostField::Client, Some(host)) => host,
            _ => backend.authority().as_bytes(),
        }
    }

    /// Adds all fields for HTTP/2.
    ///
    /// Appends: the caller's map keeps what it has.
    #[cfg(feature = "http2")]
    pub(super) fn fields(&self, settings: &Settings, out: &mut HeaderMap) {
        self.pass_on(settings, out);
        self.forwarded(settings, out);
        if let Some(via) = &settings.via {
            out.field(&header::VIA, &via[self.version()].value);
        }
    }

    /// Adds the fields of the request that pass.
    ///
    /// Used for both protocols; the sink is known at compile time.
    fn pass_on<O: HeaderSink>(&self, settings: &Settings, out: &mut O) {
        if self.simple {
            let mut dropped = self.dropped;
            for (name, value) in &self.parts.headers {
                if dropped & 1 == 0 {
                    out.field(name, value);
                }
                dropped >>= 1;
            }
        } else {
            self.pass_on_some(settings, out);
        }
        if let Some(left) = self.max_forwards {
            out.made(header::MAX_FORWARDS, |value| {
                write_number(left.saturating_sub(1), 10, value);
            });
        }
    }

    /// The slow way: classifies each field again, as the bits are not enough.
    #[inline(never)]
    fn pass_on_some<O: HeaderSink>(&self, settings: &Settings, out: &mut O) {
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
    }

    /// RFC 9113 §8.2.3 names the separator: a semicolon and a blank.
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

    /// Decides for the slow way; must agree with `scan_field` on every class.
    fn ends_here(&self, name: &HeaderName, settings: &Settings) -> bool {
        let data = match Class::of(name) {
            Class::Authorization
            | Class::Cookie
            | Class::Message(Field::Authenticate | Field::Expect | Field::Plain)
            | Class::Plain => false,
            Class::Message(_) | Class::ClientCertificate => true,
            Class::MaxForwards => self.max_forwards.is_some(),
            // The proxy replaces these two by its own, with the trusted peer's in front. Others of a
            // trusted peer stay, even if `Connection` names them.
            Class::ForwardedFor if self.trusted => return settings.forwarded.x(),
            Class::Forwarded if self.trusted => return settings.forwarded.rfc7239(),
            Class::Client | Class::Forwarded | Class::ForwardedFor => return !self.trusted,
        };
        data || self.options.nominated.contains(name)
    }
}

/// Two Host fields are the classical disagreement of two proxies about where a request goes.
fn once<T>(slot: &mut Option<T>, value: T, repeated: &'static str) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse(repeated)),
    }
}

/// Returns true for a field that an answer to TRACE may show (RFC 9110 §9.3.8).
pub(super) fn is_reflected(name: &HeaderName) -> bool {
    !matches!(
        Class::of(name),
        Class::Authorization | Class::Cookie | Class::Message(Field::HopByHop)
    )
}

#[cold]
fn malformed(error: Malformed) -> Error {
    refuse(error.reason())
}

#[cold]
pub(super) fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::BadRequest).with_source(why)
}
