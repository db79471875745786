//! The proxy service: from a request with a `Selected` backend to that backend's response.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{
    Body, Proxy,
    body::{Outgoing, erase},
    config::Settings,
    h1::{Answer, AnswerBody, Conn, Start},
    headers::{Facts, Length},
    idle::{Home, Wanted},
    upgrade,
};
use crate::{
    connect::Connected,
    context::{ConnInfo, Exchange, Selected, spare},
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
        let (parts, body) = request.into_parts();
        let exact = body.size_hint().exact();
        let pending = Pending {
            body: erase(body),
            exact,
        };
        ResponseFuture::begin(self.settings.clone(), parts, pending)
    }
}

/// A request body that no connection has taken yet.
pub(super) struct Pending {
    pub(super) body: Option<Outgoing>,
    pub(super) exact: Option<u64>,
}

/// The response of a [`Proxy`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    state: State,
    /// Given back when there is no response, so that another attempt needs no copy.
    parts: Option<Parts>,
    settings: Arc<Settings>,
    /// There is a request body: once it was touched, there is no second try here.
    has_body: bool,
    /// A try went out already on a connection that turned out to be closed.
    again: bool,
}

enum State {
    Dialing(Pin<Box<Dialing>>),
    Done,
    Exchanging(Box<Conn>),
    Failed(Error),
    #[cfg(feature = "http2")]
    Http2(Pin<Box<dyn Future<Output = (Parts, Result<Response<Body>, Error>)> + Send>>),
}

impl ResponseFuture {
    fn begin(settings: Arc<Settings>, parts: Parts, pending: Pending) -> Self {
        let mut future = Self {
            state: State::Done,
            parts: Some(parts),
            settings,
            has_body: pending.body.is_some(),
            again: false,
        };
        if let Err(error) = future.route(pending) {
            future.state = State::Failed(error);
        }
        future
    }

    /// Does all that needs no wait: checkout, head, first write.
    fn route(&mut self, pending: Pending) -> Result<(), Error> {
        let Some(parts) = &self.parts else {
            return Ok(());
        };
        if parts.method == Method::CONNECT {
            return Err(ErrorKind::MethodRefused.into());
        }
        let Some(Selected(backend)) = parts.extensions.get::<Selected>() else {
            return Err(ErrorKind::NotRouted.into());
        };
        // What cannot be forwarded costs no connection.
        let facts = Facts::read(parts, &self.settings)?;
        let length = facts.length(pending.body.is_some(), pending.exact)?;
        let home = self.home(backend);
        #[cfg(feature = "http2")]
        if backend.http_protocol() == crate::pool::Protocol::Http2 || home.http2.is_known() {
            let backend = backend.clone();
            self.exchange_http2(home, backend, pending);
            return Ok(());
        }
        let wanted = Wanted {
            backend,
            client: facts.conn,
            once: !self.is_replaceable(parts),
        };
        match home.take(&wanted) {
            Some(mut conn) => {
                self.start(&mut conn, &facts, length, backend, pending, home);
                self.state = State::Exchanging(conn);
            }
            None => {
                let backend = backend.clone();
                self.dial(home, backend, pending);
            }
        }
        Ok(())
    }

    /// Whether a second try here does no harm (RFC 9112 §9.3.1).
    fn is_replaceable(&self, parts: &Parts) -> bool {
        parts.method.is_idempotent() && !self.has_body && !self.again
    }

    fn home(&self, backend: &Backend) -> Arc<Home> {
        let settings = &self.settings;
        backend.attachment(&settings.key, || {
            Home::new(settings.timeouts.idle, settings.max_idle)
        })
    }

    fn dial(&mut self, home: Arc<Home>, backend: Backend, pending: Pending) {
        let connector = self.settings.connector.clone();
        let target = backend.clone();
        self.state = State::Dialing(Box::pin(Dialing {
            connect: Box::pin(async move { connector.connect(&target).await }),
            backend,
            epoch: home.epoch(),
            home: Some(home),
            pending: Some(pending),
        }));
    }

    #[cfg(feature = "http2")]
    fn exchange_http2(&mut self, home: Arc<Home>, backend: Backend, pending: Pending) {
        if let Some(parts) = self.parts.take() {
            let exchange =
                super::h2::exchange(self.settings.clone(), home, backend, parts, pending);
            self.state = State::Http2(Box::pin(exchange));
        }
    }

    fn connected(&mut self, dialing: &mut Dialing, connected: Connected) -> Result<(), Error> {
        let (Some(home), Some(pending)) = (dialing.home.take(), dialing.pending.take()) else {
            return Ok(());
        };
        #[cfg(feature = "http2")]
        if connected.is_http2() {
            home.http2.offer(connected, dialing.backend.address());
            self.exchange_http2(home, dialing.backend.clone(), pending);
            return Ok(());
        }
        let Some(parts) = &self.parts else {
            return Ok(());
        };
        let backend = &dialing.backend;
        let mut conn = Conn::new(
            connected.into_stream(),
            self.settings.timeouts,
            backend.address(),
            dialing.epoch,
        );
        let facts = Facts::read(parts, &self.settings)?;
        let length = facts.length(pending.body.is_some(), pending.exact)?;
        self.start(&mut conn, &facts, length, backend, pending, home);
        self.state = State::Exchanging(conn);
        Ok(())
    }

    /// Writes the head and begins the exchange.
    fn start(
        &self,
        conn: &mut Conn,
        facts: &Facts<'_>,
        length: Length,
        backend: &Backend,
        pending: Pending,
        home: Arc<Home>,
    ) {
        if facts.connection_auth {
            conn.bind(facts.conn.cloned());
        }
        let start = Start {
            body: pending.body,
            length: match length {
                Length::Exact(length) => Some(length),
                Length::Chunked | Length::None => None,
            },
            expecting: facts.expects_continue,
            is_head: facts.parts.method == Method::HEAD,
            upgrades: facts.upgrade.is_some(),
            replaceable: self.is_replaceable(facts.parts),
        };
        SCRATCH.with_borrow_mut(|head| {
            head.clear();
            facts.write_h1(backend, &self.settings, length, head);
            conn.start(head, start, home);
            if head.capacity() > KEEP_SCRATCH {
                *head = Vec::new();
            }
        });
    }

    /// Makes the response of what the backend answered.
    fn respond(&mut self, mut conn: Box<Conn>, answer: Answer) -> Result<Response<Body>, Error> {
        let Some(mut parts) = self.parts.take() else {
            return Err(ErrorKind::Service.into());
        };
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            return upgrade::switch(*conn, parts, self.settings.tunnel_timeout);
        }
        if answer.connection_auth {
            conn.bind(ConnInfo::of(&parts.extensions).cloned());
        }
        let body = match answer.body {
            AnswerBody::None => {
                conn.finish();
                Body::default()
            }
            AnswerBody::Whole(data) => {
                conn.finish();
                Body::whole(data)
            }
            AnswerBody::Streaming => Body::streaming(conn),
        };
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        // The request's map: its memory is used again.
        std::mem::swap(response.headers_mut(), &mut parts.headers);
        spare::keep(parts.extensions);
        Ok(response)
    }

    fn fail(&mut self, error: Error) -> Error {
        let error = if self.again {
            error.after_sending()
        } else {
            error
        };
        match self.parts.take() {
            Some(parts) => error.with_unsent(parts),
            None => error,
        }
    }

    /// Lends the head to who wants to begin another attempt beside this one.
    fn lend(&self, sent: bool) {
        if let Some(parts) = &self.parts {
            if let Some(exchange) = parts.extensions.get::<Exchange>() {
                exchange.lend_head(parts, sent);
            }
        }
    }

    /// Whether a connection that was closed under the request can be replaced unnoticed.
    fn can_redial(&self, conn: &Conn, error: &Error) -> bool {
        let closed = matches!(
            error.kind(),
            ErrorKind::RequestWrite | ErrorKind::ResponseClosed
        );
        closed
            && conn.is_reused()
            && conn.is_untouched()
            && self.parts.as_ref().is_some_and(|p| self.is_replaceable(p))
    }

    fn redial(&mut self) {
        let backend = self
            .parts
            .as_ref()
            .and_then(|parts| parts.extensions.get::<Selected>());
        if let Some(Selected(backend)) = backend.cloned() {
            self.again = true;
            let home = self.home(&backend);
            let pending = Pending {
                body: None,
                exact: Some(0),
            };
            self.dial(home, backend, pending);
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Done) {
                State::Exchanging(mut conn) => {
                    let Some(parts) = &mut this.parts else {
                        return Poll::Ready(Err(ErrorKind::Service.into()));
                    };
                    match conn.poll_answer(cx, &mut parts.headers) {
                        Poll::Pending => {
                            this.state = State::Exchanging(conn);
                            this.lend(true);
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(answer)) => return Poll::Ready(this.respond(conn, answer)),
                        Poll::Ready(Err(error)) if this.can_redial(&conn, &error) => this.redial(),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(this.fail(error))),
                    }
                }
                State::Dialing(mut dialing) => match dialing.connect.as_mut().poll(cx) {
                    Poll::Pending => {
                        this.state = State::Dialing(dialing);
                        this.lend(this.again);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(connected)) => {
                        if let Err(error) = this.connected(&mut dialing, connected) {
                            return Poll::Ready(Err(this.fail(error)));
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(this.fail(error))),
                },
                #[cfg(feature = "http2")]
                State::Http2(mut exchange) => {
                    let Poll::Ready((parts, result)) = exchange.as_mut().poll(cx) else {
                        this.state = State::Http2(exchange);
                        return Poll::Pending;
                    };
                    this.parts = Some(parts);
                    return Poll::Ready(result.map_err(|error| this.fail(error)));
                }
                State::Failed(error) => return Poll::Ready(Err(this.fail(error))),
                // Polled after the end, or never begun.
                State::Done => return Poll::Ready(Err(ErrorKind::Service.into())),
            }
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A connection on its way; boxed, as it is rare.
struct Dialing {
    connect: Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send>>,
    backend: Backend,
    epoch: u64,
    home: Option<Arc<Home>>,
    pending: Option<Pending>,
}

thread_local! {
    /// The head of a request while it is written.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const KEEP_SCRATCH: usize = 64 * 1024;
