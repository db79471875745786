//! The connections that are open: the accept loop, the events of each, and the drain.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tower_service::Service;

use super::Listener;
use crate::{
    context::{Conn, ConnInfo, ConnectionEvents, GracefulShutdown, Peer},
    error::BoxError,
};

/// Reports to the events that a connection opened, and at its drop that it is closed.
struct OpenConnection {
    events: Arc<dyn ConnectionEvents>,
    info: ConnInfo,
}

impl OpenConnection {
    pub(super) fn new(events: Arc<dyn ConnectionEvents>, info: ConnInfo) -> Self {
        events.connection_opened(&info);
        Self { events, info }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.events.connection_closed(&self.info);
    }
}

/// The connections that are open, and what each new one needs.
pub(super) struct OpenConnections<C> {
    pub(super) local: Peer,
    pub(super) service: C,
    pub(super) events: Option<Arc<dyn ConnectionEvents>>,
    pub(super) shutdown: GracefulShutdown,
    pub(super) running: JoinSet<()>,
}

impl<C> OpenConnections<C> {
    pub(super) async fn accept_until<L>(
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
                // The permit before the connection: without a place it stays in the kernel's queue.
                // A dropped future gives the permit back, and loses no connection (`accept` of
                // tokio is cancel safe).
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                // The end first: under a flood of connections, `accept` would always be ready.
                biased;
                () = &mut end => return,
                (permit, (io, peer)) = accepted => self.begin(io, peer, permit.ok()),
            }
        }
    }

    /// Waits until all connections have ended, and closes those that are left at the time-out. Idle ones
    /// may stay so for the time `idle`.
    pub(super) async fn drain(&mut self, drain_timeout: Duration, idle: Duration) {
        let shutdown = &self.shutdown;
        let ended = async {
            if idle.is_zero() || timeout(idle, shutdown.ended()).await.is_err() {
                shutdown.begin();
                shutdown.ended().await;
            }
        };
        if timeout(drain_timeout, ended).await.is_err() {
            let cut = self.shutdown.remaining();
            tracing::warn!(target: "evenkeel::server", cut, "connections were closed: they did not end within the drain time-out");
        }
        self.running.shutdown().await;
    }

    pub(super) fn begin<Io>(&mut self, io: Io, peer: Peer, permit: Option<OwnedSemaphorePermit>)
    where
        Io: Send + 'static,
        C: Service<Conn<Io>, Response = ()> + Clone + Send + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        let info = ConnInfo::new(peer, self.local);
        let mut conn = Conn::new(io, info.clone()).with_shutdown(self.shutdown.signal());
        let mut open = None;
        if let Some(events) = &self.events {
            conn = conn.with_events(events.clone());
            open = Some(OpenConnection::new(events.clone(), info));
        }
        // The set would grow with each connection if ended ones stayed in it.
        while self.running.try_join_next().is_some() {}
        self.running
            .spawn(connection(self.service.clone(), conn, (permit, open)));
    }
}

/// Serves a connection; drops `held` once it is closed.
///
/// Each connection is a task, so that a panic ends this connection alone.
async fn connection<Io, C, H>(mut service: C, conn: Conn<Io>, held: H)
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
    drop(held);
}
