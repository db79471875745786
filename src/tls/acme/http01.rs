//! [`Http01Layer`]: answers the requests by which an authority checks a name (RFC 8555 §8.3).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::answers::{ChallengeAnswers, http_key};
use crate::tls::ResponseBody;

/// Answers GET and HEAD for `/.well-known/acme-challenge/TOKEN` where the token is one of an open order,
/// here or at another instance that shares the store. All other requests go to the inner service, also
/// those for a token that is not known: another ACME client behind this server then still works, as it
/// does behind Caddy.
///
/// It belongs on port 80, outside of a redirect to https or inside of
/// [`HttpsRedirectLayer`](crate::tls::HttpsRedirectLayer), which lets these paths through.
///
/// ```
/// use evenkeel::tls::acme::{ChallengeAnswers, Http01Layer};
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let answers = ChallengeAnswers::new(); // also given to `Acme::answers`
/// let service = Http01Layer::new(answers).layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let request = Request::get("/.well-known/acme-challenge/unknown").body(())?;
/// assert_eq!(service.oneshot(request).await?.status(), 200); // of the inner service
/// # Ok(())
/// # }
/// ```
///
/// # Cost
///
/// One comparison of the path a request. A path of a challenge whose token is not in memory costs a look
/// into the store; 16 run at once, and others wait.
#[derive(Clone, Debug)]
#[must_use]
pub struct Http01Layer {
    answers: ChallengeAnswers,
}

impl Http01Layer {
    /// Makes a layer that gives these answers.
    pub fn new(answers: ChallengeAnswers) -> Self {
        Self { answers }
    }
}

impl<S> Layer<S> for Http01Layer {
    type Service = Http01<S>;

    fn layer(&self, inner: S) -> Http01<S> {
        Http01 {
            inner,
            answers: self.answers.clone(),
        }
    }
}

/// The service of [`Http01Layer`].
#[derive(Clone, Debug)]
pub struct Http01<S> {
    inner: S,
    answers: ChallengeAnswers,
}

impl<S, B, R> Service<Request<B>> for Http01<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = match token(&request) {
            None => FutureKind::Inner {
                future: self.inner.call(request),
            },
            Some(token) => self.challenge(&http_key(token), request),
        };
        ResponseFuture { kind }
    }
}

impl<S: Clone> Http01<S> {
    /// Answers from memory, else looks into the store.
    #[cold]
    fn challenge<B, R>(&mut self, key: &str, request: Request<B>) -> FutureKind<S, Request<B>>
    where
        S: Service<Request<B>, Response = Response<R>>,
    {
        if let Some(answer) = self.answers.get(key) {
            return FutureKind::Own { answer };
        }
        if !self.answers.has_store() {
            let future = self.inner.call(request);
            return FutureKind::Inner { future };
        }
        // The service that is ready answers; a clone takes its place.
        let clone = self.inner.clone();
        let (answers, key) = (self.answers.clone(), key.to_owned());
        FutureKind::LookUp {
            lookup: Box::pin(async move { answers.look_up(&key).await }),
            otherwise: Some((std::mem::replace(&mut self.inner, clone), request)),
        }
    }
}

/// Returns the token of a request of an authority.
fn token<B>(request: &Request<B>) -> Option<&str> {
    let token = request.uri().path().strip_prefix(PATH)?;
    let is_of = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let is_token = !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(is_of);
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    (is_token && is_read).then_some(token)
}

pin_project! {
    /// The future of [`Http01`].
    pub struct ResponseFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        kind: FutureKind<S, Req>,
    }
}

pin_project! {
    #[project = FutureKindProject]
    enum FutureKind<S, Req>
    where
        S: Service<Req>,
    {
        Inner { #[pin] future: S::Future },
        Own { answer: Bytes },
        // Boxed, because requests of authorities are rare and all others are small then.
        LookUp {
            lookup: Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>,
            otherwise: Option<(S, Req)>,
        },
    }
}

impl<S, Req, R> Future for ResponseFuture<S, Req>
where
    S: Service<Req, Response = Response<R>>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut kind = self.project().kind;
        loop {
            let next = match kind.as_mut().project() {
                FutureKindProject::Inner { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                FutureKindProject::Own { answer } => {
                    return Poll::Ready(Ok(own(std::mem::take(answer))));
                }
                FutureKindProject::LookUp { lookup, otherwise } => {
                    match (ready!(lookup.as_mut().poll(cx)), otherwise.take()) {
                        (Some(answer), _) => FutureKind::Own { answer },
                        (None, Some((mut inner, request))) => FutureKind::Inner {
                            future: inner.call(request),
                        },
                        // It was polled after its end.
                        (None, None) => return Poll::Pending,
                    }
                }
            };
            kind.set(next);
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for ResponseFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("http01::ResponseFuture")
            .finish_non_exhaustive()
    }
}

/// Makes the answer. The server leaves the body out for HEAD.
fn own<B>(answer: Bytes) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::own(answer));
    let octets = const { HeaderValue::from_static("application/octet-stream") };
    response.headers_mut().insert(CONTENT_TYPE, octets);
    response
}

const PATH: &str = crate::tls::https_redirect::ACME;
/// A token has 22 characters at least (RFC 8555 §8.3), and 43 at Let's Encrypt.
const MAX_TOKEN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_a_token_is_looked_up() {
        let long = "a".repeat(MAX_TOKEN + 1);
        for (method, path, wanted) in [
            ("GET", "/.well-known/acme-challenge/a-B_9", Some("a-B_9")),
            ("HEAD", "/.well-known/acme-challenge/a?b", Some("a")),
            ("POST", "/.well-known/acme-challenge/a", None),
            ("GET", "/.well-known/acme-challenge/", None),
            ("GET", "/.well-known/acme-challenge", None),
            ("GET", "/.well-known/acme-challenge/a/b", None),
            ("GET", "/.well-known/acme-challenge/../a", None),
            ("GET", "/.well-known/acme-challenge/a%20", None),
            ("GET", "/x/.well-known/acme-challenge/a", None),
            ("GET", &format!("{PATH}{long}"), None),
        ] {
            let request = Request::builder().method(method).uri(path).body(());
            assert_eq!(token(&request.unwrap()), wanted, "{method} {path}");
        }
    }
}
