//! Requests that may take the connection over: a switch of protocols, and CONNECT.
//!
//! A service asks for the connection by `hyper::upgrade::on`, as axum's WebSocket extractor does,
//! and only hyper's codec makes what that finds. So the request, which was read and found valid
//! here, is written anew to the codec, for this one exchange: it sees no other head. Unless the
//! service takes the connection over, the response closes it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::{
    error::BoxError,
    server::{
        Body,
        app::AppService,
        state::{Phase, State},
        stream::Stream,
    },
    wire::request,
};

/// Serves the request, and waits for the end of the tunnel where it opened one.
pub(in crate::server) async fn serve<Io, S, B>(
    mut io: Stream<Io>,
    request: &Request<Body>,
    ahead: &[u8],
    service: AppService<S>,
) -> Result<(), BoxError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let state = service.state.clone();
    let mut head = Vec::with_capacity(HEAD_CAPACITY);
    request::write(request, &mut head);
    head.extend_from_slice(ahead);
    io.put_back(head.into());
    // Unless it is a switch, the response says `connection: close`.
    state.start_draining();
    let mut conn = Box::pin(
        hyper::server::conn::http1::Builder::new()
            .half_close(false)
            .writev(false)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades(),
    );
    let served = conn.as_mut().await;
    // The codec may still hold the stream.
    drop(conn);
    tunnel(&state).await;
    served.map_err(Into::into)
}

/// Waits for the end of the tunnel that the connection became, if it did: until its owner drops
/// the stream.
async fn tunnel(state: &State) {
    if state.phase() == Phase::Tunnel {
        let tunnel = TunnelGuard { state };
        tunnel.state.closed.notified().await;
    }
}

/// Ends a tunnel when the connection's task ends.
struct TunnelGuard<'a> {
    state: &'a State,
}

impl Drop for TunnelGuard<'_> {
    fn drop(&mut self) {
        self.state.expire();
    }
}

/// A head of a browser.
const HEAD_CAPACITY: usize = 1_024;
