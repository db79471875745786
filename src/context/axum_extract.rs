//! What handlers of axum ask for: the connection, by an extractor; or its client's address, as
//! those do that know `ConnectInfo<SocketAddr>`.

use std::{
    error, fmt,
    net::SocketAddr,
    task::{Context, Poll},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, OptionalFromRequestParts, connect_info::Connected},
    response::{IntoResponse, Response},
    serve::IncomingStream,
};
use http::{Request, StatusCode, request::Parts};
use tokio::net::{TcpListener, UnixListener};
use tower_layer::Layer;
use tower_service::Service;

use super::{ConnInfo, Peer};

/// A handler takes it as an argument, under `evenkeel::serve` and under `axum::serve` alike; the
/// latter needs `into_make_service_with_connect_info::<ConnInfo>()`. `Option<ConnInfo>` is `None`
/// where nothing is known of the connection.
///
/// ```
/// use axum::{Router, routing::get};
/// use evenkeel::context::ConnInfo;
///
/// async fn who(conn: ConnInfo) -> String {
///     format!("{:?}", conn.client())
/// }
///
/// let app: Router = Router::new().route("/", get(who));
/// ```
impl<S: Sync> FromRequestParts<S> for ConnInfo {
    type Rejection = MissingConnInfo;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, MissingConnInfo> {
        Self::of(&parts.extensions)
            .cloned()
            .ok_or(MissingConnInfo {})
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for ConnInfo {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(Self::of(&parts.extensions).cloned())
    }
}

/// A handler asks for [`ConnInfo`], and the server notes none: it answers 500.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MissingConnInfo {}

impl fmt::Display for MissingConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no ConnInfo in the request: serve it with `evenkeel::serve`, or with `axum::serve` \
             and `into_make_service_with_connect_info::<ConnInfo>()`",
        )
    }
}

impl error::Error for MissingConnInfo {}

impl IntoResponse for MissingConnInfo {
    fn into_response(self) -> Response {
        // A mistake of the program, which a client can do nothing about.
        tracing::error!(target: "evenkeel::context", "{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// Offers `ConnectInfo<SocketAddr>`, with the client's address, to handlers written for it: under
/// `evenkeel::serve`, and under `axum::serve` where it notes `ConnectInfo<ConnInfo>`, as it has to
/// under `TlsLayer`.
///
/// One that is there already is left. Costs an allocation a request.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct ConnectInfoLayer {}

impl ConnectInfoLayer {
    /// Makes the layer.
    pub fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for ConnectInfoLayer {
    type Service = WithConnectInfo<S>;

    fn layer(&self, inner: S) -> WithConnectInfo<S> {
        WithConnectInfo { inner }
    }
}

/// The service of [`ConnectInfoLayer`].
#[derive(Clone, Debug)]
pub struct WithConnectInfo<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for WithConnectInfo<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let extensions = request.extensions_mut();
        if extensions.get::<ConnectInfo<SocketAddr>>().is_none() {
            let client = ConnInfo::of(extensions).and_then(ConnInfo::client);
            if let Some(client) = client {
                extensions.insert(ConnectInfo(client));
            }
        }
        self.inner.call(request)
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for ConnInfo {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let local = stream.io().local_addr().map_or(Peer::Unknown, Peer::Tcp);
        Self::new(Peer::Tcp(*stream.remote_addr()), local)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for ConnInfo {
    fn connect_info(_: IncomingStream<'_, UnixListener>) -> Self {
        Self::new(Peer::Unix, Peer::Unix)
    }
}
