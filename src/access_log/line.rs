//! One line to come: what was noted of a request, until its true end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};

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
        let exchange = Exchange::of(request.extensions_mut());
        let headers = request.headers();
        let one = |name| headers.get(name).cloned();
        exchange.keep_original(Original {
            method: request.method().clone(),
            uri: original_uri(request).clone(),
            version: request.version(),
            host: match request.uri().authority() {
                Some(_) => None,
                None => one(header::HOST),
            },
            user_agent: one(header::USER_AGENT),
            referer: config.referer.then(|| one(header::REFERER)).flatten(),
            request_id: config
                .trust_request_id
                .then(|| request_id(headers))
                .flatten(),
            // Only its scheme is ever shown.
            authorization: one(header::AUTHORIZATION),
        });
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
        let duration = self.exchange.began().elapsed();
        let sticky = self.exchange.sticky_verdict();
        let decision = self.exchange.decision();
        let failure = self.exchange.failure();
        let (received, sent) = match &self.tunnel {
            Some(tunnel) => (tunnel.to_backend(), tunnel.to_client()),
            None => (self.exchange.received(), self.sent),
        };
        self.exchange.attempts(|attempts| {
            // A failure that was answered for, else how the attempt ended that ended last: where
            // a hedge was not needed, that is not the last one begun.
            let ended = |a: &&Attempt| {
                (
                    a.duration.is_none(),
                    a.began + a.duration.unwrap_or_default(),
                )
            };
            let last = attempts.iter().max_by_key(ended);
            let failed = failure.or_else(|| match last?.outcome? {
                Outcome::Failed(kind) => Some(kind),
                Outcome::Cancelled | Outcome::Discarded | Outcome::Hedged | Outcome::Ok => None,
            });
            let failed = failed.map(crate::error::ErrorKind::as_str);
            let outcome = match otherwise {
                "client_abort" => otherwise,
                _ => failed.unwrap_or(otherwise),
            };
            self.config.sink.record(&Entry {
                time: SystemTime::now()
                    .checked_sub(duration)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
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
                decision,
                sticky,
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

/// The target as the client sent it: axum's `nest` keeps it aside.
fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
}

fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get("x-request-id")
        .filter(|id| id.len() <= MAX_ID)
        .cloned()
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

fn first_token(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
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
