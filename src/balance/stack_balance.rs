//! `StackBalance`: the balancer of the built-in stack, which passes its pick on as an argument.
//!
//! The extension costs an allocation for each attempt, which a stack that this crate builds itself can
//! do without; `benches/layers.rs` measures the layer with it. The types differ, as a service that
//! reads `Selected` must not be stacked below this one: it would find none and fail with `NotRouted`.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{Balance, body::ResponseBody, future::ResponseFuture};
use crate::{
    context::CallSelected,
    error::{BoxError, Error},
};

/// A [`Balance`] whose inner service takes the pick as an argument ([`CallSelected`]) instead of as a
/// `Selected` extension.
#[derive(Clone, Debug)]
pub(crate) struct StackBalance<S>(Balance<S>);

impl<S> StackBalance<S> {
    pub(crate) fn new(balance: Balance<S>) -> Self {
        Self(balance)
    }
}

impl<S, B, R> Service<Request<B>> for StackBalance<S>
where
    S: CallSelected<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The selection borrows from the attempt, which the future takes over behind this call.
        self.0.begin(request, |inner, request, running| {
            inner.call_selected(request, running.selection())
        })
    }
}
