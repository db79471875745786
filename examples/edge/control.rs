//! The control thread: workers, the admin listener, signals.

use std::io;

use evenkeel::{
    BoxError,
    server::Workers,
    settings::{LogOutputs, Settings},
    tls::{
        CertificateWatcher, Certificates, ExpiryWatcher,
        acme::{AcmeHandle, ChallengeAnswers, Http01Layer},
    },
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    Loaded,
    operators::Operators,
    reload::Running,
    state_file::StateFile,
    worker::{ListenerPlan, Worker, fix_port},
};

/// Runs until a signal ends it.
pub(crate) fn run(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(control(path, loaded))
}

async fn control(path: &str, loaded: Loaded) -> Result<(), BoxError> {
    let mut ends = EndSignals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (stop, stopped) = watch::channel(());
    let threads = loaded.settings.server.threads;
    let threads = threads.unwrap_or_else(Workers::cores);
    let (layers, certificates): (Vec<_>, Vec<_>) =
        loaded.tls.into_iter().map(Option::unzip).unzip();
    let settings = loaded.settings;
    let tickets = loaded.tickets.as_ref();
    let mut running = Running::new(&settings, certificates, tickets, threads).await?;
    let _watched = watch_files(&running.certificates);
    let _expiry = ExpiryWatcher::start(&running.registry, ExpiryWatcher::INTERVAL);
    let answers = ChallengeAnswers::new();
    let acme = start_acme(&settings, &running.certificates, &answers).await?;
    let (log, log_layer) = running.log.clone().unzip();
    let state_file = running.state_file.clone();
    let state_file = state_file.map(|path| StateFile::start(path, running.pool.clone()));
    let readiness = settings.readiness(&running.pool, &running.registry);
    let mut listeners = Vec::new();
    for (nth, tls) in layers.into_iter().enumerate() {
        let address = fix_port(settings.listen[nth].address)?;
        if let Some(certificates) = &running.certificates[nth] {
            certificates.show_in(&running.registry, &address.to_string());
        }
        listeners.push(ListenerPlan {
            address,
            listen: settings.listen[nth].clone(),
            proxy_protocol: settings.proxy_protocol(nth),
            tls,
            hsts: settings.hsts(nth),
            endpoints: settings.endpoints_layer(nth, &readiness),
        });
    }
    let metrics = running.metrics.clone();
    let operators = Operators::serve(&settings, &readiness, metrics.as_ref(), log.as_ref()).await?;
    let lame_duck = settings.lame_duck();
    let workers = Worker {
        listeners: listeners.into(),
        apps: running.apps.clone().into(),
        http01: (!acme.is_empty()).then(|| Http01Layer::new(answers)),
        log: log_layer,
        metrics,
        lame_duck,
        drain: settings.drain(),
        stopped,
    };
    let workers = workers.spawn(threads)?;
    let mut joined = tokio::task::spawn_blocking(move || workers.join());

    loop {
        tokio::select! {
            // A worker that cannot bind its listeners ends early.
            ended = &mut joined => {
                running.pool.close();
                return Ok(ended??);
            }
            () = ends.next() => break,
            _ = hangup.recv() => {}
        }
        if let Some(log) = &log {
            log.reopen();
        }
        running.reload(path);
    }
    // The checks end with the process: no event says so.
    running.pool.close();
    readiness.fail("shutting down");
    tracing::info!(?lame_duck, "shutting down");
    operators.close();
    stop.send_replace(());
    tokio::select! {
        ended = &mut joined => {
            if let Some(file) = &state_file {
                file.finish();
            }
            Ok(ended??)
        }
        () = ends.next() => exit_at_once(log.as_ref(), state_file.as_ref()),
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

/// Starts the automatic certificates of each listener; they are renewed until the handles are dropped.
async fn start_acme(
    settings: &Settings,
    certificates: &[Option<Certificates>],
    answers: &ChallengeAnswers,
) -> Result<Vec<AcmeHandle>, BoxError> {
    let mut handles = Vec::new();
    for (nth, certificates) in certificates.iter().enumerate() {
        if let (Some(certificates), Some(acme)) = (certificates, settings.acme(nth, answers)?) {
            handles.push(acme.start(certificates).await?);
        }
    }
    Ok(handles)
}

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
