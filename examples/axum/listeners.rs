//! The listeners: `evenkeel::serve`, with or without `TlsLayer` and
//! `ProxyProtocolLayer` around its connections.
//! `axum::serve` works as well (see the `tls` example); `evenkeel::serve` adds limits, deadlines and
//! a drain.

use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};

use axum::Router;
use evenkeel::{
    BoxError, Pool,
    access_log::AccessLogLayer,
    endpoints::{EndpointsLayer, Readiness},
    metrics::MetricsLayer,
    proxy_protocol::ProxyProtocolLayer,
    server::Serve,
    settings::Settings,
    stats::CertificateRegistry,
    tls::{
        Certificates, HstsLayer,
        acme::{Acme, ChallengeAnswers, Http01Layer},
    },
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{fleet::ListenerTls, operators::Operators};

/// Open listeners.
pub(crate) struct Listeners {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) pool: Pool,
    /// The readiness that fails at shutdown, and for how long before the listeners close; `None`
    /// if no listener has a readiness path.
    pub(crate) lame_duck: Option<(Readiness, Duration)>,
    pub(crate) drain: Duration,
    /// What records connections.
    pub(crate) events: (Option<MetricsLayer>, Option<AccessLogLayer>),
    pub(crate) operators: Operators,
    /// The answers of automatic certificates.
    pub(crate) answers: ChallengeAnswers,
}

pub(crate) struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) proxy_protocol: ProxyProtocolLayer,
    pub(crate) tls: ListenerTls,
    pub(crate) acme: Option<Acme>,
    pub(crate) hsts: Option<HstsLayer>,
    pub(crate) endpoints: Option<EndpointsLayer>,
}

impl Listeners {
    pub(crate) fn from_settings(
        settings: &Settings,
        readiness: Readiness,
        pool: &Pool,
        tls: Vec<ListenerTls>,
    ) -> Result<Self, BoxError> {
        let mut listeners = Vec::new();
        let answers = ChallengeAnswers::new();
        for (nth, tls) in tls.into_iter().enumerate() {
            let address = settings.listen[nth].address;
            let tcp = bind(address).map_err(|error| format!("{address}: {error}"))?;
            listeners.push(Listener {
                tcp,
                proxy_protocol: settings.proxy_protocol(nth),
                tls,
                acme: settings.acme(nth, &answers)?,
                hsts: settings.hsts(nth),
                endpoints: settings.endpoints_layer(nth, &readiness),
            });
        }
        let asked = listeners
            .iter()
            .any(|listener| listener.endpoints.is_some())
            || settings.admin.is_some();
        let lame_duck = settings.lame_duck();
        Ok(Self {
            listeners,
            pool: pool.clone(),
            lame_duck: asked.then_some((readiness, lame_duck)),
            drain: settings.drain(),
            events: (None, None),
            operators: Operators::default(),
            answers,
        })
    }

    /// Shows the certificates under the addresses of their listeners.
    pub(crate) fn show_certificates_in(&self, registry: &CertificateRegistry) -> io::Result<()> {
        for listener in &self.listeners {
            if let Some((_, certificates)) = &listener.tls {
                certificates.show_in(registry, &listener.tcp.local_addr()?.to_string());
            }
        }
        Ok(())
    }

    /// Serves until a signal, then lets requests end.
    pub(crate) async fn serve(self, app: Router) -> Result<(), BoxError> {
        let (stop, stopped) = watch::channel(());
        let mut serving = JoinSet::new();
        let (readiness, lame_duck) = self.lame_duck.unzip();
        let mut watched = Vec::new();
        let mut renewed = Vec::new();
        let has_acme = self
            .listeners
            .iter()
            .any(|listener| listener.acme.is_some());
        for listener in self.listeners {
            let Listener {
                tcp,
                proxy_protocol,
                tls,
                acme,
                ..
            } = listener;
            let address = tcp.local_addr()?;
            let mut stop = stopped.clone();
            // An error means that the sender is gone, which is an end as well.
            let stopped = async move { drop(stop.changed().await) };
            let mut app = app.clone();
            if let Some(own) = listener.endpoints {
                app = app.layer(own);
            }
            if tls.is_none() && has_acme {
                app = app.layer(Http01Layer::new(self.answers.clone()));
            }
            if let Some(hsts) = listener.hsts {
                app = app.layer(hsts);
            }
            let serve = evenkeel::serve(tcp, app)
                .events(self.events.clone())
                .lame_duck(lame_duck.unwrap_or_default())
                .drain_timeout(self.drain)
                .shutdown(stopped);
            match tls {
                Some((layer, certificates)) => {
                    tracing::info!("listening on https://{address}/");
                    watched.push(certificates.watch(Certificates::RELOAD_INTERVAL));
                    if let Some(acme) = acme {
                        renewed.push(acme.start(&certificates).await?);
                    }
                    let serve = Serve::layer(serve, layer);
                    serving.spawn(Serve::layer(serve, proxy_protocol).into_future());
                }
                None => {
                    tracing::info!("listening on http://{address}/");
                    serving.spawn(Serve::layer(serve, proxy_protocol).into_future());
                }
            }
        }
        signalled().await?;
        // The checks end with the process: no event says so.
        self.pool.close();
        if let Some(readiness) = readiness {
            readiness.fail("shutting down");
        }
        self.operators.close();
        stop.send_replace(());
        while let Some(served) = serving.join_next().await {
            served??;
        }
        Ok(())
    }
}

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Connections inherit this: a small response must not wait for an acknowledgement.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn signalled() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = tokio::signal::ctrl_c() => ended,
    }
}

/// The number of connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;
