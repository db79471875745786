//! What a `[[listen]]` says of its server.

use std::io;

use evenkeel::{
    server::{Http, Serve},
    settings::ListenSettings,
};
use tokio::net::TcpListener;

/// Applies the limits of a listener, and its rules for HTTP. `max_connections` is the share of this
/// socket in those that the settings allow.
pub(crate) fn configured<S>(
    serve: Serve<TcpListener, Http<S>>,
    listen: &ListenSettings,
    max_connections: Option<usize>,
) -> io::Result<Serve<TcpListener, Http<S>>> {
    let serve = serve.http(|mut http| {
        if let Some(rate) = listen.min_rate {
            http = http.min_rate(rate)?;
        }
        if let Some(timeout) = listen.request_timeout {
            http = http.request_timeout(timeout)?;
        }
        Ok(http
            .half_close(listen.half_close)
            .allow_empty_host(listen.allow_empty_host)
            .allow_raw_target(listen.allow_raw_target))
    });
    let limited = serve.and_then(|serve| match max_connections {
        Some(max) => serve.max_connections(max),
        None => Ok(serve),
    });
    limited.map_err(io::Error::other)
}

/// Returns the share of each of these sockets in the connections that the settings allow.
pub(crate) fn share(listen: &ListenSettings, sockets: usize) -> Option<usize> {
    let max = listen.max_connections?;
    Some(max.div_ceil(sockets.max(1)))
}
