//! Upgrades: the connection becomes a tunnel (RFC 9110 §7.8).

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Body, h1::Conn};
use crate::{
    connect::Stream,
    context::Tunnel,
    deadline::Watch,
    error::{Error, ErrorKind},
};

/// Answers 101 and joins both connections once the client's is free.
pub(super) fn switch(
    conn: Conn,
    mut parts: Parts,
    idle_timeout: Duration,
) -> Result<Response<Body>, Error> {
    let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
        let error = Error::new(ErrorKind::Upgrade).after_sending();
        return Err(error.with_source("the client's connection cannot be upgraded"));
    };
    let (backend, ahead) = conn.into_stream();
    let tunnel = Tunnel::new();
    let ends = Ends {
        client,
        backend,
        ahead,
    };
    tokio::spawn(carry(ends, tunnel.clone(), idle_timeout));
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    std::mem::swap(response.headers_mut(), &mut parts.headers);
    let upgrade = HeaderValue::from_static("upgrade");
    response.headers_mut().insert(header::CONNECTION, upgrade);
    response.extensions_mut().insert(tunnel);
    Ok(response)
}

/// Both ends of a tunnel, and what the backend sent ahead.
struct Ends {
    client: OnUpgrade,
    backend: Stream,
    ahead: Bytes,
}

/// Closes the tunnel however its task ends.
struct Closing(Tunnel);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn carry(ends: Ends, tunnel: Tunnel, idle_timeout: Duration) {
    let closing = Closing(tunnel);
    let tunnel = &closing.0;
    let client = match ends.client.await {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(target: "evenkeel::proxy", %error, "the client left before the tunnel");
            return;
        }
    };
    let watch = Watch::new();
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_backend, mut to_backend) = tokio::io::split(ends.backend);
    let touch = || watch.arm(idle_timeout);
    touch();
    let down = async {
        to_client.write_all(&ends.ahead).await?;
        tunnel.add_to_client(ends.ahead.len() as u64);
        drop(ends.ahead);
        copy(&mut from_backend, &mut to_client, |n| {
            tunnel.add_to_client(n);
            touch();
        })
        .await
    };
    let up = copy(&mut from_client, &mut to_backend, |n| {
        tunnel.add_to_backend(n);
        touch();
    });
    let mut both = pin!(async { tokio::try_join!(down, up) });
    let ended = poll_fn(|cx| match both.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.map(|_| ())),
        Poll::Pending => watch
            .poll_expired(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into())),
    });
    if let Err(error) = ended.await {
        tracing::debug!(target: "evenkeel::proxy", %error, "a tunnel broke");
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: impl Fn(u64),
) -> io::Result<()> {
    let mut buf = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buf).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buf[..n]).await?;
        to.flush().await?;
        moved(n as u64);
    }
}

/// Two of them a tunnel.
const BUFFER: usize = 8 * 1024;
