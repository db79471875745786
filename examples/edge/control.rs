//! The control thread: workers, the admin listener, signals, and the hand-over to a successor.

use std::{io, time::Duration};

use evenkeel::{
    BoxError,
    endpoints::Readiness,
    fleet::handover::{Handover, PassedSockets, Running as Serving, ServiceManager, Start},
    server::Workers,
    settings::LogOutputs,
    tls::{
        CertificateWatcher, Certificates, ExpiryWatcher,
        acme::{ChallengeAnswers, Http01Layer},
    },
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Loaded,
    acme::{Automatic, Renewal},
    listen::share,
    operators::Operators,
    reload::Running,
    state_file::StateFile,
    upgrade::{self, Successor},
    worker::{End, ListenerPlan, Worker},
};

/// Runs until a signal ends it, or a successor serves.
pub(crate) fn run(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(control(path, loaded))
}

async fn control(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let mut signals = Signals::new()?;
    let manager = ServiceManager::from_environment();
    let handover = upgrade::handover(&loaded.settings)?;
    // In a box: it holds all that a start needs.
    let begun = Box::pin(serve(loaded, handover.clone(), &mut signals.end)).await?;
    let Some((mut edge, mut serving)) = begun else {
        return Ok(());
    };
    manager.ready();
    let mut successor = Successor::default();
    loop {
        tokio::select! {
            // A successor that serves goes before one whose time is over: it must not be ended.
            biased;
            ended = edge.workers_ended() => return ended,
            process = serving.handed_over() => {
                manager.replaced_by(process);
                return edge.drain(End::HandedOver, &mut signals.end).await;
            }
            () = signals.end.next() => break,
            () = successor.failed() => manager.ready(),
            _ = signals.hangup.recv() => {
                manager.reloading();
                edge.reload(path);
                manager.ready();
            }
            _ = signals.upgrade.recv() => {
                manager.reloading();
                if !successor.start(handover.as_ref()) {
                    manager.ready();
                }
            }
        }
    }
    // A process that starts from now on has to bind its own sockets. One that is ready takes over.
    if let Some(process) = serving.close().await {
        manager.replaced_by(process);
        return edge.drain(End::HandedOver, &mut signals.end).await;
    }
    manager.stopping();
    let limit = edge.lame_duck + edge.drain + SUCCESSOR_STOPS;
    let drained = edge.drain(End::Shutdown, &mut signals.end);
    tokio::join!(drained, successor.stop(limit)).0
}

/// Starts, and replaces the running process. A signal ends this at any point, and leaves all to that
/// process, if there is one; `None` then.
async fn serve(
    loaded: Loaded,
    handover: Option<Handover>,
    signals: &mut EndSignals,
) -> Result<Option<(Edge, Serving)>, BoxError> {
    let begun = tokio::select! {
        biased;
        () = signals.next() => {
            tracing::info!("stopped before it served");
            return Ok(None);
        }
        begun = begin(loaded, handover) => begun?,
    };
    let (mut edge, start) = begun;
    let stopped = match start.predecessor() {
        Some(_) => End::HandedOver,
        None => End::Shutdown,
    };
    // From here on requests may be under way, so a signal and a failure drain as well.
    let serving = tokio::select! {
        biased;
        () = signals.next() => return edge.drain(stopped, signals).await.map(|()| None),
        serving = edge.ready(start) => serving,
    };
    match serving {
        Ok(serving) => Ok(Some((edge, serving))),
        Err(error) => {
            edge.end.send_replace(End::HandedOver);
            edge.workers_ended().await?;
            Err(error)
        }
    }
}

/// Asks the running process, and builds everything.
async fn begin(loaded: Loaded, handover: Option<Handover>) -> Result<(Edge, Start), BoxError> {
    let mut start = Start::begin(handover, PassedSockets::take()?).await?;
    let edge = Edge::start(loaded, &mut start).await?;
    Ok((edge, start))
}

/// The parts that run.
struct Edge {
    running: Running,
    _watched: Vec<CertificateWatcher>,
    _expiry: ExpiryWatcher,
    automatic: Automatic,
    /// The renewal of the automatic certificates, once this process serves.
    renewal: Renewal,
    keys: upgrade::Keys,
    log: Option<LogOutputs>,
    state_file: Option<StateFile>,
    readiness: Readiness,
    operators: Operators,
    end: watch::Sender<End>,
    workers: JoinHandle<io::Result<()>>,
    accepts: mpsc::UnboundedReceiver<Result<(), String>>,
    threads: usize,
    lame_duck: Duration,
    drain: Duration,
}

impl Edge {
    /// Builds everything, binds the sockets that are missing, and starts the workers.
    async fn start(loaded: Loaded, start: &mut Start) -> Result<Self, BoxError> {
        let Loaded {
            settings,
            tls,
            tickets,
        } = loaded;
        let threads = settings.server.threads.unwrap_or_else(Workers::cores);
        let (layers, certificates): (Vec<_>, Vec<_>) = tls.into_iter().map(Option::unzip).unzip();
        let keys = upgrade::ticket_keys(&settings.listen, &layers, start);
        let running =
            Running::new(&settings, certificates, tickets.as_ref(), threads, start).await?;
        let (log, log_layer) = running.log.clone().unzip();
        let readiness = settings.readiness(&running.pool, &running.registry);
        let mut listeners = Vec::new();
        for (nth, tls) in layers.into_iter().enumerate() {
            let sockets = start.listeners(settings.listen[nth].address, threads)?;
            if let (Some(certificates), Some(socket)) =
                (&running.certificates[nth], sockets.first())
            {
                certificates.show_in(&running.registry, &socket.local_addr()?.to_string());
            }
            listeners.push(ListenerPlan {
                max_connections: share(&settings.listen[nth], sockets.len()),
                sockets: ListenerPlan::divide(sockets, threads),
                listen: settings.listen[nth].clone(),
                proxy_protocol: settings.proxy_protocol(nth),
                tls,
                hsts: settings.hsts(nth),
                endpoints: settings.endpoints_layer(nth, &readiness),
            });
        }
        if start.predecessor().is_some() && settings.health.is_some() {
            upgrade::checked(&running.pool).await;
        }
        let answers = ChallengeAnswers::new();
        let stores = running.certificates.iter().map(Option::as_ref);
        let automatic = Automatic::load(&settings, stores, &answers, start).await?;
        automatic.note(&readiness);
        let metrics = running.metrics.clone();
        let operators =
            Operators::serve(&settings, start, &readiness, metrics.as_ref(), log.as_ref())?;
        let (end, ended) = watch::channel(End::NotYet);
        let (sender, accepts) = mpsc::unbounded_channel();
        let workers = Worker {
            listeners: listeners.into(),
            apps: running.apps.clone().into(),
            http01: (!automatic.is_empty()).then(|| Http01Layer::new(answers)),
            log: log_layer,
            metrics,
            lame_duck: settings.lame_duck(),
            drain: settings.drain(),
            end: ended,
            accepts: sender,
        };
        let workers = workers.spawn(threads)?;
        let state_file = running.state_file.clone();
        Ok(Self {
            _watched: watch_files(&running.certificates),
            _expiry: ExpiryWatcher::start(&running.registry, ExpiryWatcher::INTERVAL),
            automatic,
            renewal: Renewal::default(),
            keys,
            log,
            state_file: state_file.map(|path| StateFile::start(path, running.pool.clone())),
            readiness,
            operators,
            end,
            workers: tokio::task::spawn_blocking(move || workers.join()),
            accepts,
            threads: threads.get(),
            lame_duck: settings.lame_duck(),
            drain: settings.drain(),
            running,
        })
    }

    /// Waits until the workers accept, and replaces the predecessor.
    async fn ready(&mut self, start: Start) -> Result<Serving, BoxError> {
        for _ in 0..self.threads {
            self.accepts.recv().await.ok_or("a worker ended")??;
        }
        let (pool, keys) = (self.running.pool.clone(), self.keys.clone());
        let fleet = self.running.fleet.clone();
        let exporters = self.automatic.exporters();
        let state = move || exporters.add_to(upgrade::state(&pool, &keys, fleet.as_ref()));
        let serving = start.ready(state).await?;
        self.renewal = self.automatic.start(&self.readiness);
        Ok(serving)
    }

    fn reload(&mut self, path: &str) {
        if let Some(log) = &self.log {
            log.reopen();
        }
        self.running.reload(path);
    }

    /// Waits for the end of the workers, which is a failure unless it was asked for.
    async fn workers_ended(&mut self) -> Result<(), BoxError> {
        let ended = (&mut self.workers).await;
        self.running.pool.close();
        Ok(ended??)
    }

    /// Lets the requests end. A second signal ends the process at once.
    async fn drain(mut self, end: End, signals: &mut EndSignals) -> Result<(), BoxError> {
        // The checks end with the process: no event says so.
        self.running.pool.close();
        // The successor renews the certificates, or the next process.
        let renewal = self.renewal.stop();
        if end == End::HandedOver {
            self.end.send_replace(end);
            tracing::info!("another process serves: draining");
            self.operators.hand_over();
            // The successor writes it.
            self.state_file = None;
        } else {
            self.readiness.fail("shutting down");
            tracing::info!(lame_duck = ?self.lame_duck, "shutting down");
            self.operators.close();
            self.end.send_replace(end);
        }
        tokio::select! {
            ended = self.workers_ended() => {
                if let Some(file) = &self.state_file {
                    file.finish();
                }
                let _ = renewal.await;
                ended
            }
            () = signals.second() => exit_at_once(self.log.as_ref(), self.state_file.as_ref()),
        }
    }
}

/// Ends the process on a second signal, without waiting for requests.
fn exit_at_once(log: Option<&LogOutputs>, state_file: Option<&StateFile>) -> ! {
    if let Some(file) = state_file {
        file.finish();
    }
    if let Some(log) = log {
        // Also where an output stalls, the process ends.
        let _ = log.flush();
    }
    std::process::exit(0)
}

/// Starts a watcher for each listener's certificates; they are reloaded until it is dropped.
fn watch_files(certificates: &[Option<Certificates>]) -> Vec<CertificateWatcher> {
    let given = certificates.iter().flatten();
    given
        .map(|c| c.watch(Certificates::RELOAD_INTERVAL))
        .collect()
}

struct Signals {
    end: EndSignals,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            end: EndSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                seen: 0,
            },
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

/// How long a successor that was stopped may take beyond its drain.
const SUCCESSOR_STOPS: Duration = Duration::from_secs(5);

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
    seen: usize,
}

impl EndSignals {
    /// Waits for SIGTERM or SIGINT.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.seen += 1;
    }

    /// Waits for the second of all signals. A process that drains since a hand-over has had none: its
    /// first one asks for what is under way already.
    async fn second(&mut self) {
        while self.seen < 2 {
            self.next().await;
            if self.seen == 1 {
                tracing::info!("draining already: a second signal ends this process at once");
            }
        }
    }
}
