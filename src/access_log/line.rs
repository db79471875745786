//! One line to come: what was noted of a request, until its true end.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use tokio::time::Instant;

use super::{
    Entry,
    entry::{RequestEntry, RequestId},
    layer::Config,
};
use crate::context::{Attempt, AuthFailure, ConnInfo, Exchange, Original, Outcome, Tunnel};

/// What was noted of a request. Its drop is the end that nobody announced: the client's.
pub(super) struct Line {
    config: Arc<Config>,
    exchange: Exchange,
    conn: Option<ConnInfo>,
    status: Option<StatusCode>,
    ttfb: Option<Duration>,
    sent: u64,
    auth: Option<Box<AuthFailure>>,
    tunnel: Option<Tunnel>,
    ended: bool,
}

impl Line {
    pub(super) fn new<B>(config: Arc<Config>, request: &mut Request<B>) -> Self {
        let original = read(&config, request);
        let exchange = Exchange::with_original(request.extensions_mut(), original);
        Self {
            conn: ConnInfo::of(request.extensions()).cloned(),
            status: None,
            ttfb: None,
            sent: 0,
            auth: None,
            tunnel: None,
            ended: false,
            config,
            exchange,
        }
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Warns of a failure that came without a response, though a backend was tried.
    pub(super) fn warn_order(&self) {
        if !self.exchange.attempts(<[_]>::is_empty) {
            self.config.warn_order();
        }
    }

    /// Notes the response's head.
    pub(super) fn answered<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status());
        self.ttfb = Some(self.exchange.began().elapsed());
        let refused = matches!(response.status().as_u16(), 401 | 403 | 407);
        self.auth = match response.extensions().get::<AuthFailure>() {
            Some(noted) => Some(Box::new(noted.clone())),
            None if refused => {
                let original = self.exchange.original();
                let sent = original.and_then(|o| o.authorization.as_ref());
                derive(response, sent).map(Box::new)
            }
            None => None,
        };
    }

    pub(super) fn add_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The last byte went out.
    pub(super) fn done(mut self) {
        self.end("ok");
    }

    /// The service or the body failed.
    pub(super) fn failed(mut self) {
        self.end("service");
    }

    /// The tunnel that the response opened is the request's true end.
    pub(super) fn tunnel(mut self, tunnel: &Tunnel) {
        self.tunnel = Some(tunnel.clone());
        tunnel.hold(Tunnelled(Some(self)));
    }

    fn end(&mut self, otherwise: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Some(original) = self.exchange.original() else {
            return;
        };
        let redacted = match (&self.config.query, original.uri.query()) {
            (Some(redact), Some(query)) => Some(redact(query)),
            _ => None,
        };
        let (time, duration) = began(self.exchange.began());
        let (received, sent) = match &self.tunnel {
            Some(tunnel) => (tunnel.to_backend(), tunnel.to_client()),
            None => (self.exchange.received(), self.sent),
        };
        self.exchange.tell(|told| {
            let attempts = told.attempts;
            // A failure that was answered for, else how the attempt ended that ended last: where
            // a hedge was not needed, that is not the last one begun.
            let ended = |a: &&Attempt| {
                (
                    a.duration.is_none(),
                    a.began + a.duration.unwrap_or_default(),
                )
            };
            let last = attempts.iter().max_by_key(ended);
            let failed = told.failure.or_else(|| match last?.outcome? {
                Outcome::Failed(kind) => Some(kind),
                Outcome::Cancelled | Outcome::Discarded | Outcome::Hedged | Outcome::Ok => None,
            });
            let failed = failed.map(crate::error::ErrorKind::as_str);
            let outcome = match otherwise {
                "client_abort" => otherwise,
                _ => failed.unwrap_or(otherwise),
            };
            self.config.sink.record(&Entry {
                time,
                node: self.config.node.as_deref(),
                listener: self.conn.as_ref().map(|c| *c.local()),
                peer: self.conn.as_ref().map(|c| *c.peer()),
                client: self.conn.as_ref().and_then(ConnInfo::client),
                request: Some(RequestEntry {
                    id: match &original.request_id {
                        Some(id) => RequestId::Given(id.as_bytes()),
                        None => RequestId::Made(fastrand::u128(..)),
                    },
                    method: &original.method,
                    uri: &original.uri,
                    version: original.version,
                    host: original.host.as_ref().map(HeaderValue::as_bytes),
                    query: redacted.as_deref(),
                    user_agent: original.user_agent.as_ref().map(HeaderValue::as_bytes),
                    referer: original.referer.as_ref().map(HeaderValue::as_bytes),
                }),
                status: self.status.map(|s| s.as_u16()),
                duration,
                ttfb: self.ttfb,
                received,
                sent,
                attempts,
                decision: told.decision,
                sticky: told.verdict,
                tls: self.conn.as_ref().and_then(ConnInfo::tls),
                auth: self.auth.as_deref(),
                outcome,
                detail: None,
            });
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end("client_abort");
    }
}

/// Held by a tunnel: its drop is the tunnel's close.
struct Tunnelled(Option<Line>);

impl Drop for Tunnelled {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            line.done();
        }
    }
}

/// Reads what a line will say of the request, in one pass over its fields.
fn read<B>(config: &Config, request: &Request<B>) -> Original {
    let mut original = Original {
        method: request.method().clone(),
        uri: original_uri(request).clone(),
        version: request.version(),
        host: None,
        user_agent: None,
        referer: None,
        request_id: None,
        authorization: None,
    };
    for (name, value) in request.headers() {
        let place = match *name {
            header::HOST if request.uri().authority().is_none() => &mut original.host,
            header::USER_AGENT => &mut original.user_agent,
            header::REFERER if config.referer => &mut original.referer,
            // Only its scheme is ever shown.
            header::AUTHORIZATION => &mut original.authorization,
            _ if config.trust_request_id && *name == REQUEST_ID && value.len() <= MAX_ID => {
                &mut original.request_id
            }
            _ => continue,
        };
        place.get_or_insert_with(|| value.clone());
    }
    original
}

/// Returns the wall clock's time of a moment, and how long ago it was. The wall clock is read
/// once a second and thread: a step of it shows within that.
fn began(moment: Instant) -> (SystemTime, Duration) {
    thread_local! {
        static ANCHOR: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let ago = now.saturating_duration_since(moment);
    let is_fresh = |(at, _): &(Instant, SystemTime)| {
        *at <= now && now.saturating_duration_since(*at) < Duration::from_secs(1)
    };
    let (at, wall) = ANCHOR.get().filter(is_fresh).unwrap_or_else(|| {
        let anchor = (now, SystemTime::now());
        ANCHOR.set(Some(anchor));
        anchor
    });
    let since = now.saturating_duration_since(at);
    let time = (wall + since).checked_sub(ago);
    (time.unwrap_or(SystemTime::UNIX_EPOCH), ago)
}

/// The target as the client sent it: axum's `nest` keeps it aside.
fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
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

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ones are not ids.
const MAX_ID: usize = 128;

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
