//! The service `Proxy` and its `ResponseFuture`: from a request with a selected backend to that
//! backend's response.
//!
//! ```text
//!   forward ──▶ InFlight::next_step ─┬─ refused, no backend ──────────────────▶ Failed ────▶ Err
//!                                    ├─ Max-Forwards: 0 ──────────────────────▶ Answered ──▶ Ok
//!                                    ├─ idle connection: head and frame written ▶ Exchanging ─▶ Ok
//!                                    │                       ▲         │ closed before a byte came:
//!                                    ├─ none idle ─▶ Dialing ┤         └──▶ Dialing, once
//!                                    │                       └─ ALPN chose h2 ─▶ Http2
//!                                    └─ HTTP/2 is known ──────────────────────▶ Http2 ─────▶ Ok
//! ```
//!
//! `Exchanging` is the state of nearly every request, so its poll comes first and the others are
//! out of line. The whole exchange, the request's head included, is in the box of the connection,
//! which exists already: a request allocates nothing for it, and the layers above move one pointer.
//!
//! Dropping the future cancels the request: an HTTP/1.1 connection is closed, since its next bytes
//! would be the rest of this response; an HTTP/2 stream is reset; a dial is given up.
//!
//! # Which error gives what back
//!
//! An error before the response head carries the request's head (`Error::with_unsent`), so that
//! `failover` can send it elsewhere without a copy. Behind the head there is no request left to give
//! back: its map holds the fields of the response.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tower_service::Service;

#[cfg(feature = "http2")]
use super::http2::Prepared;
use super::{
    Body, Proxy,
    body::erase,
    config::Settings,
    connection_pool::ConnectionPool,
    headers::ScannedHead,
    http1::{Conn, ResponseContent, ResponseHead},
    in_flight::{InFlight, PendingBody},
    upgrade,
};
use crate::{
    connect::Connected,
    context::{CallSelected, ConnInfo, Selection},
    error::{BoxError, Error, ErrorKind},
    pool::Backend,
};

impl<B> Service<Request<B>> for Proxy
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.forward(request, None)
    }
}

impl<B> CallSelected<Request<B>> for Proxy
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The way of this crate's own stack: the backend and the number of the attempt come as
    /// arguments, which saves an extension and its look-up.
    fn call_selected(&mut self, request: Request<B>, selection: Selection<'_>) -> ResponseFuture {
        self.forward(request, Some(selection))
    }
}

impl Proxy {
    /// Erases the body before anything else, so that the rest is compiled once and not for each
    /// body type.
    #[inline]
    fn forward<B>(
        &mut self,
        request: Request<B>,
        selection: Option<Selection<'_>>,
    ) -> ResponseFuture
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let exact = body.size_hint().exact();
        let pending = PendingBody {
            body: erase(body),
            exact,
        };
        let in_flight = InFlight {
            parts,
            number: selection.map(|selection| selection.number),
            has_body: pending.body.is_some(),
            redialled: false,
        };
        let backend = selection.map(|selection| selection.backend);
        ResponseFuture {
            state: in_flight.begin(self, backend, pending),
        }
    }
}

/// The future of the response of a [`Proxy`].
///
/// It is small, as each layer above moves it: the state of an HTTP/1.1 exchange is in the box of its
/// connection.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    state: State,
}

/// Large variants are boxed: the future is as large as the largest, and each layer moves it.
pub(super) enum State {
    Answered(Box<Response<Body>>),
    Dialing(Pin<Box<Dialing>>),
    Done,
    Exchanging(Box<Conn>),
    Failed(Error),
    #[cfg(feature = "http2")]
    Http2(Pin<Box<Http2>>),
}

#[cfg(feature = "http2")]
type Http2 = dyn Future<Output = (InFlight, Result<Response<Body>, Error>)> + Send;

/// Continues once the backend is connected.
///
/// The head is scanned again here: the scan borrows the head, and a future that holds both would
/// refer to itself. A dial costs far more than a scan.
fn connected(dialing: &mut Dialing, connected: Connected) -> State {
    let Some((in_flight, connections, pending)) = dialing.rest.take() else {
        return State::Done;
    };
    let backend = &dialing.backend;
    let settings = dialing.settings.clone();
    // The reaper asks the resolver about this name, and retires connections to an address that has
    // left it.
    connections.set_resolved(connected.resolved());
    in_flight.set_connect_time(backend, connected.took);
    let scanned = ScannedHead::read(&in_flight.parts, &settings).and_then(|scanned| {
        let length = scanned.length(pending.body.is_some(), pending.exact)?;
        Ok((scanned, length))
    });
    #[cfg(feature = "http2")]
    if connected.is_http2() {
        // The request then takes the connection like any other of HTTP/2: if another one was
        // offered meanwhile, both share that.
        connections.http2.offer(connected, backend.address());
        let prepared = scanned
            .and_then(|(scanned, length)| Prepared::new(&settings, backend, &scanned, length));
        return match prepared {
            Ok(prepared) => in_flight.exchange_http2(
                settings,
                connections,
                backend.clone(),
                prepared,
                pending.body,
            ),
            Err(error) => State::Failed(in_flight.fail(error)),
        };
    }
    let mut conn = Conn::dialled(connected, settings.timeouts, backend, dialing.epoch);
    if settings.connector.names_client(backend) {
        // The PROXY header has named this client to the backend: no other client may use the
        // connection.
        conn.owner_data.bound_client = ConnInfo::of(&in_flight.parts.extensions).cloned();
    }
    let started = scanned.and_then(|(scanned, length)| {
        in_flight.start(
            &settings,
            &mut conn,
            &scanned,
            length,
            backend,
            pending,
            connections,
        )
    });
    match started {
        Ok(()) => in_flight.exchange(&settings, conn),
        Err(error) => State::Failed(in_flight.fail(error)),
    }
}

/// Makes the response from the head that the backend sent.
///
/// The connection goes back to its pool here if the whole body came with the head, before the
/// caller has seen the response.
fn respond(mut conn: Box<Conn>, answer: ResponseHead) -> Result<Response<Body>, Error> {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(conn);
    }
    let Some(in_flight) = &mut conn.owner_data.in_flight else {
        return Err(ErrorKind::Service.into());
    };
    let mut response = Response::new(Body::default());
    *response.status_mut() = answer.status;
    // The request's map holds the response's fields: its memory is reused.
    mem::swap(response.headers_mut(), &mut in_flight.parts.headers);
    let mut extensions = mem::take(&mut in_flight.parts.extensions);
    // Dropped before the connection can go idle, where it would keep the request's extensions
    // alive.
    conn.owner_data.in_flight = None;
    // A challenge of NTLM or Negotiate: from now on the connection speaks for one client.
    if answer.connection_auth {
        conn.bind(ConnInfo::of(&extensions).cloned());
    }
    // The extensions of the request end here; a server reuses the emptied table.
    extensions.clear();
    *response.extensions_mut() = extensions;
    match answer.body {
        ResponseContent::None => conn.finish(),
        ResponseContent::Whole(data) => {
            conn.finish();
            *response.body_mut() = Body::whole(data);
        }
        ResponseContent::Streaming => *response.body_mut() = Body::streaming(conn),
    }
    Ok(response)
}

/// A 101 was asked for (`Conn` has checked that) and ends HTTP on the connection.
#[cold]
fn switch(mut conn: Box<Conn>) -> Result<Response<Body>, Error> {
    let data = &mut conn.owner_data;
    match (data.in_flight.take(), &data.settings) {
        (Some(in_flight), Some(settings)) => {
            let timeout = settings.tunnel_timeout;
            upgrade::switch(*conn, in_flight.parts, timeout)
        }
        _ => Err(ErrorKind::Service.into()),
    }
}

/// Decides whether a failed exchange is repeated on a new connection.
///
/// The connection is dropped, and so closed, in each case: what it carried is unknown.
#[cold]
fn failed(mut conn: Box<Conn>, error: Error) -> State {
    let settings = conn.owner_data.settings.take();
    match (conn.owner_data.in_flight.take(), &settings) {
        (Some(in_flight), Some(settings)) if in_flight.can_redial(&conn, &error) => {
            in_flight.redial(settings)
        }
        (Some(in_flight), _) => State::Failed(in_flight.fail(error)),
        (None, _) => State::Failed(error),
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let State::Exchanging(conn) = &mut this.state {
            let Poll::Ready(answered) = conn.poll_response_head(cx) else {
                if let Some(in_flight) = &conn.owner_data.in_flight {
                    // A hedge can begin while the response is awaited. `true`: a part was sent, so the
                    // layer that takes the copy has to ask whether the method may be sent twice.
                    in_flight.offer_head(true);
                }
                return Poll::Pending;
            };
            let State::Exchanging(conn) = mem::replace(&mut this.state, State::Done) else {
                break;
            };
            match answered {
                Ok(answer) => return Poll::Ready(respond(conn, answer)),
                Err(error) => this.state = failed(conn, error),
            }
        }
        this.poll_otherwise(cx)
    }
}

impl ResponseFuture {
    /// Polls the states that few requests reach.
    #[cold]
    fn poll_otherwise(&mut self, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        loop {
            self.state = match mem::replace(&mut self.state, State::Done) {
                State::Dialing(mut dialing) => match dialing.connect.as_mut().poll(cx) {
                    Poll::Pending => {
                        if let Some((in_flight, ..)) = &dialing.rest {
                            in_flight.offer_head(in_flight.redialled);
                        }
                        self.state = State::Dialing(dialing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(stream)) => connected(&mut dialing, stream),
                    Poll::Ready(Err(error)) => State::Failed(match dialing.rest.take() {
                        Some((in_flight, ..)) => in_flight.fail(error),
                        None => error,
                    }),
                },
                #[cfg(feature = "http2")]
                State::Http2(mut exchange) => {
                    let Poll::Ready((in_flight, result)) = exchange.as_mut().poll(cx) else {
                        self.state = State::Http2(exchange);
                        return Poll::Pending;
                    };
                    return Poll::Ready(result.map_err(|error| in_flight.fail(error)));
                }
                State::Exchanging(conn) => {
                    self.state = State::Exchanging(conn);
                    return Pin::new(self).poll(cx);
                }
                State::Answered(response) => return Poll::Ready(Ok(*response)),
                State::Failed(error) => return Poll::Ready(Err(error)),
                // The future was polled after its end.
                State::Done => return Poll::Ready(Err(ErrorKind::Service.into())),
            };
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A connection that is being made. Boxed, because few requests dial.
pub(super) struct Dialing {
    /// Boxed, as its type cannot be named; a dial costs far more.
    pub(super) connect: Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send>>,
    pub(super) backend: Backend,
    /// The epoch of the pool before the dial.
    pub(super) epoch: u64,
    pub(super) settings: Arc<Settings>,
    /// `None` once it was taken: the future is at its end then.
    pub(super) rest: Option<(InFlight, Arc<ConnectionPool>, PendingBody)>,
}
