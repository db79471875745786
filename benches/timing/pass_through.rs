//! A layer that does nothing but what each layer does that must see the end of a response.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

/// Wraps the future and the body of the response, and carries an empty box in both.
pub(crate) struct PassThrough<S>(pub(crate) S);

type Note = Option<Box<[u64; 8]>>;

impl<S, B, R> Service<Request<B>> for PassThrough<S>
where
    S: Service<Request<PassBody<B>>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<PassBody<R>>;
    type Error = S::Error;
    type Future = PassFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|inner| PassBody { inner, note: None });
        PassFuture {
            inner: self.0.call(request),
            note: None,
        }
    }
}

pin_project! {
    pub(crate) struct PassFuture<F> {
        #[pin]
        inner: F,
        note: Note,
    }
}

impl<F, R, E> Future for PassFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<PassBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let note = this.note.take();
        Poll::Ready(result.map(|response| response.map(|inner| PassBody { inner, note })))
    }
}

pin_project! {
    pub(crate) struct PassBody<B> {
        #[pin]
        inner: B,
        note: Note,
    }
}

impl<B: Body> Body for PassBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
