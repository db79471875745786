//! Requests that may take over the connection: an upgrade, and CONNECT.
//!
//! A service takes over a connection through `hyper::upgrade::on`, as axum's WebSocket extractor does,
//! and only hyper's codec can make the value that this function finds. So the request, which was
//! parsed and validated here, is written again as bytes and read by hyper's codec. hyper sees this
//! one request. Unless the service takes over the connection, the response closes it.
//!
//! ```text
//!   head, read and checked by `wire`
//!      │ written again, normalized, with the bytes that follow
//!      ▼
//!   Stream::put_back ──▶ hyper's codec ──▶ service ──▶ 101, 2xx to CONNECT: the service takes the stream
//!                                              └─────▶ any other status: `connection: close`
//! ```
//!
//! Only requests without a body come here (RFC 9110 §7.8 lets a server ignore Upgrade), so hyper's
//! codec never parses a body. It reads what this server wrote, not what the client sent, so the two
//! parsers cannot disagree.
//!
//! The task of the connection outlives the codec: it keeps the connection's place under
//! `max_connections` and in the shutdown until the owner of the tunnel drops the stream
//! (`a_tunnel_keeps_its_place_until_it_closes`, `a_drain_waits_for_tunnels`).
//!
//! | the service answers | the connection |
//! |---|---|
//! | 101, or 2xx to CONNECT | a tunnel, without time-outs of the server |
//! | anything else | closes behind the response |
//! | an error | closes at once |

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

/// Serves the request, and waits for the end of the tunnel if it opened one.
///
/// `ahead` are the bytes behind the head: the first bytes of the tunnel, which hyper's codec hands
/// over with it.
///
/// # Errors
///
/// Those of hyper's codec and of the service.
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
    // Any response but a switch of protocols says `connection: close`.
    state.start_draining();
    let mut conn = Box::pin(
        hyper::server::conn::http1::Builder::new()
            // A client that shuts its write side has left, as in the server's own default.
            .half_close(false)
            // One copy into one buffer: hyper's queue of slices saves nothing for a head.
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

/// If the connection became a tunnel, waits until the owner of the tunnel drops the stream.
///
/// The stream notifies at its drop. `Notify` keeps one permit, so a drop before this wait is not
/// missed.
async fn tunnel(state: &State) {
    if state.phase() == Phase::Tunnel {
        let tunnel = TunnelGuard { state };
        tunnel.state.closed.notified().await;
    }
}

/// Ends a tunnel when the task of the connection is dropped.
struct TunnelGuard<'a> {
    state: &'a State,
}

impl Drop for TunnelGuard<'_> {
    fn drop(&mut self) {
        self.state.expire();
    }
}

/// The size of a typical head of a browser.
const HEAD_CAPACITY: usize = 1_024;
