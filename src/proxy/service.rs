//! The proxy service: from a request with a `Selected` backend to that backend's response.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    mem,
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
    context::{CallSelected, ConnInfo, Exchange, Selected, Selection, spare},
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
    fn call_selected(&mut self, request: Request<B>, selection: Selection<'_>) -> ResponseFuture {
        self.forward(request, Some(selection))
    }
}

impl Proxy {
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
        let pending = Pending {
            body: erase(body),
            exact,
        };
        let carried = Carried {
            parts,
            number: selection.map(|selection| selection.number),
            has_body: pending.body.is_some(),
            again: false,
        };
        let backend = selection.map(|selection| selection.backend);
        ResponseFuture {
            state: carried.begin(self, backend, pending),
        }
    }
}

/// A request body that no connection has taken yet.
pub(super) struct Pending {
    pub(super) body: Option<Outgoing>,
    pub(super) exact: Option<u64>,
}

/// The response of a [`Proxy`].
///
/// Small, as each layer above moves it: what a request needs until it is answered lies in a box
/// that is there already, its connection's.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    state: State,
}

enum State {
    Dialing(Pin<Box<Dialing>>),
    Done,
    Exchanging(Box<Conn>),
    Failed(Error),
    #[cfg(feature = "http2")]
    Http2(Pin<Box<Http2>>),
}

#[cfg(feature = "http2")]
type Http2 = dyn Future<Output = (Carried, Result<Response<Body>, Error>)> + Send;

/// A request that waits for its answer.
pub(super) struct Carried {
    /// Given back when there is no response, so that another attempt needs no copy.
    pub(super) parts: Parts,
    /// The attempt's number in the record, where no note says where it goes.
    number: Option<usize>,
    /// There is a request body: once it was touched, there is no second try here.
    has_body: bool,
    /// A try went out already on a connection that turned out to be closed.
    again: bool,
}

/// What a request needs next.
enum Way {
    Dial(Arc<Home>, Backend, Pending),
    Exchange(Box<Conn>),
    #[cfg(feature = "http2")]
    Http2(Arc<Home>, Backend, Pending),
}

impl Carried {
    /// Makes one for an exchange without the service around it.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        Self {
            parts: Request::new(()).into_parts().0,
            number: None,
            has_body: false,
            again: false,
        }
    }

    fn begin(self, proxy: &mut Proxy, backend: Option<&Backend>, pending: Pending) -> State {
        match self.way(proxy, backend, pending) {
            Ok(Way::Exchange(conn)) => self.exchange(&proxy.settings, conn),
            other => self.begin_otherwise(&proxy.settings, other),
        }
    }

    #[cold]
    fn begin_otherwise(self, settings: &Arc<Settings>, way: Result<Way, Error>) -> State {
        match way {
            Ok(Way::Exchange(conn)) => self.exchange(settings, conn),
            Ok(Way::Dial(home, backend, pending)) => {
                self.dial(settings.clone(), home, backend, pending)
            }
            #[cfg(feature = "http2")]
            Ok(Way::Http2(home, backend, pending)) => {
                self.exchange_http2(settings.clone(), home, backend, pending)
            }
            Err(error) => State::Failed(self.fail(error)),
        }
    }

    /// Does all that needs no wait: checkout, head, first write. Without a backend, a note says
    /// which.
    fn way(
        &self,
        proxy: &mut Proxy,
        backend: Option<&Backend>,
        pending: Pending,
    ) -> Result<Way, Error> {
        let settings = &*proxy.settings;
        if self.parts.method == Method::CONNECT {
            return Err(ErrorKind::MethodRefused.into());
        }
        let Some(backend) = backend.or_else(|| self.noted()) else {
            return Err(ErrorKind::NotRouted.into());
        };
        // What cannot be forwarded costs no connection.
        let facts = Facts::read(&self.parts, settings)?;
        let length = facts.length(pending.body.is_some(), pending.exact)?;
        let home = proxy
            .recent
            .get(backend, &settings.key, || new_home(settings));
        #[cfg(feature = "http2")]
        if backend.http_protocol() == crate::pool::Protocol::Http2 || home.http2.is_known() {
            return Ok(Way::Http2(home, backend.clone(), pending));
        }
        let wanted = Wanted {
            backend,
            client: facts.conn,
            once: !self.is_replaceable(),
        };
        match home.take(&wanted) {
            Some(mut conn) => {
                self.start(settings, &mut conn, &facts, length, backend, pending, home);
                Ok(Way::Exchange(conn))
            }
            None => Ok(Way::Dial(home, backend.clone(), pending)),
        }
    }

    fn noted(&self) -> Option<&Backend> {
        let selected = self.parts.extensions.get::<Selected>();
        selected.map(|Selected(backend)| backend)
    }

    fn backend(&self) -> Option<Backend> {
        let Some(number) = self.number else {
            return self.noted().cloned();
        };
        let exchange = self.parts.extensions.get::<Exchange>()?;
        exchange.attempts(|all| all.get(number).map(|attempt| attempt.backend.clone()))
    }

    /// Whether a second try here does no harm (RFC 9112 §9.3.1).
    fn is_replaceable(&self) -> bool {
        self.parts.method.is_idempotent() && !self.has_body && !self.again
    }

    fn exchange(self, settings: &Arc<Settings>, mut conn: Box<Conn>) -> State {
        conn.carry(self, settings.clone());
        State::Exchanging(conn)
    }

    fn dial(
        self,
        settings: Arc<Settings>,
        home: Arc<Home>,
        backend: Backend,
        pending: Pending,
    ) -> State {
        let connector = settings.connector.clone();
        let target = backend.clone();
        State::Dialing(Box::pin(Dialing {
            connect: Box::pin(async move { connector.connect(&target).await }),
            backend,
            epoch: home.epoch(),
            settings,
            rest: Some((self, home, pending)),
        }))
    }

    #[cfg(feature = "http2")]
    fn exchange_http2(
        self,
        settings: Arc<Settings>,
        home: Arc<Home>,
        backend: Backend,
        pending: Pending,
    ) -> State {
        State::Http2(Box::pin(async move {
            let exchanged = super::h2::exchange(settings, home, backend, self.parts, pending);
            let (parts, result) = exchanged.await;
            (Self { parts, ..self }, result)
        }))
    }

    /// Writes the head and begins the exchange.
    #[expect(clippy::too_many_arguments, reason = "each is at hand in two places")]
    fn start(
        &self,
        settings: &Settings,
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
            replaceable: self.is_replaceable(),
        };
        SCRATCH.with_borrow_mut(|head| {
            head.clear();
            facts.write_h1(backend, settings, length, head);
            conn.start(head, start, home);
            if head.capacity() > KEEP_SCRATCH {
                *head = Vec::new();
            }
        });
    }

    #[cold]
    fn fail(self, error: Error) -> Error {
        let error = match self.again {
            true => error.after_sending(),
            false => error,
        };
        error.with_unsent(self.parts)
    }

    /// Lends the head to who wants to begin another attempt beside this one.
    fn lend(&self, sent: bool) {
        if let Some(exchange) = self.parts.extensions.get::<Exchange>() {
            exchange.lend_head(&self.parts, sent);
        }
    }

    /// Whether a connection that was closed under the request can be replaced unnoticed.
    fn can_redial(&self, conn: &Conn, error: &Error) -> bool {
        let closed = matches!(
            error.kind(),
            ErrorKind::RequestWrite | ErrorKind::ResponseClosed
        );
        closed && conn.is_reused() && conn.is_untouched() && self.is_replaceable()
    }

    fn redial(mut self, settings: &Arc<Settings>) -> State {
        let Some(backend) = self.backend() else {
            return State::Failed(self.fail(ErrorKind::NotRouted.into()));
        };
        self.again = true;
        let home = home(settings, &backend);
        let pending = Pending {
            body: None,
            exact: Some(0),
        };
        self.dial(settings.clone(), home, backend, pending)
    }
}

fn home(settings: &Settings, backend: &Backend) -> Arc<Home> {
    backend.attachment(&settings.key, || new_home(settings))
}

fn new_home(settings: &Settings) -> Home {
    Home::new(settings.timeouts.idle, settings.max_idle)
}

/// Goes on once there is a connection.
fn connected(dialing: &mut Dialing, connected: Connected) -> State {
    let Some((carried, home, pending)) = dialing.rest.take() else {
        return State::Done;
    };
    let backend = &dialing.backend;
    let settings = dialing.settings.clone();
    #[cfg(feature = "http2")]
    if connected.is_http2() {
        home.http2.offer(connected, backend.address());
        return carried.exchange_http2(settings, home, backend.clone(), pending);
    }
    let facts = Facts::read(&carried.parts, &settings).and_then(|facts| {
        let length = facts.length(pending.body.is_some(), pending.exact)?;
        Ok((facts, length))
    });
    let stream = connected.into_stream();
    let mut conn = Conn::new(stream, settings.timeouts, backend.address(), dialing.epoch);
    match facts {
        Ok((facts, length)) => {
            carried.start(&settings, &mut conn, &facts, length, backend, pending, home);
            carried.exchange(&settings, conn)
        }
        Err(error) => State::Failed(carried.fail(error)),
    }
}

/// Makes the response of what the backend answered.
fn respond(mut conn: Box<Conn>, answer: Answer) -> Result<Response<Body>, Error> {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(conn);
    }
    let Some(carried) = conn.carries() else {
        return Err(ErrorKind::Service.into());
    };
    let mut response = Response::new(Body::default());
    *response.status_mut() = answer.status;
    // The request's map: its memory is used again.
    mem::swap(response.headers_mut(), &mut carried.parts.headers);
    let extensions = mem::take(&mut carried.parts.extensions);
    conn.unload();
    if answer.connection_auth {
        conn.bind(ConnInfo::of(&extensions).cloned());
    }
    spare::keep(extensions);
    match answer.body {
        AnswerBody::None => conn.finish(),
        AnswerBody::Whole(data) => {
            conn.finish();
            *response.body_mut() = Body::whole(data);
        }
        AnswerBody::Streaming => *response.body_mut() = Body::streaming(conn),
    }
    Ok(response)
}

#[cold]
fn switch(mut conn: Box<Conn>) -> Result<Response<Body>, Error> {
    match (conn.carried(), conn.settings()) {
        (Some(carried), Some(settings)) => {
            let timeout = settings.tunnel_timeout;
            upgrade::switch(*conn, carried.parts, timeout)
        }
        _ => Err(ErrorKind::Service.into()),
    }
}

/// Decides what follows a failed exchange.
#[cold]
fn failed(mut conn: Box<Conn>, error: Error) -> State {
    match (conn.carried(), conn.settings()) {
        (Some(carried), Some(settings)) if carried.can_redial(&conn, &error) => {
            carried.redial(settings)
        }
        (Some(carried), _) => State::Failed(carried.fail(error)),
        (None, _) => State::Failed(error),
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let State::Exchanging(conn) = &mut this.state {
            let Poll::Ready(answered) = conn.poll_answer(cx) else {
                if let Some(carried) = conn.carries() {
                    carried.lend(true);
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
    /// Polls what most requests never come to.
    #[cold]
    fn poll_otherwise(&mut self, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        loop {
            self.state = match mem::replace(&mut self.state, State::Done) {
                State::Dialing(mut dialing) => match dialing.connect.as_mut().poll(cx) {
                    Poll::Pending => {
                        if let Some((carried, ..)) = &dialing.rest {
                            carried.lend(carried.again);
                        }
                        self.state = State::Dialing(dialing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(stream)) => connected(&mut dialing, stream),
                    Poll::Ready(Err(error)) => State::Failed(match dialing.rest.take() {
                        Some((carried, ..)) => carried.fail(error),
                        None => error,
                    }),
                },
                #[cfg(feature = "http2")]
                State::Http2(mut exchange) => {
                    let Poll::Ready((carried, result)) = exchange.as_mut().poll(cx) else {
                        self.state = State::Http2(exchange);
                        return Poll::Pending;
                    };
                    return Poll::Ready(result.map_err(|error| carried.fail(error)));
                }
                State::Exchanging(conn) => {
                    self.state = State::Exchanging(conn);
                    return Pin::new(self).poll(cx);
                }
                State::Failed(error) => return Poll::Ready(Err(error)),
                // Polled after the end, or never begun.
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

/// A connection on its way; boxed, as it is rare.
struct Dialing {
    connect: Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send>>,
    backend: Backend,
    epoch: u64,
    settings: Arc<Settings>,
    rest: Option<(Carried, Arc<Home>, Pending)>,
}

thread_local! {
    /// The head of a request while it is written.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const KEEP_SCRATCH: usize = 64 * 1024;
