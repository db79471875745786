//! The control thread: workers, the admin listener, signals, reloads.

use std::{error::Error, io, net::SocketAddr, num::NonZeroUsize, sync::Arc};

use evenkeel::{
    LoadBalancer, Pool,
    access_log::{AccessLogLayer, JsonLines},
    endpoints::{Endpoints, Readiness},
    server::{Serve, Workers, bind},
    settings::Settings,
    tls::{Certificate, Certificates, HstsLayer, RELOAD_INTERVAL, TlsLayer},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tower::Layer;

use crate::{
    Loaded,
    app::{App, Current},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// Runs until a signal ends it.
pub(crate) fn run(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(control(path, loaded))
}

async fn control(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let Loaded { settings, tls } = loaded;
    let mut terminate = Ends::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let pool = settings.pool()?;
    let log = settings.access_log()?;
    let log_layer = log.as_ref().map(|(_, layer)| layer.clone());
    let threads = match settings.server.threads {
        Some(threads) => NonZeroUsize::new(threads).ok_or("threads: 0")?,
        None => Workers::cores(),
    };
    let currents = balancers(&settings, &pool, log_layer.as_ref(), threads)?;
    let currents: Vec<_> = currents.into_iter().map(Current::new).collect();
    // While these live, the certificates follow their files.
    let certificates: Vec<_> = tls
        .iter()
        .map(|tls| tls.as_ref().map(|(_, certificates)| certificates.clone()))
        .collect();
    let _watched: Vec<_> = certificates
        .iter()
        .flatten()
        .map(|certificates| certificates.watch(RELOAD_INTERVAL))
        .collect();
    let readiness = Readiness::new(pool.clone());
    let (stop, stopped) = watch::channel(());
    let listeners = listeners(&settings, tls)?;
    let plan = Plan {
        listeners: listeners.into(),
        currents: currents.clone().into(),
        log: log_layer.clone(),
        drain: settings.drain()?,
    };
    let workers = plan.spawn(threads, &stopped)?;
    if let Some(admin) = &settings.admin {
        let listener = TcpListener::bind(admin.address)
            .await
            .map_err(|error| format!("[admin] address: {}: {error}", admin.address))?;
        tokio::spawn(evenkeel::serve(listener, Endpoints::new(readiness.clone())).into_future());
    }
    let mut joined = tokio::task::spawn_blocking(move || workers.join());
    loop {
        tokio::select! {
            // A worker that cannot bind ends early.
            ended = &mut joined => return Ok(ended??),
            () = terminate.one() => break,
            _ = hangup.recv() => {
                if let Some((sink, _)) = &log {
                    sink.reopen();
                }
                match reload(path, &pool, log_layer.as_ref(), &currents, &certificates) {
                    Ok(()) => tracing::info!("settings read again"),
                    Err(error) => tracing::error!(%error, "the settings are wrong: the last good ones stay"),
                }
            }
        }
    }
    readiness.fail("shutting down");
    let lame_duck = settings.lame_duck()?;
    tracing::info!(?lame_duck, "shutting down");
    tokio::select! {
        () = tokio::time::sleep(lame_duck) => {}
        () = terminate.one() => return at_once(log.as_ref()),
    }
    drop(stopped);
    stop.send(())?;
    tokio::select! {
        ended = &mut joined => ended??,
        () = terminate.one() => return at_once(log.as_ref()),
    }
    Ok(())
}

/// SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn one(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A second signal: whoever sends it has waited enough.
fn at_once(log: Option<&(JsonLines, AccessLogLayer)>) -> Result<(), BoxError> {
    if let Some((sink, _)) = log {
        sink.flush();
    }
    std::process::exit(0)
}

fn reload(
    path: &str,
    pool: &Pool,
    log: Option<&AccessLogLayer>,
    currents: &[Arc<Current>],
    certificates: &[Option<Certificates>],
) -> Result<(), BoxError> {
    let Loaded { settings, .. } = Loaded::read(path)?;
    let threads = NonZeroUsize::new(currents.len()).ok_or("no workers")?;
    let balancers = balancers(&settings, pool, log, threads)?;
    pool.replace(settings.backends()?)?;
    for (listen, certificates) in settings.listen.iter().zip(certificates) {
        if let (Some(tls), Some(certificates)) = (&listen.tls, certificates) {
            let files = tls.certificates.iter();
            certificates.replace(files.map(|c| Certificate::files(&c.chain, &c.key)))?;
        }
    }
    if settings.listen.len() != certificates.len() {
        tracing::warn!("listeners change with a restart only");
    }
    for (current, balancer) in currents.iter().zip(balancers) {
        current.replace(balancer);
    }
    Ok(())
}

/// Makes a load balancer for each worker. Checks and sessions are shared; idle connections, the
/// pick's counters and the retry budget are each worker's own, so that no cache line is.
fn balancers(
    settings: &Settings,
    pool: &Pool,
    log: Option<&AccessLogLayer>,
    threads: NonZeroUsize,
) -> Result<Vec<LoadBalancer>, BoxError> {
    let health = settings.health_layer(pool)?;
    let sticky = settings.sticky_layer(pool)?;
    (0..threads.get())
        .map(|_| {
            let mut builder = settings.load_balancer(pool)?.health(health.clone());
            if let Some(sticky) = &sticky {
                builder = builder.sticky(sticky.clone());
            }
            if let Some(log) = log {
                builder = builder.access_log(log.clone());
            }
            Ok(builder.build())
        })
        .collect()
}

fn listeners(
    settings: &Settings,
    tls: Vec<Option<(TlsLayer, Certificates)>>,
) -> Result<Vec<(SocketAddr, Option<TlsLayer>)>, BoxError> {
    tls.into_iter()
        .enumerate()
        .map(|(nth, tls)| Ok((settings.listen_address(nth)?, tls.map(|(layer, _)| layer))))
        .collect()
}

/// What each worker does.
#[derive(Clone)]
struct Plan {
    listeners: Arc<[(SocketAddr, Option<TlsLayer>)]>,
    currents: Arc<[Arc<Current>]>,
    log: Option<AccessLogLayer>,
    drain: std::time::Duration,
}

impl Plan {
    fn spawn(self, threads: NonZeroUsize, stopped: &watch::Receiver<()>) -> io::Result<Workers> {
        let stopped = stopped.clone();
        Workers::spawn(threads, move |number| {
            self.clone().work(number, stopped.clone())
        })
    }

    async fn work(self, number: usize, stopped: watch::Receiver<()>) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for (address, tls) in self.listeners.iter() {
            let listener = bind(*address, true)
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
            if number == 0 {
                let scheme = if tls.is_some() { "https" } else { "http" };
                tracing::info!("listening on {scheme}://{}/", listener.local_addr()?);
            }
            let app = App::new(self.currents[number].clone());
            match tls {
                Some(tls) => {
                    let serve = evenkeel::serve(listener, HstsLayer::new().layer(app));
                    let serve = self.finish(serve, &stopped);
                    serving.spawn(Serve::layer(serve, tls.clone()).into_future());
                }
                None => {
                    let serve = evenkeel::serve(listener, app);
                    serving.spawn(self.finish(serve, &stopped).into_future());
                }
            }
        }
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }

    fn finish<C>(
        &self,
        serve: Serve<TcpListener, C>,
        stopped: &watch::Receiver<()>,
    ) -> Serve<TcpListener, C> {
        let mut stopped = stopped.clone();
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
