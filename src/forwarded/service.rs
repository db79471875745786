//! `Forwarded`: finds the client of each request before the inner service gets it.
//!
//! Runs in `call`, before the inner service: no future of its own, so the layer costs no poll. It
//! changes the handle of [`ConnInfo`] in the request, which shares the connection's facts; the
//! connection itself and its other requests are left as they are.

use std::task::{Context, Poll};

use http::{HeaderName, Request, header};
use tower_service::Service;

use super::{
    ClientField, ForwardedLayer,
    hops::{self, client},
};
use crate::context::{ConnInfo, TrustedPeers};

/// The service of [`ForwardedLayer`].
#[derive(Clone, Debug)]
pub struct Forwarded<S> {
    inner: S,
    layer: ForwardedLayer,
}

impl<S> Forwarded<S> {
    pub(super) fn new(inner: S, layer: ForwardedLayer) -> Self {
        Self { inner, layer }
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S, B> Service<Request<B>> for Forwarded<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(trusted) = &self.layer.trusted {
            find_client(trusted, self.layer.field, &mut request);
        }
        self.inner.call(request)
    }
}

#[inline(never)]
fn find_client<B>(trusted: &TrustedPeers, field: ClientField, request: &mut Request<B>) {
    let sender = ConnInfo::of(request.extensions()).and_then(ConnInfo::sender);
    // Most requests of a server without hops in front end here.
    if !sender.is_some_and(|sender| trusted.contains(sender.ip())) {
        return;
    }
    // The lines of a field are one list (RFC 9110 §5.3).
    let lines = |name| request.headers().get_all(name).iter().rev();
    let found = match field {
        ClientField::XForwardedFor => {
            let lines = lines(X_FORWARDED_FOR);
            client(
                trusted,
                lines.flat_map(|l| hops::x_forwarded_for(l.as_bytes())),
            )
        }
        ClientField::Forwarded => {
            let lines = lines(header::FORWARDED);
            client(trusted, lines.flat_map(|l| hops::forwarded(l.as_bytes())))
        }
    };
    if let Some(found) = found
        && let Some(conn) = ConnInfo::of_mut(request.extensions_mut())
    {
        conn.set_forwarded_client(found);
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
