//! The two services of the balance module behind one type, so that one suite drives both.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    balance::{Balance, ResponseBody, ResponseFuture, StackBalance},
    context::CallSelected,
    error::{BoxError, Error},
};

#[derive(Clone)]
pub(super) enum EitherBalance<S> {
    StackBalance(StackBalance<S>),
    Standalone(Balance<S>),
}

impl<S, B, R> Service<Request<B>> for EitherBalance<S>
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
        match self {
            Self::StackBalance(balance) => balance.poll_ready(cx),
            Self::Standalone(balance) => balance.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self {
            Self::StackBalance(balance) => balance.call(request),
            Self::Standalone(balance) => balance.call(request),
        }
    }
}
