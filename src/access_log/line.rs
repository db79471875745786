//! One line to come: what was noted of a request, until its true end.

use std::{cell::RefCell, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::{
    Entry,
    format::End,
    layer::{Config, To},
    request::{Fields, Original},
};
use crate::context::{Attempt, AuthFailure, ConnInfo, Exchange, Outcome, Told, Tunnel, clock};

/// What was noted of a request, if anything. Its drop is the end that nobody announced: the
/// client's.
#[derive(Default)]
pub(super) struct Line(Option<Box<Noted>>);

/// Used again for another request, when this one is over.
#[derive(Default)]
struct Noted {
    /// The line's opening, for [`JsonLines`](super::JsonLines).
    text: Vec<u8>,
    /// For other sinks.
    original: Option<Original>,
    rest: Option<Rest>,
}

struct Rest {
    config: Arc<Config>,
    exchange: Exchange,
    authorization: Option<HeaderValue>,
    status: Option<StatusCode>,
    ttfb: Option<Duration>,
    sent: u64,
    auth: Option<Box<AuthFailure>>,
    tunnel: Option<Tunnel>,
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
        match config.to {
            To::Json(_) => fields.open(config, began, request, &mut noted.text),
            To::Other(_) => {
                noted.original = Some(Original::new(config, &fields, began, request));
            }
        }
        noted.rest = Some(Rest {
            config: config.clone(),
            exchange,
            authorization: fields.authorization.cloned(),
            status: None,
            ttfb: None,
            sent: 0,
            auth: None,
            tunnel: None,
        });
        Self(Some(noted))
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
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
        if let Some(rest) = self.rest_mut() {
            rest.status = Some(response.status());
            let began = rest.exchange.began();
            rest.ttfb = Some(clock::now().saturating_duration_since(began));
            rest.auth = rest.refused(response);
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
        if let Some(rest) = self.rest_mut() {
            rest.tunnel = Some(tunnel.clone());
            tunnel.hold(Tunnelled(self));
        }
    }

    fn rest(&self) -> Option<&Rest> {
        self.0.as_ref()?.rest.as_ref()
    }

    fn rest_mut(&mut self) -> Option<&mut Rest> {
        self.0.as_mut()?.rest.as_mut()
    }

    #[inline]
    fn end(&mut self, otherwise: &'static str) {
        if let Some(noted) = self.0.take() {
            noted.end(otherwise);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end("client_abort");
    }
}

impl Noted {
    fn end(mut self: Box<Self>, otherwise: &'static str) {
        if let Some(rest) = &self.rest {
            rest.end(&self.text, self.original.as_ref(), otherwise);
        }
        self.rest = None;
        self.original = None;
        keep(self);
    }
}

impl Rest {
    fn refused<B>(&self, response: &Response<B>) -> Option<Box<AuthFailure>> {
        if let Some(noted) = response.extensions().get::<AuthFailure>() {
            return Some(Box::new(noted.clone()));
        }
        if !matches!(response.status().as_u16(), 401 | 403 | 407) {
            return None;
        }
        derive(response, self.authorization.as_ref()).map(Box::new)
    }

    fn end(&self, text: &[u8], original: Option<&Original>, otherwise: &'static str) {
        let duration = clock::now().saturating_duration_since(self.exchange.began());
        let (received, sent) = match &self.tunnel {
            Some(tunnel) => (tunnel.to_backend(), tunnel.to_client()),
            None => (self.exchange.received(), self.sent),
        };
        self.exchange.tell(|told| {
            let end = End {
                status: self.status.map(|s| s.as_u16()),
                duration,
                ttfb: self.ttfb,
                bytes: Some((received, sent)),
                attempts: told.attempts,
                decision: told.decision,
                sticky: told.verdict,
                auth: self.auth.as_deref(),
                outcome: outcome(&told, otherwise),
                detail: None,
            };
            match (&self.config.to, original) {
                (To::Json(lines), _) => lines.end(text, &end),
                (To::Other(sink), Some(original)) => {
                    sink.record(&entry(&self.config, original, &end));
                }
                (To::Other(_), None) => {}
            }
        });
    }
}

/// Returns how the request ended: with a failure that was answered for, else as the attempt did
/// that ended last, which is not the last one begun where a hedge was not needed.
fn outcome(told: &Told<'_>, otherwise: &'static str) -> &'static str {
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
    let failed = told.failure.or_else(|| match last?.outcome? {
        Outcome::Failed(kind) => Some(kind),
        Outcome::Cancelled | Outcome::Discarded | Outcome::Hedged | Outcome::Ok => None,
    });
    failed.map_or(otherwise, crate::error::ErrorKind::as_str)
}

#[inline(never)]
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
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

/// Takes one that is over.
fn keep(mut noted: Box<Noted>) {
    noted.text.clear();
    if noted.text.capacity() > KEPT_TEXT {
        noted.text = Vec::new();
    }
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(noted);
        }
    });
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go out and come back as they are")]
    static SPARE: RefCell<Vec<Box<Noted>>> = const { RefCell::new(Vec::new()) };
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
    let text = value.to_str().ok()?;
    let scheme = text.split([' ', ',']).next()?;
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
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(scheme_of(&value).as_deref(), scheme, "{value:?}");
        }
    }
}
