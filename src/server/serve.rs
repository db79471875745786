//! [`serve`] and [`Serve`]: the settings of a server, and the order of its graceful shutdown.

use std::{
    fmt,
    future::{Future, IntoFuture, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Http, Listener, connection_limit, http::DEFAULT_IDLE_TIMEOUT, open_connections::OpenConnections,
};
use crate::{
    context::{Conn, ConnectionEvents, GracefulShutdown, IDLE_GRACE},
    error::{BoxError, ConfigError},
    tcp_timeout,
};

/// Serves `app` on every connection that `listener` accepts. `app` is a tower service of requests: a
/// stack of this crate's layers, or an axum `Router`.
///
/// See the [module](super) for an example.
pub fn serve<L: Listener, S>(listener: L, app: S) -> Serve<L, Http<S>> {
    Serve::new(listener, Http::new(app))
}

/// A server that is configured and not yet running; made by [`serve`]. `.await` runs it until its
/// [`shutdown`](Self::shutdown) has ended.
#[must_use = "a server does nothing unless awaited"]
pub struct Serve<L, C> {
    listener: L,
    service: C,
    pub(super) max_connections: usize,
    pub(super) lame_duck: Duration,
    pub(super) drain_timeout: Duration,
    user_timeout: UserTimeout,
    events: Option<Arc<dyn ConnectionEvents>>,
    shutdown: Signal,
    handed_over: Signal,
}

/// Begins the end of a server when it completes; `None` never does.
type Signal = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The `TCP_USER_TIMEOUT`: set by the user, or derived from the idle time-out.
#[derive(Clone, Copy)]
enum UserTimeout {
    Default(Duration),
    Set(Duration),
}

impl UserTimeout {
    fn get(self) -> Duration {
        match self {
            Self::Default(idle) => idle.max(MIN_USER_TIMEOUT),
            Self::Set(timeout) => timeout,
        }
    }
}

impl<L: Listener, C> Serve<L, C> {
    /// Passes each connection to a connection service: [`Http`], or layers around it.
    pub fn new(listener: L, service: C) -> Self {
        Self {
            listener,
            service,
            max_connections: connection_limit::DEFAULT,
            lame_duck: Duration::ZERO,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            user_timeout: UserTimeout::Default(DEFAULT_IDLE_TIMEOUT),
            events: None,
            shutdown: None,
            handed_over: None,
        }
    }

    /// Wraps the connection service in a layer, such as `TlsLayer`.
    pub fn layer<T: Layer<C>>(self, layer: T) -> Serve<L, T::Service> {
        Serve {
            listener: self.listener,
            service: layer.layer(self.service),
            max_connections: self.max_connections,
            lame_duck: self.lame_duck,
            drain_timeout: self.drain_timeout,
            user_timeout: self.user_timeout,
            events: self.events,
            shutdown: self.shutdown,
            handed_over: self.handed_over,
        }
    }

    /// Sets how many connections may be open at once. Others wait in the kernel's queue, not yet
    /// accepted.
    ///
    /// Default: 10,000. An idle connection costs about 4 KiB in cleartext, 12 KiB under TLS.
    ///
    /// # Errors
    ///
    /// If `max` is 0, or over what a semaphore of tokio can count.
    pub fn max_connections(mut self, max: usize) -> Result<Self, ConfigError> {
        connection_limit::check(max)?;
        self.max_connections = max;
        Ok(self)
    }

    /// Sets how long the listener stays open after the shutdown began. A load balancer in front learns
    /// from failing readiness checks to use another instance; until it has, this instance still
    /// answers. Each response says `connection: close`, and HTTP/2 connections get GOAWAY behind their
    /// first request.
    ///
    /// Default: 0 s: the listener closes at once.
    ///
    /// See also the module `endpoints`, which answers readiness checks.
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// Sets how long connections may take to end after the listener closed. The server then closes
    /// those that are left.
    ///
    /// A connection that waits for a request is closed 2 s after its last response, or 2 s after the
    /// shutdown began if that is later (half of `timeout` if that is under 4 s), and not before the
    /// listener closes. A request that arrives before is answered with `connection: close`. After a
    /// [hand-over](Self::handed_over) it may wait longer.
    ///
    /// Default: 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets how long a client may acknowledge nothing of what the kernel sent it, or keep its TCP window
    /// shut, before the kernel closes the connection (nginx: `send_timeout`). This finds clients that
    /// lost their network. The time-outs of HTTP cannot: a response that trickles goes to the kernel,
    /// whether or not the client reads it. A client that is silent and gets nothing, such as that of
    /// an idle WebSocket, is probed after this time, and disconnected a quarter of it later. A shut
    /// window counts from the first probe on since Linux 5.11.
    ///
    /// The value is set on the listening socket (`TCP_USER_TIMEOUT` and keepalive), and connections
    /// inherit it without a system call of their own. It works on Linux, Android and Fuchsia; other
    /// systems have keepalive alone, with the times of the system. A [`Listener`] of your own has to
    /// pass the value on.
    ///
    /// Default: the idle time-out of [`http`](Self::http), 10 s at the least; 60 s if none is set.
    ///
    /// # Errors
    ///
    /// If the time is under a second or over an hour.
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.user_timeout = UserTimeout::Set(tcp_timeout::validate(timeout)?);
        Ok(self)
    }

    /// Sets the receiver of events about connections that end without a request, and about refused
    /// requests: the access log, for example.
    ///
    /// Default: none.
    pub fn events(mut self, events: impl ConnectionEvents) -> Self {
        self.events = Some(Arc::new(events));
        self
    }

    /// Shuts down gracefully when `signal` completes. The server asks clients to send no more requests,
    /// accepts connections for the time of [`lame_duck`](Self::lame_duck), accepts those that wait in
    /// the kernel's queue (above [`max_connections`](Self::max_connections) too), closes the listener,
    /// and lets requests in flight and tunnels end within [`drain_timeout`](Self::drain_timeout).
    ///
    /// Default: never.
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(signal));
        self
    }

    /// Shuts down as with [`shutdown`](Self::shutdown), but without the time of the
    /// [`lame_duck`](Self::lame_duck), when `signal` completes: another process, which has the same
    /// listening socket, accepts connections from now on. The module `fleet` hands sockets over.
    ///
    /// A connection that waits for a request has until its idle time-out, as before, and the last 2 s of the
    /// [`drain_timeout`](Self::drain_timeout) at the latest: closed sooner, it would cross the request of a
    /// client that comes back (HAProxy: `option idle-close-on-response`). The process that has handed
    /// over therefore lasts as long as idle clients keep their connections.
    ///
    /// Default: never.
    pub fn handed_over(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.handed_over = Some(Box::pin(signal));
        self
    }
}

impl<L: Listener, S> Serve<L, Http<S>> {
    /// Configures how HTTP is served. Call it before [`layer`](Self::layer).
    ///
    /// # Errors
    ///
    /// Those that `configure` returns.
    pub fn http(
        mut self,
        configure: impl FnOnce(Http<S>) -> Result<Http<S>, ConfigError>,
    ) -> Result<Self, ConfigError> {
        self.service = configure(self.service)?;
        if let UserTimeout::Default(timeout) = &mut self.user_timeout {
            *timeout = self.service.idle();
        }
        Ok(self)
    }
}

impl<L, C> fmt::Debug for Serve<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("max_connections", &self.max_connections)
            .field("lame_duck", &self.lame_duck)
            .field("drain_timeout", &self.drain_timeout)
            .field("user_timeout", &self.user_timeout.get())
            .finish_non_exhaustive()
    }
}

impl<L, C> IntoFuture for Serve<L, C>
where
    L: Listener,
    C: Service<Conn<L::Io>, Response = ()> + Clone + Send + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

async fn run<L, C>(serve: Serve<L, C>) -> io::Result<()>
where
    L: Listener,
    C: Service<Conn<L::Io>, Response = ()> + Clone + Send + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let Serve {
        mut listener,
        service,
        max_connections,
        lame_duck,
        drain_timeout,
        user_timeout,
        events,
        shutdown,
        handed_over,
    } = serve;
    // Before the first accept: connections inherit the option from the listening socket.
    listener.tcp_user_timeout(user_timeout.get());
    let permits = Arc::new(Semaphore::new(max_connections));
    let grace = IDLE_GRACE.min(drain_timeout / 2);
    let mut open = OpenConnections {
        local: listener.local(),
        service,
        events,
        shutdown: GracefulShutdown::new().idle_grace(grace),
        running: JoinSet::new(),
    };
    let mut shutdown = shutdown.unwrap_or_else(|| Box::pin(pending()));
    let mut handed_over = handed_over.unwrap_or_else(|| Box::pin(pending()));
    let mut is_handed_over = false;
    let end = async {
        tokio::select! {
            biased;
            () = &mut handed_over => is_handed_over = true,
            () = &mut shutdown => {}
        }
    };
    open.accept_until(&mut listener, &permits, end).await;
    open.shutdown.announce();
    if !lame_duck.is_zero() && !is_handed_over {
        open.accept_until(&mut listener, &permits, sleep(lame_duck))
            .await;
    }
    if !is_handed_over {
        open.shutdown.begin();
    }
    // To close the listener resets the connections that wait in its queue, so they are accepted
    // first. The yield lets the runtime ask the operating system for the last of them.
    for _ in 0..2 {
        while let Some((io, peer)) = poll_once(listener.accept()).await {
            open.begin(io, peer, None);
        }
        tokio::task::yield_now().await;
    }
    drop(listener);
    // Nothing waits for the end of a process that has a successor: an idle connection may wait for its
    // next request, whose response is its last. To close it can cross a request, however long it was idle.
    let idle = if is_handed_over {
        drain_timeout - grace
    } else {
        Duration::ZERO
    };
    open.drain(drain_timeout, idle).await;
    Ok(())
}

/// Polls the future once; returns its output if it is ready.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest default: a packet that is lost four times in a row does not prove that the client
/// has vanished.
pub(super) const MIN_USER_TIMEOUT: Duration = Duration::from_secs(10);
