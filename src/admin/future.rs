//! The response future: ready at once, or when the body of an order has been read.
//!
//! What happens to an order, in this order: the path names an action, the method is POST, the page is
//! of this origin, the sender is authorized, the type of the body is known; only then is the body
//! read, up to 4 KiB, and only a whole body is carried out. A client that hangs up within it has
//! ordered nothing.
//!
//! The body is read by the future and not collected by a helper: a helper would need a box, and a
//! bound that counts before it copies.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Response, StatusCode, request::Parts};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use serde_json::json;

use super::{
    Body, User,
    authorize::Refusal,
    cross_origin::is_cross_origin,
    fields::{BadBody, Fields, Format},
    order::{Action, Order},
    response,
    service::Inner,
};
use crate::{context::ConnInfo, log_limit::LogLimit};

/// Boxed: a scrape comes every few seconds.
pub(super) type MetricsFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

pin_project! {
    /// The response future of [`Admin`](super::Admin).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProject]
    enum State<B> {
        Metrics { future: MetricsFuture },
        Reading { #[pin] body: B, order: PendingOrder, read: Vec<u8> },
        Ready { response: Option<Response<Body>> },
    }
}

impl<B> ResponseFuture<B> {
    pub(super) fn ready(response: Response<Body>) -> Self {
        let response = Some(response);
        Self {
            state: State::Ready { response },
        }
    }

    pub(super) fn metrics(future: MetricsFuture) -> Self {
        Self {
            state: State::Metrics { future },
        }
    }

    pub(super) fn reading(body: B, order: PendingOrder) -> Self {
        let read = Vec::new();
        Self {
            state: State::Reading { body, order, read },
        }
    }
}

impl<B: HttpBody> Future for ResponseFuture<B> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProject::Metrics { future } => future.as_mut().poll(cx).map(Ok),
            StateProject::Reading { body, order, read } => {
                Poll::Ready(Ok(match ready!(poll_read(body, read, cx)) {
                    Ok(()) => order.complete(read),
                    Err(response) => response,
                }))
            }
            StateProject::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
        }
    }
}

/// Reads the body to its end, up to [`MAX_BODY`].
fn poll_read<B: HttpBody>(
    mut body: Pin<&mut B>,
    read: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Response<Body>>> {
    while let Some(frame) = ready!(body.as_mut().poll_frame(cx)) {
        let Ok(frame) = frame else {
            return Poll::Ready(Err(response::broken_body()));
        };
        // Trailers say nothing here.
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        // Before the bytes are copied: a client cannot make this side hold more.
        if read.len() + data.remaining() > MAX_BODY {
            return Poll::Ready(Err(response::body_too_large(MAX_BODY)));
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            let length = chunk.len();
            read.extend_from_slice(chunk);
            data.advance(length);
        }
    }
    Poll::Ready(Ok(()))
}

/// An order whose sender is authorized, and whose body has not been read.
pub(super) struct PendingOrder {
    admin: Arc<Inner>,
    id: String,
    action: Action,
    format: Format,
    user: User,
    peer: String,
}

impl PendingOrder {
    /// Checks what the head of the request shows.
    pub(super) fn admit(
        admin: &Arc<Inner>,
        head: &Parts,
        id: String,
        action: Action,
    ) -> Result<Self, Box<Response<Body>>> {
        let peer = ConnInfo::peer_of(&head.extensions);
        let peer = peer.map_or_else(|| "unknown".into(), |peer| peer.to_string());
        if is_cross_origin(head) {
            log_refusal(
                &id,
                action,
                &peer,
                "the request comes from a page of another origin",
            );
            return Err(response::cross_origin().into());
        }
        let user = admin.config.authorization.authorize(head);
        let user = user.map_err(|refusal| {
            let why = match &refusal {
                Refusal::Forbidden(why) | Refusal::Unauthenticated(why) => why,
                Refusal::ReadOnly => "the API is read-only",
            };
            log_refusal(&id, action, &peer, why);
            response::refused(&refusal)
        })?;
        Ok(Self {
            format: Format::of(head).map_err(|bad| response::bad_body(&bad))?,
            admin: admin.clone(),
            id,
            action,
            user,
            peer,
        })
    }

    /// Carries out the order that the body completes.
    fn complete(&self, body: &[u8]) -> Response<Body> {
        // The pool is changed here, synchronously: a dropped future cannot leave half an order.
        let order = self.order(body);
        match order {
            Ok(order) => self.carry_out(order),
            Err(bad) => response::bad_body(&bad),
        }
    }

    fn order(&self, body: &[u8]) -> Result<Order, BadBody> {
        self.action.order(Fields::parse(self.format, body)?)
    }

    /// The log line comes behind the change, as it says that it was done; the pool logs the change
    /// itself before. Both have the id, and only this one has the user.
    fn carry_out(&self, order: Order) -> Response<Body> {
        let pool = &self.admin.config.pool;
        let (user, peer, id) = (self.user.name(), &*self.peer, &*self.id);
        if order.apply(pool, id).is_err() {
            tracing::warn!(
                target: "evenkeel::admin",
                user, peer, backend = id, %order, "an order names no backend of the pool"
            );
            return response::unknown_backend(id);
        }
        tracing::info!(
            target: "evenkeel::admin",
            user, peer, backend = id, %order, "an order was carried out"
        );
        // The state behind the order, so that a script need not ask again.
        let backends = self.admin.status().backends;
        let backend = backends.into_iter().find(|backend| backend.id == id);
        let value = json!({"backend": backend});
        response::json(&http::Method::POST, StatusCode::OK, &value)
    }
}

/// Logs a refused order, at most one in ten seconds: a client chooses how often it tries.
fn log_refusal(id: &str, action: Action, peer: &str, why: &str) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(left_out) = LIMIT.pass() {
        let action = action.as_str();
        tracing::warn!(
            target: "evenkeel::admin",
            peer, backend = id, action, why, left_out, "an order was refused"
        );
    }
}

impl<B> fmt::Debug for ResponseFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A field or two.
pub(super) const MAX_BODY: usize = 4_096;
