//! Redirects cleartext requests to https.

use std::{
    fmt,
    future::Future,
    net::Ipv6Addr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, LOCATION},
    uri::Authority,
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseBody;
use crate::context::ConnInfo;

/// Answers cleartext requests with 308 and the same URL under https. Requests over TLS go to the inner
/// service.
///
/// The host is that of the request. A request without exactly one valid host name or address gets
/// 400. Paths under `/.well-known/acme-challenge/` go to the inner service, since certificate
/// authorities request them in cleartext (RFC 8555 §8.3).
///
/// ```
/// use evenkeel::tls::HttpsRedirectLayer;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let service = HttpsRedirectLayer::new().layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let request = Request::get("/a?b=c").header("host", "example.test:8080").body(())?;
/// let response = service.oneshot(request).await?;
/// assert_eq!(response.status(), 308);
/// assert_eq!(response.headers()["location"], "https://example.test/a?b=c");
/// # Ok(())
/// # }
/// ```
///
/// **Deployment caveat.** A request counts as cleartext unless its [`ConnInfo`] says that it came over
/// TLS. If another process terminates TLS, or axum serves without
/// `into_make_service_with_connect_info::<ConnInfo>()`, every request is redirected forever.
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpsRedirectLayer {
    port: u16,
}

impl HttpsRedirectLayer {
    /// Makes a layer that redirects to port 443.
    pub fn new() -> Self {
        Self { port: HTTPS_PORT }
    }

    /// Sets the port of the URL: the one that clients connect to, which may differ from the one that the
    /// server listens on.
    ///
    /// Default: 443, which the URL leaves out.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

impl Default for HttpsRedirectLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for HttpsRedirectLayer {
    type Service = HttpsRedirect<S>;

    fn layer(&self, inner: S) -> HttpsRedirect<S> {
        HttpsRedirect {
            inner,
            port: self.port,
        }
    }
}

/// The service of [`HttpsRedirectLayer`].
#[derive(Clone, Debug)]
pub struct HttpsRedirect<S> {
    inner: S,
    port: u16,
}

impl<S, B, R> Service<Request<B>> for HttpsRedirect<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let tls = ConnInfo::of(request.extensions()).and_then(ConnInfo::tls);
        let kind = if tls.is_some() || request.uri().path().starts_with(ACME) {
            FutureKind::Inner {
                future: self.inner.call(request),
            }
        } else {
            FutureKind::Own {
                location: location(&request, self.port),
            }
        };
        ResponseFuture { kind }
    }
}

pin_project! {
    /// The future of [`HttpsRedirect`].
    pub struct ResponseFuture<F> {
        #[pin]
        kind: FutureKind<F>,
    }
}

pin_project! {
    #[project = FutureKindProject]
    enum FutureKind<F> {
        Inner { #[pin] future: F },
        Own { location: Option<HeaderValue> },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project().kind.project() {
            FutureKindProject::Inner { future } => {
                let response = ready!(future.poll(cx))?;
                response.map(ResponseBody::inner)
            }
            FutureKindProject::Own { location } => own(location.take()),
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("https_redirect::ResponseFuture")
            .finish_non_exhaustive()
    }
}

/// Makes the answer: 308 (RFC 9110 §15.4.9), which is permanent and keeps method and body, or 400.
fn own<B>(location: Option<HeaderValue>) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::default());
    if let Some(location) = location {
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(LOCATION, location);
        return response;
    }
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let text = const { HeaderValue::from_static("text/plain") };
    response.headers_mut().insert(CONTENT_TYPE, text);
    *response.body_mut() = ResponseBody::own(NO_HOST);
    response
}

fn location<B>(request: &Request<B>, port: u16) -> Option<HeaderValue> {
    if request.method() == Method::CONNECT {
        return None;
    }
    let authority = authority(request)?;
    let host = authority.host();
    let path = request.uri().path_and_query().map(|path| path.as_str());
    // `OPTIONS *` has no path: it asks about the server.
    let path = path.filter(|path| path.starts_with('/')).unwrap_or("/");
    let url = match port {
        HTTPS_PORT => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    HeaderValue::from_maybe_shared(url.into_bytes()).ok()
}

/// Returns the host of the request. That of the target takes precedence over the Host field
/// (RFC 9112 §3.2.2).
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return None;
    }
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(field?.as_bytes()).ok()?,
    };
    is_valid(&authority).then_some(authority)
}

/// Returns true for a name or an address, with or without a port, and without user information.
fn is_valid(authority: &Authority) -> bool {
    let host = authority.host();
    // Text before the host would be user information.
    let Some(port) = authority.as_str().strip_prefix(host) else {
        return false;
    };
    let is_port = matches!(port, "" | ":") || authority.port_u16().is_some();
    let is_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(is_name)
        }
    };
    is_host && is_port
}

/// The port of `https://` without a port.
pub(super) const HTTPS_PORT: u16 = 443;
/// The path that certificate authorities request (RFC 8555 §8.3).
pub(super) const ACME: &str = "/.well-known/acme-challenge/";
const NO_HOST: &[u8] = b"The request names no valid host.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_that_was_asked_for_is_checked() {
        for (host, valid) in [
            ("example.test", true),
            ("example.test:8080", true),
            ("EXAMPLE.test.", true),
            ("under_score.test", true),
            ("192.0.2.1", true),
            ("[2001:db8::1]:80", true),
            ("[not-an-address]", false),
            ("user@example.test", false),
            ("user:pass@example.test", false),
            ("example.test:port", false),
            ("example.test:99999", false),
            ("a b", false),
            ("a/b", false),
            ("a%2fb", false),
            ("a,b", false),
            ("", false),
            (":80", false),
        ] {
            let request = Request::get("/a?b=c").header(HOST, host).body(());
            let location = location(&request.unwrap(), 443);
            assert_eq!(location.is_some(), valid, "{host:?}: {location:?}");
        }
    }

    #[test]
    fn the_location_is_the_same_url_under_https() {
        for (target, port, url) in [
            ("/", 443, "https://a.test/"),
            ("/x/y?z=%20", 443, "https://a.test/x/y?z=%20"),
            ("//evil.test/x", 443, "https://a.test//evil.test/x"),
            ("/", 8443, "https://a.test:8443/"),
            ("*", 443, "https://a.test/"),
            ("http://b.test:80/x", 443, "https://b.test/x"),
        ] {
            let request = Request::get(target).header(HOST, "a.test:8080").body(());
            let location = location(&request.unwrap(), port);
            assert_eq!(location.unwrap(), url, "{target}");
        }
    }

    #[test]
    fn no_host_two_hosts_and_connect_have_no_location() {
        let none = Request::get("/").body(()).unwrap();
        assert!(location(&none, 443).is_none());
        let two = Request::get("/").header(HOST, "a").header(HOST, "a");
        assert!(location(&two.body(()).unwrap(), 443).is_none());
        let connect = Request::builder().method("CONNECT").uri("a.test:443");
        assert!(location(&connect.body(()).unwrap(), 443).is_none());
    }
}
