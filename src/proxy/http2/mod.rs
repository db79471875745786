//! HTTP/2 with a backend: one connection for each backend, on the `h2` crate.
//!
//! Requests share the connection. One of them dials while the others wait, and all take turns at opening
//! a stream in the order in which they came.
//!
//! ```text
//!   request ─▶ sender() ─┬─ live ────────────────────────────────▶ turn() ─▶ open ─▶ StreamRequest
//!                        └─ wait: one dials, the others queue ──▶   ▲ one at a time, in order
//!                             └─ failed: all that waited fail       └─ closed before it was sent: again
//! ```
//!
//! Dials are single: `dialing` is an async mutex, and each request that gets it looks first whether
//! the one before has connected. A dial that fails fails all that waited for it, by the count of
//! failures: else 1,000 waiting requests would dial a dead backend one after the other, each for
//! the whole time-out.
//!
//! HTTP/2 is found by ALPN on a connection that was dialled for HTTP/1.1 (`offer`); `known` then
//! sends later requests here at once. If a backend stops choosing `h2`, `known` is cleared and
//! HTTP/1.1 is tried again.

mod fields;
mod response_body;
mod stream_request;
#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
mod upload;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Poll,
    time::Duration,
};

use http::{HeaderName, Request, Response, request::Parts};
use tokio::time::{Instant, timeout_at};

pub(super) use self::response_body::StreamBody;
use self::{
    stream_request::{PhaseTimer, StreamRequest},
    upload::Upload,
};
use super::{
    Body,
    body::ErasedBody,
    config::Settings,
    connection_pool::ConnectionPool,
    headers::{Length, ScannedHead},
};
use crate::{
    connect::{
        Connected, DialTimes, ResolvedAddress, TargetOverride,
        http2::{self, Sender},
    },
    context::{Exchange, Interim},
    error::{Error, ErrorKind},
    pool::{Address, Backend, OpenConnection},
};

/// The HTTP/2 connection of one backend.
#[derive(Default)]
pub(super) struct SharedConnection {
    /// ALPN selected HTTP/2 on the last connection, so the next request takes this path at once.
    known: AtomicBool,
    current: Mutex<CurrentConnection>,
    /// Held by the request that dials; the others wait for its result.
    dialing: tokio::sync::Mutex<()>,
    /// The number of failed dials. A request that waited for a dial fails with it.
    failures: AtomicU64,
}

#[derive(Default)]
struct CurrentConnection {
    sender: Option<Sender>,
    /// The backend's address that `sender` or `fresh` leads to.
    address: Option<Address>,
    /// The address behind it, if it was found by name.
    resolved: Option<ResolvedAddress>,
    /// The time at which it was connected.
    began: Option<Instant>,
    /// The error of the last dial.
    failed: Option<ErrorKind>,
    used: Option<Instant>,
    /// A connection on which ALPN selected HTTP/2 and nothing was sent yet.
    fresh: Option<Connected>,
}

impl CurrentConnection {
    /// Returns true if no further request may begin on the connection.
    fn is_retired(&self, max_age: Option<Duration>, now: Instant) -> bool {
        let is_old = match (max_age, self.began) {
            (Some(max), Some(began)) => now.saturating_duration_since(began) >= max,
            _ => false,
        };
        is_old || self.resolved.as_ref().is_some_and(ResolvedAddress::is_gone)
    }
}

impl SharedConnection {
    /// A hint: with a wrong `true`, the request finds out at its dial, and fails once.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// Takes a connection on which ALPN selected HTTP/2.
    pub(super) fn offer(&self, connected: Connected, address: Address) {
        self.known.store(true, Relaxed);
        let mut current = self.current();
        if current.address.is_none() {
            current.resolved = connected.resolved().cloned();
            current.began = Some(Instant::now());
            current.fresh = Some(connected);
            current.address = Some(address);
            // So that it expires like any other if no request takes it.
            current.used = Some(Instant::now());
        }
    }

    fn resolved(&self) -> Option<ResolvedAddress> {
        self.current().resolved.clone()
    }

    pub(super) fn retire(&self) {
        // Open streams keep the connection until they end.
        drop(std::mem::take(&mut *self.current()));
    }

    /// Drops a connection that was idle for too long or is too old.
    pub(super) fn reap(&self, idle_timeout: Duration, max_age: Option<Duration>) {
        let now = Instant::now();
        let mut current = self.current();
        let used = current.used;
        let is_idle = used.is_some_and(|used| now.saturating_duration_since(used) > idle_timeout);
        if is_idle || current.is_retired(max_age, now) {
            // Open streams keep the connection until they end.
            *current = CurrentConnection::default();
        }
    }

    fn live(&self, settings: &Settings, backend: &Backend) -> Option<Sender> {
        let now = Instant::now();
        let mut current = self.current();
        let is_elsewhere = current.address.as_ref().is_some_and(|a| !a.is_of(backend));
        if is_elsewhere || current.is_retired(settings.max_age, now) {
            *current = CurrentConnection::default();
        }
        current.used = Some(now);
        // The turn of a request finds out whether the connection takes another stream.
        let sender = current.sender.clone();
        sender.filter(|sender| !sender.is_known_closed())
    }

    /// Returns a connection, and how long it took to make; `None` if it existed before. Takes no longer than the connect time-out,
    /// however many requests wait.
    async fn sender(
        &self,
        settings: &Settings,
        backend: &Backend,
    ) -> Result<(Sender, Option<DialTimes>), Error> {
        if let Some(sender) = self.live(settings, backend) {
            return Ok((sender, None));
        }
        let limit = settings.connector.timeout_limit();
        let deadline = Instant::now() + limit;
        match timeout_at(deadline, self.wait(settings, backend, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(Error::timed_out(ErrorKind::ConnectTimeout, limit)),
        }
    }

    async fn wait(
        &self,
        settings: &Settings,
        backend: &Backend,
        deadline: Instant,
    ) -> Result<(Sender, Option<DialTimes>), Error> {
        // Read before the wait: a dial that fails from here on is the one that was waited for.
        let failures = self.failures.load(Acquire);
        let _one_at_a_time = self.dialing.lock().await;
        if let Some(sender) = self.live(settings, backend) {
            return Ok((sender, None));
        }
        if self.failures.load(Acquire) != failures {
            let kind = self.current().failed.unwrap_or(ErrorKind::Connect);
            return Err(
                Error::new(kind).with_source("the dial that this request waited for failed")
            );
        }
        match self.dial(settings, backend, deadline).await {
            Ok((sender, resolved, took)) => {
                let mut current = self.current();
                current.sender = Some(sender.clone());
                current.address = Some(backend.address());
                current.began = Some(Instant::now());
                current.resolved = resolved;
                Ok((sender, Some(took)))
            }
            Err(error) => {
                // The kind before the count: a request that sees the new count reads this kind.
                self.current().failed = Some(error.kind());
                self.failures.fetch_add(1, Release);
                Err(error)
            }
        }
    }

    async fn dial(
        &self,
        settings: &Settings,
        backend: &Backend,
        deadline: Instant,
    ) -> Result<(Sender, Option<ResolvedAddress>, DialTimes), Error> {
        if settings.connector.names_client(backend) {
            let why = "the PROXY protocol needs a connection for each client, and clients share one of \
                       HTTP/2: set another protocol for the backend";
            return Err(Error::new(ErrorKind::Local).with_source(why));
        }
        let fresh = self.current().fresh.take();
        let connected = match fresh {
            Some(connected) => connected,
            None => {
                let connector = &settings.connector;
                let own = TargetOverride::new();
                connector.connect_by(backend, &own, deadline).await?
            }
        };
        // The backend has lost HTTP/2. This request fails, the next one goes over HTTP/1.1.
        if !connected.is_http2() {
            self.known.store(false, Relaxed);
            return Err(Error::new(ErrorKind::ConnectTls)
                .with_source("the backend no longer selects h2 by ALPN"));
        }
        let resolved = connected.resolved().cloned();
        let took = connected.took;
        let open = OpenConnection::new(backend);
        Ok((handshake(connected, open).await?, resolved, took))
    }

    fn current(&self) -> MutexGuard<'_, CurrentConnection> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handshake(connected: Connected, open: OpenConnection) -> Result<Sender, Error> {
    let (sender, driver) = http2::handshake(connected.into_stream())
        .await
        .map_err(|error| Error::new(ErrorKind::ResponseClosed).with_source(error))?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(target: "evenkeel::proxy", %error, "an HTTP/2 backend connection broke");
        }
        drop(open);
    });
    Ok(sender)
}

/// A request for the backend, made while its [`ScannedHead`] was at hand.
pub(super) struct Prepared {
    request: Request<()>,
    length: Length,
    expects_continue: bool,
    nominated: Vec<HeaderName>,
}

impl Prepared {
    pub(super) fn new(
        settings: &Settings,
        backend: &Backend,
        scanned: &ScannedHead<'_>,
        length: Length,
    ) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            request: fields::request(settings, backend, scanned, length)?,
            length,
            expects_continue: scanned.expects_continue,
            nominated: scanned.nominated().to_vec(),
        }))
    }
}

/// Sends one request. Returns the head beside the result, because an error gives it back.
pub(super) async fn exchange(
    settings: Arc<Settings>,
    connections: Arc<ConnectionPool>,
    backend: Backend,
    parts: Parts,
    prepared: Box<Prepared>,
    body: Option<ErasedBody>,
) -> (Parts, Result<Response<Body>, Error>) {
    let result = {
        let exchange = parts.extensions.get::<Exchange>();
        let sending = send(&settings, &connections, &backend, &parts, *prepared, body);
        let mut sending = pin!(sending);
        poll_fn(|cx| {
            let polled = sending.as_mut().poll(cx);
            if let (Poll::Pending, Some(exchange)) = (&polled, exchange) {
                // A part of the request may have been sent.
                exchange.offer_head_copy(&parts, true);
            }
            polled
        })
        .await
    };
    connections.keep_reaping();
    (parts, result)
}

async fn send(
    settings: &Settings,
    connections: &ConnectionPool,
    backend: &Backend,
    parts: &Parts,
    prepared: Prepared,
    mut body: Option<ErasedBody>,
) -> Result<Response<Body>, Error> {
    let Prepared {
        mut request,
        length,
        expects_continue,
        nominated,
    } = prepared;
    // h2 does not give back a request that it did not send.
    let rebuild = || {
        let scanned = ScannedHead::read(parts, settings)?;
        fields::request(settings, backend, &scanned, length)
    };
    let has_body = body.is_some();
    let mut timer = PhaseTimer::new(settings.timeouts);
    let mut repeatable = true;
    loop {
        let (sender, took) = connections.http2.sender(settings, backend).await?;
        let reused = took.is_none();
        if let Some(took) = took {
            connections.set_resolved(connections.http2.resolved().as_ref());
            if let Some(exchange) = parts.extensions.get::<Exchange>() {
                exchange.set_connect_time(backend, took.connect, took.tls);
            }
        }
        let mut turn = match timer.for_turn(sender.turn()).await? {
            Ok(turn) => turn,
            // The connection was closed before the request went out.
            // `live` no longer returns this connection, so the loop ends with a dial.
            Err(_) if reused => continue,
            // The backend accepted the connection, so it may have load from it.
            Err(error) => return Err(Error::new(ErrorKind::ResponseClosed).with_source(error)),
        };
        let opened = match turn.send(request, !has_body) {
            Ok(opened) => opened,
            Err(error) => {
                drop(turn);
                if reused && sender.is_closed() {
                    request = rebuild()?;
                    continue;
                }
                return Err(Error::new(ErrorKind::ResponseClosed).with_source(error));
            }
        };
        drop(sender);
        let declared = match length {
            Length::Exact(length) => Some(length),
            Length::Chunked | Length::None => None,
        };
        let mut stream_request = StreamRequest {
            turn: Some(turn),
            response: opened.response,
            stream: opened.stream,
            expecting: expects_continue && has_body,
            upload: body
                .map(|body| Upload::new(opened.body, body, declared).without(nominated.clone())),
            interim: Interim::of(&parts.extensions),
            interims: 0,
            timer,
        };
        let failed = match poll_fn(|cx| stream_request.poll(cx)).await {
            Ok(response) => {
                return stream_request.respond(response, &parts.method, settings.timeouts.idle);
            }
            Err(failed) => failed,
        };
        if !repeatable || !failed.was_going_away() {
            return Err(failed.into_error());
        }
        // The request can be sent again, unless a part of its body was taken.
        repeatable = false;
        (timer, body) = stream_request.into_unsent();
        if body.is_some() != has_body {
            return Err(failed.into_error());
        }
        request = rebuild()?;
    }
}
