//! The listeners: `evenkeel::serve`, with or without `TlsLayer` and
//! `ProxyProtocolLayer` around its connections.
//! `axum::serve` works as well (see the `tls` example); `evenkeel::serve` adds limits, deadlines and
//! a drain.

use std::{future::IntoFuture, io, num::NonZeroUsize, sync::Arc, time::Duration};

use axum::Router;
use evenkeel::{
    BoxError, Pool,
    access_log::AccessLogLayer,
    endpoints::{EndpointsLayer, Readiness},
    fleet::{
        FleetHandle,
        handover::{Handover, Running, ServiceManager, Start},
    },
    metrics::MetricsLayer,
    proxy_protocol::ProxyProtocolLayer,
    server::Serve,
    settings::{ListenSettings, Settings},
    stats::CertificateRegistry,
    tls::{
        Certificates, HstsLayer,
        acme::{ChallengeAnswers, Http01Layer},
    },
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    acme::{Automatic, Renewal},
    fleet::ListenerTls,
    listen::{configured, share},
    operators::Operators,
    state_file::StateFile,
    upgrade::{self, Successor},
};

/// Open listeners.
pub(crate) struct Listeners {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) start: Start,
    /// Where a successor takes over.
    pub(crate) handover: Option<Handover>,
    /// What a successor resumes sessions with.
    pub(crate) keys: upgrade::Keys,
    pub(crate) pool: Pool,
    pub(crate) fleet: Option<Arc<FleetHandle>>,
    /// Where measured health is kept over a restart.
    pub(crate) state_file: Option<StateFile>,
    /// The readiness that fails at shutdown, and for how long before the listeners close; `None`
    /// if no listener has a readiness path.
    pub(crate) lame_duck: Option<(Readiness, Duration)>,
    pub(crate) drain: Duration,
    /// What records connections.
    pub(crate) events: (Option<MetricsLayer>, Option<AccessLogLayer>),
    pub(crate) operators: Operators,
    /// The answers of automatic certificates.
    pub(crate) answers: ChallengeAnswers,
    pub(crate) automatic: Automatic,
}

pub(crate) struct Listener {
    pub(crate) tcp: Vec<TcpListener>,
    /// Its section of the settings; `None` without a file.
    pub(crate) listen: Option<ListenSettings>,
    pub(crate) proxy_protocol: ProxyProtocolLayer,
    pub(crate) tls: ListenerTls,
    pub(crate) hsts: Option<HstsLayer>,
    pub(crate) endpoints: Option<EndpointsLayer>,
}

impl Listeners {
    pub(crate) async fn from_settings(
        settings: &Settings,
        mut start: Start,
        readiness: Readiness,
        pool: &Pool,
        tls: Vec<ListenerTls>,
    ) -> Result<Self, BoxError> {
        let mut listeners = Vec::new();
        let answers = ChallengeAnswers::new();
        for (nth, tls) in tls.into_iter().enumerate() {
            let sockets = start.listeners(settings.listen[nth].address, NonZeroUsize::MIN)?;
            let sockets = sockets.into_iter().map(TcpListener::from_std);
            listeners.push(Listener {
                tcp: sockets.collect::<Result<_, _>>()?,
                listen: Some(settings.listen[nth].clone()),
                proxy_protocol: settings.proxy_protocol(nth),
                tls,
                hsts: settings.hsts(nth),
                endpoints: settings.endpoints_layer(nth, &readiness),
            });
        }
        let stores = listeners.iter();
        let stores = stores.map(|listener| Some(&listener.tls.as_ref()?.1));
        let automatic = Automatic::load(settings, stores, &answers, &start).await?;
        automatic.note(&readiness);
        let layers = listeners
            .iter()
            .map(|listener| Some(listener.tls.as_ref()?.0.clone()));
        let layers: Vec<_> = layers.collect();
        let keys = upgrade::ticket_keys(&settings.listen, &layers, &start);
        let asked = listeners
            .iter()
            .any(|listener| listener.endpoints.is_some())
            || settings.admin.is_some();
        let lame_duck = settings.lame_duck();
        Ok(Self {
            listeners,
            start,
            handover: upgrade::handover(settings)?,
            keys,
            pool: pool.clone(),
            fleet: None,
            state_file: None,
            lame_duck: asked.then_some((readiness, lame_duck)),
            drain: settings.drain(),
            events: (None, None),
            operators: Operators::default(),
            answers,
            automatic,
        })
    }

    /// Shows the certificates under the addresses of their listeners.
    pub(crate) fn show_certificates_in(&self, registry: &CertificateRegistry) -> io::Result<()> {
        for listener in &self.listeners {
            if let (Some((_, certificates)), Some(tcp)) = (&listener.tls, listener.tcp.first()) {
                certificates.show_in(registry, &tcp.local_addr()?.to_string());
            }
        }
        Ok(())
    }

    /// Serves until a signal or a successor, then lets requests end.
    pub(crate) async fn serve(mut self, app: Router) -> Result<(), BoxError> {
        let (end, ended) = watch::channel(End::NotYet);
        let mut serving = JoinSet::new();
        let (readiness, lame_duck) = self.lame_duck.unzip();
        let mut watched = Vec::new();
        let has_acme = !self.automatic.is_empty();
        for listener in self.listeners {
            let mut app = app.clone();
            if let Some(own) = listener.endpoints {
                app = app.layer(own);
            }
            if listener.tls.is_none() && has_acme {
                app = app.layer(Http01Layer::new(self.answers.clone()));
            }
            if let Some(hsts) = listener.hsts {
                app = app.layer(hsts);
            }
            let (tls, certificates) = listener.tls.unzip();
            watched.extend(certificates.map(|c| c.watch(Certificates::RELOAD_INTERVAL)));
            let sockets = listener.tcp.len();
            for tcp in listener.tcp {
                let address = tcp.local_addr()?;
                let mut serve = evenkeel::serve(tcp, app.clone());
                if let Some(listen) = &listener.listen {
                    serve = configured(serve, listen, share(listen, sockets))?;
                }
                let serve = serve
                    .events(self.events.clone())
                    .lame_duck(lame_duck.unwrap_or_default())
                    .drain_timeout(self.drain)
                    .shutdown(reached(ended.clone(), End::Shutdown))
                    .handed_over(reached(ended.clone(), End::HandedOver));
                let proxy_protocol = listener.proxy_protocol.clone();
                match tls.clone() {
                    Some(layer) => {
                        tracing::info!("listening on https://{address}/");
                        let serve = Serve::layer(serve, layer);
                        serving.spawn(Serve::layer(serve, proxy_protocol).into_future());
                    }
                    None => {
                        tracing::info!("listening on http://{address}/");
                        serving.spawn(Serve::layer(serve, proxy_protocol).into_future());
                    }
                }
            }
        }
        let served = self
            .start
            .ready({
                let (pool, keys, fleet) = (self.pool.clone(), self.keys, self.fleet);
                let exporters = self.automatic.exporters();
                move || exporters.add_to(upgrade::state(&pool, &keys, fleet.as_ref()))
            })
            .await;
        let mut renewal = Renewal::default();
        if served.is_ok() {
            let readiness = readiness.clone();
            let readiness = readiness.unwrap_or_else(|| Readiness::new(self.pool.clone()));
            renewal = self.automatic.start(&readiness);
        }
        let result = match served {
            Ok(running) => ends(running, self.handover.as_ref()).await,
            // The process before serves on.
            Err(error) => Err(error.into()),
        };
        let how = *result.as_ref().unwrap_or(&End::HandedOver);
        // The checks end with the process: no event says so.
        self.pool.close();
        // The successor renews the certificates, or the next process.
        let renewal = renewal.stop();
        match how {
            End::HandedOver => {
                self.operators.hand_over();
                // The successor writes it.
                self.state_file = None;
            }
            End::NotYet | End::Shutdown => {
                if let Some(readiness) = readiness {
                    readiness.fail("shutting down");
                }
                self.operators.close();
            }
        }
        end.send_replace(how);
        while let Some(served) = serving.join_next().await {
            served??;
        }
        let _ = renewal.await;
        if let Some(file) = &self.state_file {
            file.finish();
        }
        result.map(drop)
    }
}

/// How the end of the servers begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Shutdown,
    HandedOver,
}

/// Waits until the end begins in this way.
async fn reached(mut end: watch::Receiver<End>, how: End) {
    // An error means that the sender is gone. It is gone after the servers only.
    let _ = end.wait_for(|end| *end == how).await;
}

/// Waits for a signal, or for a successor that serves.
async fn ends(mut running: Running, handover: Option<&Handover>) -> Result<End, BoxError> {
    let manager = ServiceManager::from_environment();
    manager.ready();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut successor = Successor::default();
    loop {
        tokio::select! {
            // A successor that serves goes before one whose time is over: it must not be ended.
            biased;
            process = running.handed_over() => {
                manager.replaced_by(process);
                return Ok(End::HandedOver);
            }
            _ = terminate.recv() => break,
            ended = tokio::signal::ctrl_c() => {
                ended?;
                break;
            }
            () = successor.failed() => manager.ready(),
            _ = upgrade.recv() => {
                manager.reloading();
                if !successor.start(handover) {
                    manager.ready();
                }
            }
        }
    }
    // A process that is ready takes over. One that is not stops as well.
    if let Some(process) = running.close().await {
        manager.replaced_by(process);
        return Ok(End::HandedOver);
    }
    manager.stopping();
    successor.stop(SUCCESSOR_STOPS).await;
    Ok(End::Shutdown)
}

/// How long a successor that is not ready may take to stop.
const SUCCESSOR_STOPS: Duration = Duration::from_secs(5);
