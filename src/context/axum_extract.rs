//! `ConnInfo` in axum: the extractor, the implementations of `Connected`, and the layer that offers
//! `ConnectInfo<SocketAddr>`.
//!
//! Under axum, the facts of a connection come as `ConnectInfo<ConnInfo>`; `ConnInfo::of` finds them
//! there and under the own type, so that layers need not know the server.

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

/// A handler takes `ConnInfo` as an argument, under `evenkeel::serve` as well as under `axum::serve`;
/// the latter needs `into_make_service_with_connect_info::<ConnInfo>()`. `Option<ConnInfo>` is `None`
/// if nothing is known of the connection.
///
/// ```
/// use axum::{Router, routing::get};
/// use evenkeel::context::ConnInfo;
///
/// async fn client(conn: ConnInfo) -> String {
///     format!("{:?}", conn.client())
/// }
///
/// let app: Router = Router::new().route("/", get(client));
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

/// The rejection of the extractor: the handler asks for [`ConnInfo`], and the server inserts none. The
/// response is 500.
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
        // The program is at fault, not the client.
        tracing::error!(target: "evenkeel::context", "{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// Inserts `ConnectInfo<SocketAddr>`, with the client's address, for handlers that ask for it. Under
/// `evenkeel::serve`, and under `axum::serve` with `ConnectInfo<ConnInfo>` (which `TlsLayer` needs),
/// no other code inserts one.
///
/// A `ConnectInfo<SocketAddr>` that is there already stays. Costs one allocation for each request.
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
