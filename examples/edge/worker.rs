//! A worker thread: it accepts on every listener and serves the connections.

use std::{
    convert::Infallible,
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    BoxError,
    access_log::AccessLogLayer,
    endpoints::EndpointsLayer,
    metrics::MetricsLayer,
    proxy_protocol::ProxyProtocolLayer,
    server::{self, Serve, Workers},
    settings::ListenSettings,
    tls::{HstsLayer, TlsLayer, acme::Http01Layer},
};
use http::{Request, Response};
use http_body::Body;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tower::{Layer, Service, util::option_layer};

use crate::{app::App, listen::configured};

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) listeners: Arc<[ListenerPlan]>,
    /// One for each worker.
    pub(crate) apps: Arc<[App]>,
    /// Around each listener in cleartext, if a certificate is automatic.
    pub(crate) http01: Option<Http01Layer>,
    pub(crate) log: Option<AccessLogLayer>,
    pub(crate) metrics: Option<MetricsLayer>,
    pub(crate) lame_duck: Duration,
    pub(crate) drain: Duration,
    pub(crate) end: watch::Receiver<End>,
    /// Gets a message from each worker that accepts, or that cannot.
    pub(crate) accepts: mpsc::UnboundedSender<Result<(), String>>,
}

/// How the end of the workers begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    NotYet,
    Shutdown,
    HandedOver,
}

/// A listener, and the layers around its requests.
pub(crate) struct ListenerPlan {
    /// For each worker, those that it accepts from.
    pub(crate) sockets: Mutex<Vec<Vec<std::net::TcpListener>>>,
    /// Its section of the settings.
    pub(crate) listen: ListenSettings,
    /// The share of a socket in the connections that the settings allow.
    pub(crate) max_connections: Option<usize>,
    pub(crate) proxy_protocol: ProxyProtocolLayer,
    pub(crate) tls: Option<TlsLayer>,
    pub(crate) hsts: Option<HstsLayer>,
    pub(crate) endpoints: Option<EndpointsLayer>,
}

impl ListenerPlan {
    /// Divides the sockets among the workers.
    pub(crate) fn divide(
        sockets: Vec<std::net::TcpListener>,
        workers: NonZeroUsize,
    ) -> Mutex<Vec<Vec<std::net::TcpListener>>> {
        let mut shares: Vec<_> = (0..workers.get()).map(|_| Vec::new()).collect();
        for (nth, socket) in sockets.into_iter().enumerate() {
            shares[nth % workers.get()].push(socket);
        }
        Mutex::new(shares)
    }

    /// Takes the sockets of a worker.
    fn take(&self, worker: usize) -> Vec<std::net::TcpListener> {
        let mut shares = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut shares[worker])
    }
}

impl Worker {
    pub(crate) fn spawn(self, threads: NonZeroUsize) -> io::Result<Workers> {
        Workers::spawn(threads, move |number| self.clone().work(number))
    }

    async fn work(self, number: usize) -> io::Result<()> {
        let mut serving = JoinSet::new();
        let begun = self.accept(number, &mut serving);
        let message = begun.as_ref().map(drop).map_err(io::Error::to_string);
        // The control thread may have ended already.
        let _ = self.accepts.send(message);
        begun?;
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Begins to accept on the sockets of this worker.
    fn accept(&self, number: usize, serving: &mut JoinSet<io::Result<()>>) -> io::Result<()> {
        for plan in self.listeners.iter() {
            for (nth, listener) in plan.take(number).into_iter().enumerate() {
                let listener = TcpListener::from_std(listener)?;
                if number == 0 && nth == 0 {
                    let scheme = if plan.tls.is_some() { "https" } else { "http" };
                    tracing::info!("listening on {scheme}://{}/", listener.local_addr()?);
                }
                let app = self.apps[number].clone();
                let tls = plan.tls.as_ref().map(|tls| (tls, plan.hsts.clone()));
                match &plan.endpoints {
                    Some(own) => self.serve(serving, listener, plan, own.layer(app), tls)?,
                    None => self.serve(serving, listener, plan, app, tls)?,
                }
            }
        }
        Ok(())
    }

    fn serve<S, B>(
        &self,
        serving: &mut JoinSet<io::Result<()>>,
        listener: TcpListener,
        plan: &ListenerPlan,
        app: S,
        tls: Option<(&TlsLayer, Option<HstsLayer>)>,
    ) -> io::Result<()>
    where
        S: Service<Request<server::Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Default + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match tls {
            Some((tls, hsts)) => {
                let serve = evenkeel::serve(listener, option_layer(hsts).layer(app));
                let serve = self.finish(configured(serve, &plan.listen, plan.max_connections)?);
                let serve = Serve::layer(serve, tls.clone());
                let serve = Serve::layer(serve, plan.proxy_protocol.clone());
                serving.spawn(serve.into_future());
            }
            None => match &self.http01 {
                Some(http01) => self.cleartext(serving, listener, plan, http01.layer(app))?,
                None => self.cleartext(serving, listener, plan, app)?,
            },
        }
        Ok(())
    }

    fn cleartext<S, B>(
        &self,
        serving: &mut JoinSet<io::Result<()>>,
        listener: TcpListener,
        plan: &ListenerPlan,
        app: S,
    ) -> io::Result<()>
    where
        S: Service<Request<server::Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Default + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let serve = configured(
            evenkeel::serve(listener, app),
            &plan.listen,
            plan.max_connections,
        )?;
        let serve = Serve::layer(self.finish(serve), plan.proxy_protocol.clone());
        serving.spawn(serve.into_future());
        Ok(())
    }

    fn finish<C>(&self, serve: Serve<TcpListener, C>) -> Serve<TcpListener, C> {
        let (mut end, mut handed_over) = (self.end.clone(), self.end.clone());
        let serve = serve
            .lame_duck(self.lame_duck)
            .drain_timeout(self.drain)
            .shutdown(async move {
                // An error means that the control thread is gone, which is an end as well.
                let _ = end.wait_for(|end| *end == End::Shutdown).await;
            })
            .handed_over(async move {
                let _ = handed_over.wait_for(|end| *end == End::HandedOver).await;
            });
        match (&self.metrics, &self.log) {
            (None, None) => serve,
            (metrics, log) => serve.events((metrics.clone(), log.clone())),
        }
    }
}
