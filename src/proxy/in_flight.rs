//! A request until its response head is there: which step comes next, and whether it is sent again.
//!
//! # Order in `next_step`
//!
//! 1. The method, the backend and the head are checked before a connection is taken: a request that
//!    is refused costs the pool nothing.
//! 2. An idle connection is taken, and asked whether it is still open. The kernel is asked (one
//!    system call) only for a request that could not be sent again.
//! 3. The head goes out in one write with the first frame of the body if that is there.
//! 4. Only now a wait begins, if one is needed.
//!
//! # When a request is sent again here
//!
//! A backend may close an idle connection at the moment of its reuse (RFC 9112 §9.3.1). The request
//! is then sent once more, on a new connection and to the same backend, if all of these hold:
//!
//! | condition | why |
//! |---|---|
//! | the method is idempotent | the backend may have executed it before it closed |
//! | there is no body | a part of it may be gone |
//! | the connection was used before | a new one that closes is an answer of the backend, which counts as a failure |
//! | no byte of a response came | the backend has begun to answer |
//! | it is the first time | a backend that closes each connection would be asked for ever |
//!
//! Any other repetition is the business of `failover`, which may choose another backend.
//!
//! hyper#2136 discusses the same race of a request with the close of its connection.

use std::{cell::RefCell, sync::Arc};

use http::{Method, Response, request::Parts};

use super::service::{Dialing, State};
#[cfg(feature = "http2")]
use crate::proxy::http2::{self, Prepared};
use crate::{
    connect::DialTimes,
    context::{ConnInfo, Exchange, LocalReply, Selected},
    error::{Error, ErrorKind},
    pool::Backend,
    proxy::{
        Body, Proxy,
        body::ErasedBody,
        config::Settings,
        connection_pool::{ConnectionPool, Requirements},
        headers::{Length, ScannedHead},
        http1::{Conn, Start},
        local_answer,
    },
};

/// A request body that no connection has taken yet, and its exact length if the body knows it.
pub(super) struct PendingBody {
    pub(super) body: Option<ErasedBody>,
    /// Taken from the body before its type was erased.
    pub(super) exact: Option<u64>,
}

/// A request until its response head is there.
pub(super) struct InFlight {
    /// Given back with an error, so that another attempt needs no copy.
    pub(super) parts: Parts,
    /// The number of the attempt in the exchange's record, if the backend came as an argument and not as
    /// an extension.
    pub(super) number: Option<usize>,
    /// The request has a body. Once a byte of it was taken, the request is not sent again here.
    pub(super) has_body: bool,
    /// The request was sent on a connection that turned out to be closed.
    pub(super) redialled: bool,
}

/// The next step of a request.
enum NextStep {
    /// The proxy is the final recipient and has answered.
    Answer(Box<Response<Body>>),
    Dial(Arc<ConnectionPool>, Backend, PendingBody),
    Exchange(Box<Conn>),
    #[cfg(feature = "http2")]
    Http2(
        Arc<ConnectionPool>,
        Backend,
        Box<Prepared>,
        Option<ErasedBody>,
    ),
}

impl InFlight {
    /// Runs inside `call`, so an error is a state of the future and not returned: tower's `call`
    /// cannot fail.
    pub(super) fn begin(
        self,
        proxy: &mut Proxy,
        backend: Option<&Backend>,
        pending: PendingBody,
    ) -> State {
        match self.next_step(proxy, backend, pending) {
            Ok(NextStep::Exchange(conn)) => self.exchange(&proxy.settings, conn),
            other => self.begin_otherwise(&proxy.settings, other),
        }
    }

    /// Out of line and cold: all steps but the usual one.
    #[cold]
    fn begin_otherwise(self, settings: &Arc<Settings>, step: Result<NextStep, Error>) -> State {
        match step {
            Ok(NextStep::Answer(response)) => State::Answered(response),
            Ok(NextStep::Exchange(conn)) => self.exchange(settings, conn),
            Ok(NextStep::Dial(connections, backend, pending)) => {
                self.dial(settings.clone(), connections, backend, pending)
            }
            #[cfg(feature = "http2")]
            Ok(NextStep::Http2(connections, backend, prepared, body)) => {
                self.exchange_http2(settings.clone(), connections, backend, prepared, body)
            }
            Err(error) => State::Failed(self.fail(error)),
        }
    }

    /// Does everything that needs no wait: takes an idle connection, writes the head and the first body
    /// frame. Without `backend`, the `Selected` extension names it.
    fn next_step(
        &self,
        proxy: &mut Proxy,
        backend: Option<&Backend>,
        pending: PendingBody,
    ) -> Result<NextStep, Error> {
        let settings = &*proxy.settings;
        local_answer::check_method(&self.parts.method, settings)?;
        let Some(backend) = backend.or_else(|| self.selected()) else {
            return Err(ErrorKind::NotRouted.into());
        };
        // Before a connection is taken: a request that cannot be forwarded costs none.
        let scanned = ScannedHead::read(&self.parts, settings)?;
        let length = scanned.length(pending.body.is_some(), pending.exact)?;
        if scanned.ends_at_this_hop() {
            let mut response = local_answer::answer(&self.parts, settings);
            response.extensions_mut().insert(LocalReply);
            return Ok(NextStep::Answer(Box::new(response)));
        }
        // The cache has the pools of the backends that this proxy used last, so that a request does not
        // walk the list of its backend's attachments.
        let connections = proxy
            .recent
            .get(backend, &settings.key, || new_connections(settings));
        #[cfg(feature = "http2")]
        if backend.configured_protocol() == crate::pool::Protocol::Http2
            || (connections.http2.is_known() && !settings.connector.names_client(backend))
        {
            let prepared = Prepared::new(settings, backend, &scanned, length)?;
            return Ok(NextStep::Http2(
                connections,
                backend.clone(),
                prepared,
                pending.body,
            ));
        }
        let required = Requirements {
            backend,
            client: scanned.conn,
            own_client: settings.connector.names_client(backend),
            // A replaceable request needs no system call: if the connection is closed, it is sent
            // again.
            single_use: !self.is_replaceable(),
        };
        match connections.take(&required) {
            Some(mut conn) => {
                let started = self.start(
                    settings,
                    &mut conn,
                    &scanned,
                    length,
                    backend,
                    pending,
                    connections,
                );
                match started {
                    Ok(()) => Ok(NextStep::Exchange(conn)),
                    Err(error) => {
                        // Nothing was written: the connection is as before.
                        conn.finish();
                        Err(error)
                    }
                }
            }
            None => Ok(NextStep::Dial(connections, backend.clone(), pending)),
        }
    }

    /// The `Selected` extension, for a proxy that another crate's layers call.
    fn selected(&self) -> Option<&Backend> {
        let selected = self.parts.extensions.get::<Selected>();
        selected.map(|Selected(backend)| backend)
    }

    /// The backend of a redial, after the borrowed one of `call` is gone. `number` is that of the
    /// attempt in the record, where the balancer has put it.
    fn backend(&self) -> Option<Backend> {
        let Some(number) = self.number else {
            return self.selected().cloned();
        };
        let exchange = self.parts.extensions.get::<Exchange>()?;
        exchange.attempts(|all| all.get(number).map(|attempt| attempt.backend.clone()))
    }

    /// Returns true if the request may be sent again on another connection (RFC 9112 §9.3.1).
    fn is_replaceable(&self) -> bool {
        self.parts.method.is_idempotent() && !self.has_body && !self.redialled
    }

    /// The connection gets the request and the settings for the time of the exchange; `finish`
    /// takes the latter away again.
    pub(super) fn exchange(self, settings: &Arc<Settings>, mut conn: Box<Conn>) -> State {
        conn.owner_data.settings = Some(settings.clone());
        conn.owner_data.in_flight = Some(self);
        State::Exchanging(conn)
    }

    /// The dial is a future of the request and no task: if the client goes away, it is given up.
    fn dial(
        self,
        settings: Arc<Settings>,
        connections: Arc<ConnectionPool>,
        backend: Backend,
        pending: PendingBody,
    ) -> State {
        let connector = settings.connector.clone();
        let target = backend.clone();
        let client = match connector.names_client(&backend) {
            true => ConnInfo::of(&self.parts.extensions).cloned(),
            false => None,
        };
        State::Dialing(Box::pin(Dialing {
            connect: Box::pin(async move {
                match client {
                    Some(client) => connector.connect_for(&target, &client).await,
                    None => connector.connect(&target).await,
                }
            }),
            backend,
            // Read before the dial: a pool that is retired during the dial retires this connection
            // as well.
            epoch: connections.epoch(),
            settings,
            rest: Some((self, connections, pending)),
        }))
    }

    /// One box for the whole exchange: an async block cannot be named.
    #[cfg(feature = "http2")]
    pub(super) fn exchange_http2(
        self,
        settings: Arc<Settings>,
        connections: Arc<ConnectionPool>,
        backend: Backend,
        prepared: Box<Prepared>,
        body: Option<ErasedBody>,
    ) -> State {
        State::Http2(Box::pin(async move {
            // The head moves into the future and comes back with the result, so that an error can
            // give it back.
            let exchanged =
                http2::exchange(settings, connections, backend, self.parts, prepared, body);
            let (parts, result) = exchanged.await;
            (Self { parts, ..self }, result)
        }))
    }

    /// Writes the head, with the first body frame if it is there, and begins the exchange.
    #[expect(clippy::too_many_arguments, reason = "each is at hand in two places")]
    pub(super) fn start(
        &self,
        settings: &Settings,
        conn: &mut Conn,
        scanned: &ScannedHead<'_>,
        length: Length,
        backend: &Backend,
        pending: PendingBody,
        connections: Arc<ConnectionPool>,
    ) -> Result<(), Error> {
        // Also for a start that fails: `finish` then returns the connection.
        conn.owner_data.connections = Some(connections);
        let start = Start {
            body: pending.body,
            length: match length {
                Length::Exact(length) => Some(length),
                Length::Chunked | Length::None => None,
            },
            awaits_continue: scanned.expects_continue,
            is_head: scanned.parts.method == Method::HEAD,
            upgrade: scanned.upgrade.cloned(),
            replaceable: self.is_replaceable(),
            nominated: scanned.nominated().to_vec(),
        };
        // Before the scratch buffer is borrowed: polling a body may forward another request on this
        // thread.
        conn.start(start)?;
        SCRATCH.with_borrow_mut(|head| {
            head.clear();
            scanned.write_h1(backend, settings, length, head);
            conn.send(head);
            // One request with a large cookie would otherwise make each thread keep its size.
            if head.capacity() > KEEP_SCRATCH {
                *head = Vec::new();
            }
        });
        if scanned.connection_auth {
            conn.bind(scanned.conn.cloned());
        }
        Ok(())
    }

    /// After a redial, a part of the request may have reached the backend on the former connection,
    /// whatever the later error says.
    #[cold]
    pub(super) fn fail(self, error: Error) -> Error {
        let error = match self.redialled {
            true => error.after_sending(),
            false => error,
        };
        error.with_unsent(self.parts)
    }

    /// Records how long the connection of this attempt took.
    ///
    /// Recorded in the exchange, where `access_log` and `trace` read it.
    pub(super) fn set_connect_time(&self, backend: &Backend, took: DialTimes) {
        if let Some(exchange) = self.parts.extensions.get::<Exchange>() {
            exchange.set_connect_time(backend, took.connect, took.tls);
        }
    }

    /// Lends the head to a layer that may begin another attempt beside this one.
    pub(super) fn offer_head(&self, sent: bool) {
        if let Some(exchange) = self.parts.extensions.get::<Exchange>() {
            exchange.offer_head_copy(&self.parts, sent);
        }
    }

    /// Returns true if the connection was closed before it carried a byte of this response, and the
    /// request may be sent again.
    ///
    /// `is_untouched` says that no byte of this exchange was received.
    pub(super) fn can_redial(&self, conn: &Conn, error: &Error) -> bool {
        let closed = matches!(
            error.kind(),
            ErrorKind::RequestWrite | ErrorKind::ResponseClosed
        );
        closed && conn.is_reused() && conn.is_untouched() && self.is_replaceable()
    }

    /// The body is gone, and there was none: `is_replaceable` has checked it. The pool is looked up
    /// and not cached, since redials are rare.
    pub(super) fn redial(mut self, settings: &Arc<Settings>) -> State {
        let Some(backend) = self.backend() else {
            return State::Failed(self.fail(ErrorKind::NotRouted.into()));
        };
        self.redialled = true;
        let connections = connections(settings, &backend);
        let pending = PendingBody {
            body: None,
            exact: Some(0),
        };
        self.dial(settings.clone(), connections, backend, pending)
    }
}

fn connections(settings: &Settings, backend: &Backend) -> Arc<ConnectionPool> {
    backend.attachment(&settings.key, || new_connections(settings))
}

fn new_connections(settings: &Settings) -> ConnectionPool {
    ConnectionPool::new(settings.timeouts.idle, settings.max_idle, settings.max_age)
}

thread_local! {
    /// The buffer that heads of requests are written into.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const KEEP_SCRATCH: usize = 64 * 1024;
