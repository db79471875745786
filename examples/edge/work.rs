//! What each worker thread does: accept on every listener, and serve.

use std::{io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use evenkeel::{
    access_log::AccessLogLayer,
    server::{Serve, Workers, bind},
    tls::{HstsLayer, TlsLayer},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tower::Layer;

use crate::app::App;

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) listeners: Arc<[(SocketAddr, Option<TlsLayer>)]>,
    /// One a worker.
    pub(crate) apps: Arc<[App]>,
    pub(crate) log: Option<AccessLogLayer>,
    pub(crate) drain: Duration,
    /// Says when it is over.
    pub(crate) stopped: watch::Receiver<()>,
}

impl Plan {
    pub(crate) fn spawn(self, threads: NonZeroUsize) -> io::Result<Workers> {
        Workers::spawn(threads, move |number| self.clone().work(number))
    }

    async fn work(self, number: usize) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for (address, tls) in self.listeners.iter() {
            let listener = bind(*address, true)
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
            if number == 0 {
                let scheme = if tls.is_some() { "https" } else { "http" };
                tracing::info!("listening on {scheme}://{}/", listener.local_addr()?);
            }
            let app = self.apps[number].clone();
            match tls {
                Some(tls) => {
                    let serve = evenkeel::serve(listener, HstsLayer::new().layer(app));
                    let serve = self.finish(serve);
                    serving.spawn(Serve::layer(serve, tls.clone()).into_future());
                }
                None => {
                    let serve = evenkeel::serve(listener, app);
                    serving.spawn(self.finish(serve).into_future());
                }
            }
        }
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }

    fn finish<C>(&self, serve: Serve<TcpListener, C>) -> Serve<TcpListener, C> {
        let mut stopped = self.stopped.clone();
        let serve = serve.drain_timeout(self.drain).shutdown(async move {
            // An error says that the control thread is gone: that is an end, too.
            let _ = stopped.changed().await;
        });
        match &self.log {
            Some(log) => serve.events(log.clone()),
            None => serve,
        }
    }
}

/// Makes one port of port 0 for all workers, which share it.
pub(crate) fn settle(address: SocketAddr) -> io::Result<SocketAddr> {
    match address.port() {
        0 => std::net::TcpListener::bind(address)?.local_addr(),
        _ => Ok(address),
    }
}
