//! For handlers that ask axum for `ConnectInfo<SocketAddr>`.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
};

use axum::extract::ConnectInfo;
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::ConnInfo;

/// Offers `ConnectInfo<SocketAddr>`, with the client's address, to handlers written for it: under
/// [`TlsLayer`](super::TlsLayer) axum knows `ConnectInfo<ConnInfo>` alone.
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
