//! One line to come: what was noted of a request, until its true end.

use std::{cell::RefCell, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tokio::time::Instant;

use super::{
    Entry, JsonLines, Sink,
    fields::{Fields, Original},
    json::{Buffer, End},
    layer::{Config, To},
};
#[cfg(feature = "server")]
use crate::context::served;
use crate::{
    context::{Attempt, AuthFailure, ConnInfo, Exchange, Outcome, Told, Tunnel},
    error::ErrorKind,
};

/// What was noted of a request, if anything. Its drop is the end that nobody announced: the
/// client's.
#[derive(Default)]
pub(super) struct Line(Option<Box<Noted>>);

/// Used again for another request, when this one is over.
#[derive(Default)]
struct Noted {
    /// The line's opening, for [`JsonLines`].
    text: Buffer,
    rest: Option<Rest>,
    rare: Rare,
}

struct Rest {
    config: Arc<Config>,
    exchange: Exchange,
    status: Option<StatusCode>,
    ttfb: Option<Duration>,
    sent: u64,
}

/// What most requests have nothing of.
#[derive(Default)]
struct Rare {
    authorization: Option<HeaderValue>,
    auth: Option<Box<AuthFailure>>,
    tunnel: Option<Tunnel>,
    /// For other sinks.
    original: Option<Original>,
}

impl Line {
    /// Where nothing is to be noted.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new<B>(config: &Arc<Config>, request: &mut Request<B>) -> Self {
        let exchange = Exchange::of(request.extensions_mut());
        let fields = Fields::read(config, request);
        let mut noted = take();
        let began = exchange.began();
        let made = fastrand::u128(..);
        match config.to {
            To::Json(_) => fields.open(config, began, made, request, &mut noted.text),
            To::Other(_) => {
                let original = Original::new(config, &fields, began, made, request);
                noted.rare.original = Some(original);
            }
        }
        if let Some(authorization) = fields.authorization {
            noted.rare.authorization = Some(authorization.clone());
        }
        let id_field = fields.id_field(config, made);
        id_field.apply(request.headers_mut());
        noted.rest = Some(Rest {
            config: config.clone(),
            exchange,
            status: None,
            ttfb: None,
            sent: 0,
        });
        Self(Some(noted))
    }

    pub(super) fn exchange(&self) -> Option<&Exchange> {
        self.rest().map(|rest| &rest.exchange)
    }

    /// Warns of a failure that came without a response, though a backend was tried.
    pub(super) fn warn_order(&self) {
        if let Some(rest) = self.rest() {
            if rest.exchange.count() > 0 {
                rest.config.warn_order();
            }
        }
    }

    /// Notes the response's head.
    pub(super) fn answered<B>(&mut self, response: &Response<B>) {
        let Some(noted) = &mut self.0 else { return };
        if let Some(rest) = &mut noted.rest {
            rest.status = Some(response.status());
            let began = rest.exchange.began();
            rest.ttfb = Some(Instant::now().saturating_duration_since(began));
        }
        if let Some(auth) = refused(response, noted.rare.authorization.as_ref()) {
            noted.rare.auth = Some(auth);
        }
    }

    pub(super) fn add_sent(&mut self, bytes: usize) {
        if let Some(rest) = self.rest_mut() {
            rest.sent += bytes as u64;
        }
    }

    /// The last byte went out.
    pub(super) fn done(&mut self) {
        self.end("ok");
    }

    /// The service or the body failed.
    pub(super) fn failed(&mut self) {
        self.end("service");
    }

    /// The tunnel that the response opened is the request's true end.
    pub(super) fn tunnel(mut self, tunnel: &Tunnel) {
        if let Some(noted) = &mut self.0 {
            noted.rare.tunnel = Some(tunnel.clone());
            tunnel.hold(Tunnelled(self));
        }
    }

    fn rest(&self) -> Option<&Rest> {
        self.0.as_ref()?.rest.as_ref()
    }

    fn rest_mut(&mut self) -> Option<&mut Rest> {
        self.0.as_mut()?.rest.as_mut()
    }

    /// Looks here already whether there is one: an empty one is dropped at each move.
    #[inline(always)]
    fn end(&mut self, otherwise: &'static str) {
        if let Some(noted) = self.0.take() {
            noted.end(otherwise);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(noted) = self.0.take() {
            noted.dropped();
        }
    }
}

impl Noted {
    /// Ends what neither the response's end nor a failure ended. Where a server polls its service
    /// just now, a layer outside the log gave the request up, and answers instead.
    #[cold]
    #[inline(never)]
    fn dropped(self: Box<Self>) {
        #[cfg(feature = "server")]
        if served::is_polled() {
            return served::leave(Box::new(move |status| self.superseded(status)));
        }
        self.end("client_abort");
    }

    #[cfg(feature = "server")]
    fn superseded(mut self: Box<Self>, status: Option<StatusCode>) {
        if let Some(rest) = &mut self.rest {
            if status.is_some() {
                let began = rest.exchange.began();
                rest.ttfb = Some(Instant::now().saturating_duration_since(began));
                rest.status = status;
            }
        }
        self.end(SUPERSEDED);
    }

    #[inline(never)]
    fn end(mut self: Box<Self>, otherwise: &'static str) {
        if let Some(rest) = &self.rest {
            match &rest.config.to {
                To::Json(lines) => {
                    let text = self.text.written();
                    if !rest.end(&self.rare, otherwise, |end| lines.end(text, end)) {
                        rest.end_again(&self.rare, otherwise, lines, text);
                    }
                }
                To::Other(sink) => rest.end_elsewhere(&self.rare, otherwise, sink),
            }
        }
        self.rest = None;
        if self.rare.is_some() {
            self.rare.forget();
        }
        keep(self);
    }
}

impl Rare {
    fn is_some(&self) -> bool {
        self.authorization.is_some()
            || self.auth.is_some()
            || self.tunnel.is_some()
            || self.original.is_some()
    }

    #[inline(never)]
    fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Rest {
    /// Says what is known at the end.
    #[inline(always)]
    fn end<T>(&self, rare: &Rare, otherwise: &'static str, say: impl FnOnce(&End<'_>) -> T) -> T {
        let duration = Instant::now().saturating_duration_since(self.exchange.began());
        let (received, sent) = match &rare.tunnel {
            Some(tunnel) => (tunnel.to_backend(), tunnel.to_client()),
            None => (self.exchange.received(), self.sent),
        };
        self.exchange.tell(
            #[inline(always)]
            |told| {
                say(&End {
                    status: self.status.map(|s| s.as_u16()),
                    duration,
                    ttfb: self.ttfb,
                    bytes: Some((received, sent)),
                    attempts: told.attempts,
                    decision: told.decision,
                    sticky: told.verdict,
                    auth: rare.auth.as_deref(),
                    outcome: outcome(&told, otherwise, self.status),
                    detail: None,
                })
            },
        )
    }

    /// Where the lines found no room in their buffer, and made some.
    #[cold]
    #[inline(never)]
    fn end_again(&self, rare: &Rare, otherwise: &'static str, lines: &JsonLines, text: &[u8]) {
        while !self.end(rare, otherwise, |end| lines.end(text, end)) {}
    }

    #[inline(never)]
    fn end_elsewhere(&self, rare: &Rare, otherwise: &'static str, sink: &dyn Sink) {
        if let Some(original) = &rare.original {
            self.end(rare, otherwise, |end| {
                sink.record(&entry(&self.config, original, end));
            });
        }
    }
}

fn refused<B>(
    response: &Response<B>,
    authorization: Option<&HeaderValue>,
) -> Option<Box<AuthFailure>> {
    if let Some(noted) = response.extensions().get::<AuthFailure>() {
        return Some(Box::new(noted.clone()));
    }
    if !matches!(response.status().as_u16(), 401 | 403 | 407) {
        return None;
    }
    derive(response, authorization).map(Box::new)
}

/// Returns how the request ended: with a failure that was answered for, else as the attempt did
/// that ended last, which is not the last one begun where a hedge was not needed.
#[inline(always)]
fn outcome(told: &Told<'_>, otherwise: &'static str, status: Option<StatusCode>) -> &'static str {
    if otherwise == "client_abort" {
        return otherwise;
    }
    let ended = |a: &&Attempt| {
        let duration = a.duration.unwrap_or_default();
        (a.duration.is_none(), a.began + duration)
    };
    let last = match told.attempts {
        [only] => Some(only),
        attempts => attempts.iter().max_by_key(ended),
    };
    let began = last.is_some();
    let last = last.and_then(|attempt| attempt.outcome);
    match (told.failure, last) {
        (Some(kind), _) | (None, Some(Outcome::Failed(kind))) => name(kind),
        // A whole response, and not of the backend that was asked: a layer in between gave it up.
        (None, Some(Outcome::Cancelled)) if otherwise == "ok" => superseded(status),
        // The layer's time-out may be the end of the log's line before it is that of the attempt.
        (None, None) if otherwise == "ok" && began && is_timeout(status) => superseded(status),
        _ if otherwise == SUPERSEDED => superseded(status),
        _ => otherwise,
    }
}

/// What a layer did that answered instead of what it stands around, as far as its status tells.
#[cold]
#[inline(never)]
fn superseded(status: Option<StatusCode>) -> &'static str {
    match is_timeout(status) {
        true => name(ErrorKind::Timeout),
        false => SUPERSEDED,
    }
}

fn is_timeout(status: Option<StatusCode>) -> bool {
    matches!(
        status,
        Some(StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT)
    )
}

/// Apart, so that the table of names is not looked into where nothing failed.
#[cold]
#[inline(never)]
fn name(kind: ErrorKind) -> &'static str {
    kind.as_str()
}

fn entry<'a>(config: &'a Config, original: &'a Original, end: &End<'a>) -> Entry<'a> {
    let conn = original.conn.as_ref();
    let (received, sent) = end.bytes.unwrap_or_default();
    Entry {
        time: original.time,
        node: config.node.as_deref(),
        listener: conn.map(|c| *c.local()),
        peer: conn.map(|c| *c.peer()),
        client: conn.and_then(ConnInfo::client),
        request: Some(original.entry()),
        refused: None,
        status: end.status,
        duration: end.duration,
        ttfb: end.ttfb,
        received,
        sent,
        attempts: end.attempts,
        decision: end.decision,
        sticky: end.sticky,
        tls: conn.and_then(ConnInfo::tls),
        auth: end.auth,
        outcome: end.outcome,
        detail: end.detail,
    }
}

/// Held by a tunnel: its drop is the tunnel's close.
struct Tunnelled(Line);

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// Returns one that is empty.
fn take() -> Box<Noted> {
    // An error says that the thread is about to end.
    let recycled = RECYCLED.try_with(|recycled| recycled.borrow_mut().pop());
    recycled.ok().flatten().unwrap_or_default()
}

/// Takes one that is over.
fn keep(mut noted: Box<Noted>) {
    noted.text.clear(KEPT_TEXT);
    let _ = RECYCLED.try_with(|recycled| {
        let mut recycled = recycled.borrow_mut();
        if recycled.len() < KEPT {
            recycled.push(noted);
        }
    });
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go out and come back as they are")]
    static RECYCLED: RefCell<Vec<Box<Noted>>> = const { RefCell::new(Vec::new()) };
}

/// Says what a refusal says itself: the scheme, and nothing more.
fn derive<B>(response: &Response<B>, authorization: Option<&HeaderValue>) -> Option<AuthFailure> {
    let (challenge, reason) = match response.status().as_u16() {
        401 => (header::WWW_AUTHENTICATE, "unauthorized"),
        407 => (header::PROXY_AUTHENTICATE, "proxy authentication required"),
        _ => (header::WWW_AUTHENTICATE, "forbidden"),
    };
    let offered = first_token(response.headers(), &challenge);
    let scheme = authorization.and_then(scheme_of).or(offered)?;
    Some(AuthFailure::new(scheme, reason))
}

fn first_token(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(scheme_of)
}

/// The scheme before the credentials; nothing where that does not look like one.
fn scheme_of(value: &HeaderValue) -> Option<String> {
    let text = value.as_bytes();
    let scheme = text.split(|byte| matches!(byte, b' ' | b',')).next()?;
    let scheme = std::str::from_utf8(scheme).ok()?;
    let is_scheme = |s: &str| {
        s.len() <= 20
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // Without a space, a value may be the credentials themselves.
    let bare = scheme.len() == text.len();
    let known = ["negotiate", "ntlm", "basic", "bearer", "digest"];
    let fine = is_scheme(scheme)
        && !scheme.is_empty()
        && (!bare || known.contains(&scheme.to_ascii_lowercase().as_str()));
    fine.then(|| scheme.to_owned())
}

/// A layer gave the request up, and answered itself.
const SUPERSEDED: &str = "superseded";
/// As many lines as usually end on a thread between two that begin, streams of HTTP/2 included.
const KEPT: usize = 256;
/// A line that needed more gives its buffer back: two are not to be had of one client.
const KEPT_TEXT: usize = 8 * 1024;

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
