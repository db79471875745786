//! A request that waits for its answer: what it needs next, and what becomes of it.

use std::{cell::RefCell, sync::Arc};

use http::{Method, Response, request::Parts};

use super::{Dialing, State};
#[cfg(feature = "http2")]
use crate::proxy::h2::{self, Prepared};
use crate::{
    context::{Exchange, LocalReply, Selected},
    error::{Error, ErrorKind},
    pool::Backend,
    proxy::{
        Body, Proxy,
        body::Outgoing,
        config::Settings,
        h1::{Conn, Start},
        headers::{Facts, Length},
        idle::{Home, Wanted},
        own,
    },
};

/// A request body that no connection has taken yet.
pub(in crate::proxy) struct Pending {
    pub(in crate::proxy) body: Option<Outgoing>,
    pub(in crate::proxy) exact: Option<u64>,
}

/// A request that waits for its answer.
pub(in crate::proxy) struct Carried {
    /// Given back when there is no response, so that another attempt needs no copy.
    pub(in crate::proxy) parts: Parts,
    /// The attempt's number in the record, where no note says where it goes.
    pub(super) number: Option<usize>,
    /// There is a request body: once it was touched, there is no second try here.
    pub(super) has_body: bool,
    /// A try went out already on a connection that turned out to be closed.
    pub(super) again: bool,
}

/// What a request needs next.
enum Way {
    /// The proxy itself is the last recipient.
    Answer(Box<Response<Body>>),
    Dial(Arc<Home>, Backend, Pending),
    Exchange(Box<Conn>),
    #[cfg(feature = "http2")]
    Http2(Arc<Home>, Backend, Box<Prepared>, Option<Outgoing>),
}

impl Carried {
    pub(super) fn begin(
        self,
        proxy: &mut Proxy,
        backend: Option<&Backend>,
        pending: Pending,
    ) -> State {
        match self.way(proxy, backend, pending) {
            Ok(Way::Exchange(conn)) => self.exchange(&proxy.settings, conn),
            other => self.begin_otherwise(&proxy.settings, other),
        }
    }

    #[cold]
    fn begin_otherwise(self, settings: &Arc<Settings>, way: Result<Way, Error>) -> State {
        match way {
            Ok(Way::Answer(response)) => State::Answered(response),
            Ok(Way::Exchange(conn)) => self.exchange(settings, conn),
            Ok(Way::Dial(home, backend, pending)) => {
                self.dial(settings.clone(), home, backend, pending)
            }
            #[cfg(feature = "http2")]
            Ok(Way::Http2(home, backend, prepared, body)) => {
                self.exchange_http2(settings.clone(), home, backend, prepared, body)
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
        own::check_method(&self.parts.method, settings)?;
        let Some(backend) = backend.or_else(|| self.noted()) else {
            return Err(ErrorKind::NotRouted.into());
        };
        // What cannot be forwarded costs no connection.
        let facts = Facts::read(&self.parts, settings)?;
        let length = facts.length(pending.body.is_some(), pending.exact)?;
        if facts.ends_at_this_hop() {
            let mut response = own::answer(&self.parts, settings);
            response.extensions_mut().insert(LocalReply);
            return Ok(Way::Answer(Box::new(response)));
        }
        let home = proxy
            .recent
            .get(backend, &settings.key, || new_home(settings));
        #[cfg(feature = "http2")]
        if backend.configured_protocol() == crate::pool::Protocol::Http2 || home.http2.is_known() {
            let prepared = Prepared::new(settings, backend, &facts, length)?;
            return Ok(Way::Http2(home, backend.clone(), prepared, pending.body));
        }
        let wanted = Wanted {
            backend,
            client: facts.conn,
            once: !self.is_replaceable(),
        };
        match home.take(&wanted) {
            Some(mut conn) => {
                let started =
                    self.start(settings, &mut conn, &facts, length, backend, pending, home);
                match started {
                    Ok(()) => Ok(Way::Exchange(conn)),
                    Err(error) => {
                        // Nothing was written.
                        conn.finish();
                        Err(error)
                    }
                }
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

    pub(super) fn exchange(self, settings: &Arc<Settings>, mut conn: Box<Conn>) -> State {
        conn.attached.settings = Some(settings.clone());
        conn.attached.carried = Some(self);
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
    pub(super) fn exchange_http2(
        self,
        settings: Arc<Settings>,
        home: Arc<Home>,
        backend: Backend,
        prepared: Box<Prepared>,
        body: Option<Outgoing>,
    ) -> State {
        State::Http2(Box::pin(async move {
            let exchanged = h2::exchange(settings, home, backend, self.parts, prepared, body);
            let (parts, result) = exchanged.await;
            (Self { parts, ..self }, result)
        }))
    }

    /// Writes the head, with what of the body is there, and begins the exchange.
    #[expect(clippy::too_many_arguments, reason = "each is at hand in two places")]
    pub(super) fn start(
        &self,
        settings: &Settings,
        conn: &mut Conn,
        facts: &Facts<'_>,
        length: Length,
        backend: &Backend,
        pending: Pending,
        home: Arc<Home>,
    ) -> Result<(), Error> {
        conn.attached.home = Some(home);
        let start = Start {
            body: pending.body,
            length: match length {
                Length::Exact(length) => Some(length),
                Length::Chunked | Length::None => None,
            },
            expecting: facts.expects_continue,
            is_head: facts.parts.method == Method::HEAD,
            upgrade: facts.upgrade.cloned(),
            replaceable: self.is_replaceable(),
            nominated: facts.nominated().to_vec(),
        };
        // A body may do anything when it is polled, forward a request of its own included.
        conn.start(start)?;
        SCRATCH.with_borrow_mut(|head| {
            head.clear();
            facts.write_h1(backend, settings, length, head);
            conn.send(head);
            if head.capacity() > KEEP_SCRATCH {
                *head = Vec::new();
            }
        });
        if facts.connection_auth {
            conn.bind(facts.conn.cloned());
        }
        Ok(())
    }

    #[cold]
    pub(super) fn fail(self, error: Error) -> Error {
        let error = match self.again {
            true => error.after_sending(),
            false => error,
        };
        error.with_unsent(self.parts)
    }

    /// Lends the head to a layer that may begin another attempt beside this one.
    pub(super) fn lend(&self, sent: bool) {
        if let Some(exchange) = self.parts.extensions.get::<Exchange>() {
            exchange.lend_head(&self.parts, sent);
        }
    }

    /// Whether a connection that was closed under the request can be replaced unnoticed.
    pub(super) fn can_redial(&self, conn: &Conn, error: &Error) -> bool {
        let closed = matches!(
            error.kind(),
            ErrorKind::RequestWrite | ErrorKind::ResponseClosed
        );
        closed && conn.is_reused() && conn.is_untouched() && self.is_replaceable()
    }

    pub(super) fn redial(mut self, settings: &Arc<Settings>) -> State {
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
    Home::new(settings.timeouts.idle, settings.max_idle, settings.max_age)
}

thread_local! {
    /// The head of a request while it is written.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const KEEP_SCRATCH: usize = 64 * 1024;
