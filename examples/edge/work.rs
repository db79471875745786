//! What each worker thread does: accept on every listener, and serve.

use std::{convert::Infallible, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    BoxError,
    access_log::AccessLogLayer,
    endpoints::EndpointsLayer,
    server::{self, Http, Serve, Workers, bind},
    settings::Listen,
    tls::{HstsLayer, TlsLayer},
};
use http::{Request, Response};
use http_body::Body;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tower::{Layer, Service, util::option_layer};

use crate::app::App;

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) listeners: Arc<[Door]>,
    /// One a worker.
    pub(crate) apps: Arc<[App]>,
    pub(crate) log: Option<AccessLogLayer>,
    pub(crate) lame_duck: Duration,
    pub(crate) drain: Duration,
    /// Says when it is over.
    pub(crate) stopped: watch::Receiver<()>,
}

/// A listener, and what stands around its requests.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// As the settings have it.
    pub(crate) listen: Listen,
    pub(crate) tls: Option<TlsLayer>,
    pub(crate) hsts: Option<HstsLayer>,
    pub(crate) endpoints: Option<EndpointsLayer>,
}

impl Plan {
    pub(crate) fn spawn(self, threads: NonZeroUsize) -> io::Result<Workers> {
        Workers::spawn(threads, move |number| self.clone().work(number))
    }

    async fn work(self, number: usize) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for Door {
            address,
            listen,
            tls,
            hsts,
            endpoints,
        } in self.listeners.iter()
        {
            let listener = bind(*address, true)
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
            if number == 0 {
                let scheme = if tls.is_some() { "https" } else { "http" };
                tracing::info!("listening on {scheme}://{}/", listener.local_addr()?);
            }
            let app = self.apps[number].clone();
            let tls = tls.as_ref().map(|tls| (tls, hsts.clone()));
            match endpoints {
                Some(own) => self.serve(&mut serving, listener, listen, own.layer(app), tls)?,
                None => self.serve(&mut serving, listener, listen, app, tls)?,
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
        listen: &Listen,
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
                let serve = self.finish(http1(serve, listen)?);
                serving.spawn(Serve::layer(serve, tls.clone()).into_future());
            }
            None => {
                let serve = http1(evenkeel::serve(listener, app), listen)?;
                serving.spawn(self.finish(serve).into_future());
            }
        }
        Ok(())
    }

    fn finish<C>(&self, serve: Serve<TcpListener, C>) -> Serve<TcpListener, C> {
        let mut stopped = self.stopped.clone();
        let serve = serve
            .lame_duck(self.lame_duck)
            .drain_timeout(self.drain)
            .shutdown(async move {
                // An error says that the control thread is gone: that is an end, too.
                let _ = stopped.changed().await;
            });
        match &self.log {
            Some(log) => serve.events(log.clone()),
            None => serve,
        }
    }
}

/// Speaks HTTP/1.1 as the settings have it.
fn http1<S>(
    serve: Serve<TcpListener, Http<S>>,
    listen: &Listen,
) -> io::Result<Serve<TcpListener, Http<S>>> {
    let configured = serve.http(|http| {
        Ok(http
            .half_close(listen.half_close)
            .allow_empty_host(listen.allow_empty_host)
            .allow_raw_target(listen.allow_raw_target))
    });
    configured.map_err(io::Error::other)
}

/// Makes one port of port 0 for all workers, which share it.
pub(crate) fn settle(address: SocketAddr) -> io::Result<SocketAddr> {
    match address.port() {
        0 => std::net::TcpListener::bind(address)?.local_addr(),
        _ => Ok(address),
    }
}
