//! A worker thread: it accepts on every listener and serves the connections.

use std::{convert::Infallible, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    BoxError,
    access_log::AccessLogLayer,
    endpoints::EndpointsLayer,
    metrics::MetricsLayer,
    proxy_protocol::ProxyProtocolLayer,
    server::{self, Http, Serve, Workers, bind},
    settings::ListenSettings,
    tls::{HstsLayer, TlsLayer, acme::Http01Layer},
};
use http::{Request, Response};
use http_body::Body;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tower::{Layer, Service, util::option_layer};

use crate::app::App;

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
    /// Changes when the shutdown begins.
    pub(crate) stopped: watch::Receiver<()>,
}

/// A listener, and the layers around its requests.
pub(crate) struct ListenerPlan {
    pub(crate) address: SocketAddr,
    /// Its section of the settings.
    pub(crate) listen: ListenSettings,
    pub(crate) proxy_protocol: ProxyProtocolLayer,
    pub(crate) tls: Option<TlsLayer>,
    pub(crate) hsts: Option<HstsLayer>,
    pub(crate) endpoints: Option<EndpointsLayer>,
}

impl Worker {
    pub(crate) fn spawn(self, threads: NonZeroUsize) -> io::Result<Workers> {
        Workers::spawn(threads, move |number| self.clone().work(number))
    }

    async fn work(self, number: usize) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for plan in self.listeners.iter() {
            let ListenerPlan {
                address,
                tls,
                hsts,
                endpoints,
                ..
            } = plan;
            let listener = bind(*address, true)
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
            if number == 0 {
                let scheme = if tls.is_some() { "https" } else { "http" };
                tracing::info!("listening on {scheme}://{}/", listener.local_addr()?);
            }
            let app = self.apps[number].clone();
            let tls = tls.as_ref().map(|tls| (tls, hsts.clone()));
            match endpoints {
                Some(own) => self.serve(&mut serving, listener, plan, own.layer(app), tls)?,
                None => self.serve(&mut serving, listener, plan, app, tls)?,
            }
        }
        while let Some(ended) = serving.join_next().await {
            ended??;
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
                let serve = self.finish(http(serve, plan)?);
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
        let serve = http(evenkeel::serve(listener, app), plan)?;
        let serve = Serve::layer(self.finish(serve), plan.proxy_protocol.clone());
        serving.spawn(serve.into_future());
        Ok(())
    }

    fn finish<C>(&self, serve: Serve<TcpListener, C>) -> Serve<TcpListener, C> {
        let mut stopped = self.stopped.clone();
        let serve = serve
            .lame_duck(self.lame_duck)
            .drain_timeout(self.drain)
            .shutdown(async move {
                // An error means that the control thread is gone, which is an end as well.
                let _ = stopped.changed().await;
            });
        match (&self.metrics, &self.log) {
            (None, None) => serve,
            (metrics, log) => serve.events((metrics.clone(), log.clone())),
        }
    }
}

/// Applies the HTTP settings of the listener.
fn http<S>(
    serve: Serve<TcpListener, Http<S>>,
    plan: &ListenerPlan,
) -> io::Result<Serve<TcpListener, Http<S>>> {
    let listen = &plan.listen;
    let configured = serve.http(|mut http| {
        if let Some(rate) = listen.min_rate {
            http = http.min_rate(rate)?;
        }
        if let Some(timeout) = plan.listen.request_timeout {
            http = http.request_timeout(timeout)?;
        }
        Ok(http
            .half_close(listen.half_close)
            .allow_empty_host(listen.allow_empty_host)
            .allow_raw_target(listen.allow_raw_target))
    });
    configured.map_err(io::Error::other)
}

/// Chooses a port if the address has port 0, so that all workers share it.
pub(crate) fn fix_port(address: SocketAddr) -> io::Result<SocketAddr> {
    match address.port() {
        0 => std::net::TcpListener::bind(address)?.local_addr(),
        _ => Ok(address),
    }
}
