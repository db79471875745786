//! The accept loop and its graceful end.

use std::{
    fmt,
    future::{Future, IntoFuture, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{Http, Listener, http::DEFAULT_IDLE_TIMEOUT};
use crate::{
    context::{Conn, ConnInfo, ConnectionEvents, Drainer, IDLE_GRACE, Peer},
    error::{BoxError, ConfigError},
    tcp_timeout,
};

/// Answers the requests of every connection that `listener` accepts with `app`: a tower service
/// of requests, such as a stack of this crate's layers or an axum `Router`.
pub fn serve<L: Listener, S>(listener: L, app: S) -> Serve<L, Http<S>> {
    Serve::new(listener, Http::new(app))
}

/// A server about to run: configure, then `.await`. Made by [`serve`].
#[must_use = "a server does nothing unless awaited"]
pub struct Serve<L, C> {
    listener: L,
    service: C,
    max_connections: usize,
    lame_duck: Duration,
    drain_timeout: Duration,
    user_timeout: UserTimeout,
    events: Option<Arc<dyn ConnectionEvents>>,
    shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// As was set, or as follows from the idle time-out.
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
    /// Hands each connection to a connection service: [`Http`], with what stands around it.
    pub fn new(listener: L, service: C) -> Self {
        Self {
            listener,
            service,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            lame_duck: Duration::ZERO,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            user_timeout: UserTimeout::Default(DEFAULT_IDLE_TIMEOUT),
            events: None,
            shutdown: None,
        }
    }

    /// Puts a layer, such as `TlsLayer`, around the connection service.
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
        }
    }

    /// Sets how many connections are open at once. Others wait, unaccepted, in the kernel's
    /// queue.
    ///
    /// Default: 10,000. An idle one costs about 4 KiB in cleartext, 12 KiB under TLS.
    ///
    /// # Errors
    ///
    /// When it is 0.
    pub fn max_connections(mut self, max: usize) -> Result<Self, ConfigError> {
        if max == 0 || max > Semaphore::MAX_PERMITS {
            return Err(ConfigError::new(
                "max_connections",
                format!("{max}: 1 to {} is accepted", Semaphore::MAX_PERMITS),
            ));
        }
        self.max_connections = max;
        Ok(self)
    }

    /// Sets how long the listener stays open once the shutdown began. Clients that look for another
    /// instance meanwhile, as they see that readiness fails, find this one answering: each response
    /// says `connection: close`, and HTTP/2 connections get a GOAWAY behind their first request.
    ///
    /// Default: 0 s: the listener closes at once.
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// Sets how long connections may take to end once the listener is closed; then they are cut.
    ///
    /// A connection that waits for a request is closed 2 s after its last response, or after the
    /// shutdown began if that came later (half of this time where it is under 4 s). While the
    /// listener is open, it is not closed. A request that comes until then is answered, and its
    /// response says `connection: close`.
    ///
    /// Default: 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets after how long a client that acknowledges nothing of what it is sent is given up, as
    /// one that lost its network, or whose window stays shut (since Linux 5.11 from the first
    /// probe on; what nginx calls `send_timeout`). No deadline of ours sees that: an answer that
    /// trickles goes to the kernel, whether anybody takes it or not. A client that is silent, and
    /// that nothing is sent to, such as a WebSocket's, is asked after this time whether it is
    /// there, and given up a quarter of it later.
    ///
    /// Set on the listening socket (`TCP_USER_TIMEOUT` and keepalive), from which connections
    /// inherit it: a connection costs no system call more. Linux, Android and Fuchsia; elsewhere
    /// keepalive alone, as the system is set up. A [`Listener`] of one's own passes it on.
    ///
    /// Default: the idle time-out that [`http`](Self::http) was told, 10 s at the least, else
    /// 60 s.
    ///
    /// # Errors
    ///
    /// Under a second or over an hour.
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.user_timeout = UserTimeout::Set(tcp_timeout::validate(timeout)?);
        Ok(self)
    }

    /// Sets what hears of connections that end without a request, and of requests that are
    /// refused: the access log, say.
    ///
    /// Default: nothing.
    pub fn events(mut self, events: impl ConnectionEvents) -> Self {
        self.events = Some(Arc::new(events));
        self
    }

    /// Ends gracefully when `signal` does: tells clients that no more requests are welcome, goes on
    /// accepting for the time of [`lame_duck`](Self::lame_duck), accepts what waits in the queue
    /// (over the cap, too), closes the listener, and lets requests in flight and tunnels end.
    ///
    /// Default: never.
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(signal));
        self
    }
}

impl<L: Listener, S> Serve<L, Http<S>> {
    /// Configures how HTTP is served; before [`layer`](Self::layer).
    ///
    /// # Errors
    ///
    /// Those of the configuration.
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
    } = serve;
    listener.tcp_user_timeout(user_timeout.get());
    let permits = Arc::new(Semaphore::new(max_connections));
    let mut open = OpenConnections {
        local: listener.local(),
        service,
        events,
        drainer: Drainer::new().idle_grace(IDLE_GRACE.min(drain_timeout / 2)),
        running: JoinSet::new(),
    };
    let mut shutdown = shutdown.unwrap_or_else(|| Box::pin(pending()));
    open.accept_until(&mut listener, &permits, &mut shutdown)
        .await;
    open.drainer.announce();
    if !lame_duck.is_zero() {
        open.accept_until(&mut listener, &permits, sleep(lame_duck))
            .await;
    }
    open.drainer.begin();
    // Whoever has connected already would be reset by the close of the listener. The runtime
    // learns of the last ones when it turns to the operating system, which it does in between.
    for _ in 0..2 {
        while let Some((io, peer)) = poll_once(listener.accept()).await {
            open.begin(io, peer, None);
        }
        tokio::task::yield_now().await;
    }
    drop(listener);
    if timeout(drain_timeout, open.drainer.ended()).await.is_err() {
        let cut = open.drainer.left();
        tracing::warn!(target: "evenkeel::server", cut, "connections were cut at the drain's deadline");
    }
    open.running.shutdown().await;
    Ok(())
}

/// The connections that are open.
struct OpenConnections<C> {
    local: Peer,
    service: C,
    events: Option<Arc<dyn ConnectionEvents>>,
    drainer: Drainer,
    running: JoinSet<()>,
}

impl<C> OpenConnections<C> {
    async fn accept_until<L>(
        &mut self,
        listener: &mut L,
        permits: &Arc<Semaphore>,
        end: impl Future<Output = ()>,
    ) where
        L: Listener,
        C: Service<Conn<L::Io>, Response = ()> + Clone + Send + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        let mut end = pin!(end);
        loop {
            let accepted = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                biased;
                () = &mut end => return,
                (permit, (io, peer)) = accepted => self.begin(io, peer, permit.ok()),
            }
        }
    }

    fn begin<Io>(&mut self, io: Io, peer: Peer, permit: Option<OwnedSemaphorePermit>)
    where
        Io: Send + 'static,
        C: Service<Conn<Io>, Response = ()> + Clone + Send + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        let info = ConnInfo::new(peer, self.local);
        let mut conn = Conn::new(io, info).with_drain(self.drainer.drain());
        if let Some(events) = &self.events {
            conn = conn.with_events(events.clone());
        }
        // What has ended need not be kept.
        while self.running.try_join_next().is_some() {}
        self.running
            .spawn(connection(self.service.clone(), conn, permit));
    }
}

async fn connection<Io, C>(mut service: C, conn: Conn<Io>, permit: Option<OwnedSemaphorePermit>)
where
    C: Service<Conn<Io>, Response = ()>,
    C::Error: Into<BoxError>,
{
    let ready = poll_fn(|cx| service.poll_ready(cx).map_err(Into::into)).await;
    let result: Result<(), BoxError> = match ready {
        Ok(()) => service.call(conn).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(target: "evenkeel::server", %error, "a connection ended");
    }
    drop(permit);
}

/// Returns what is ready now, if anything is.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What a process with the usual limit of open files can have, both sides counted.
pub(super) const DEFAULT_MAX_CONNECTIONS: usize = 10_000;
pub(super) const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// However short the idle time-out: packets that are lost four times in a row are no vanished
/// client yet.
pub(super) const MIN_USER_TIMEOUT: Duration = Duration::from_secs(10);
