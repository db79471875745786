//! [`Sticky`]: reads the cookie of a request, and sets one with the response.
//!
//! The way of a session through one request:
//!
//! ```text
//! request  ─ cookie verified? ─▶ Exchange::set_affinity ─▶ balance: verdict, attempts
//!                    └ no ─────▶ verdict `none` or `invalid`
//! response ─ answered_by() ─ is it the backend that a current cookie names? ─ yes ─▶ nothing
//!                                               └ no, and it is not draining ─▶ Set-Cookie, private
//! ```
//!
//! The layer does not decide where a request goes: it asks, and reads the result from the record. So a
//! failover between the two may try other backends, and the cookie names the one that answered.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderMap, Request, Response, header};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    StickyLayer,
    cache_control::make_private,
    cookie::remove,
    layer::{StickyConfig, StickyState, TokenLookup},
};
use crate::context::{ConnInfo, Exchange, StickyVerdict};

/// Keeps the sessions of clients on their backends; made by [`StickyLayer`].
#[derive(Clone)]
pub struct Sticky<S> {
    inner: S,
    config: Arc<StickyConfig>,
    tokens: Arc<TokenLookup>,
    state: Arc<StickyState>,
}

impl<S> Sticky<S> {
    pub(super) fn new(
        layer: &StickyLayer,
        tokens: Arc<TokenLookup>,
        state: Arc<StickyState>,
        inner: S,
    ) -> Self {
        Self {
            inner,
            config: layer.config.clone(),
            tokens,
            state,
        }
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Removes the cookie from the request and writes the affinity into the exchange. Returns true
    /// if the cookie needs no renewal, provided that its backend answers.
    fn read_cookie(&self, headers: &mut HeaderMap, exchange: &Exchange) -> bool {
        let snapshot = self.tokens.pool.snapshot();
        let Some(table) = snapshot.derived(&self.tokens.table) else {
            return false;
        };
        let mut verified = None;
        let is_present = remove(headers, &self.config.cookie_name, |value| {
            // The first that verifies: a client may send a cookie of another path or domain as well.
            if verified.is_none() {
                verified = table.verify(value);
            }
        });
        match verified {
            // The balancer settles the verdict: it knows whether the backend can take the request.
            Some(verified) => {
                exchange.set_affinity(verified.backend);
                return verified.is_current;
            }
            None if is_present => exchange.set_sticky_verdict(StickyVerdict::Invalid),
            None => exchange.set_sticky_verdict(StickyVerdict::None),
        }
        false
    }

    /// Logs a warning, once each, about a deployment in which the layer has no effect.
    fn warn_if_ineffective(&self, extensions: &Extensions, exchange: &Exchange) {
        if self.config.secure && !self.state.warned_cleartext.load(Relaxed) {
            let conn = ConnInfo::of(extensions);
            if conn.is_some_and(|conn| conn.tls().is_none()) {
                warn_once(
                    &self.state.warned_cleartext,
                    "the cookie is Secure and the request came over cleartext: browsers will drop it",
                );
            }
        }
        if exchange.attempt_count() > 0 {
            warn_once(
                &self.state.warned_order,
                "StickyLayer is below the failover or the balancer: place it above both",
            );
        }
    }
}

#[cold]
fn warn_once(warned: &AtomicBool, message: &'static str) {
    if !warned.swap(true, Relaxed) {
        tracing::warn!(target: "evenkeel::sticky", "{message}");
    }
}

impl<S: fmt::Debug> fmt::Debug for Sticky<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky")
            .field("inner", &self.inner)
            .field("cookie", &self.config.cookie_name)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Sticky<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(request.extensions_mut());
        self.warn_if_ineffective(request.extensions(), &exchange);
        let is_current = self.read_cookie(request.headers_mut(), &exchange);
        ResponseFuture {
            inner: self.inner.call(request),
            exchange,
            is_current,
            tokens: self.tokens.clone(),
        }
    }
}

pin_project! {
    /// The response of [`Sticky`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        exchange: Exchange,
        // The cookie needs no renewal if the backend that it names answers.
        is_current: bool,
        tokens: Arc<TokenLookup>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let renew_for = this.exchange.summary(|facts| {
            // Without a backend there is no session.
            let answered = facts.answered_by()?;
            let named = facts.affinity.filter(|_| *this.is_current);
            let is_held = named.is_some_and(|named| named.is_same(answered));
            // A draining backend keeps a session for a short time only: its cookie is not renewed.
            let is_leaving = facts.verdict == Some(StickyVerdict::Draining);
            (!is_held && !is_leaving).then(|| answered.clone())
        });
        if let Some(answered) = renew_for {
            // The newest: the backend that answered may have joined during the request.
            let snapshot = this.tokens.pool.snapshot();
            let cookie = snapshot
                .derived(&this.tokens.table)
                .and_then(|t| t.cookie(&answered));
            if let Some(cookie) = cookie {
                response
                    .headers_mut()
                    .append(header::SET_COOKIE, cookie.clone());
                make_private(response.headers_mut());
            }
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("sticky::ResponseFuture")
            .finish_non_exhaustive()
    }
}
