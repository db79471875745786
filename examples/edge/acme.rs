//! `[listen.tls.acme]`: automatic certificates, from the process before this one to the one after.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use evenkeel::{
    BoxError,
    endpoints::Readiness,
    fleet::handover::{Start, State},
    settings::Settings,
    tls::{
        Certificates,
        acme::{AcmeHandle, CertificateStatus, ChallengeAnswers, Exporter, LoadedAcme},
    },
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// The automatic certificates of all listeners.
#[derive(Default)]
pub(crate) struct Automatic {
    loaded: Vec<LoadedAcme>,
    exporters: Exporters,
}

/// Each under the name of its listener in the state of a hand-over.
#[derive(Clone, Default)]
pub(crate) struct Exporters(Vec<(String, Exporter)>);

impl Automatic {
    /// Puts the certificates in force: those that the predecessor had, and those of the store. Orders
    /// nothing.
    ///
    /// It comes when all sockets are bound, and before any is accepted from. Where it fails, the
    /// predecessor serves on.
    pub(crate) async fn load(
        settings: &Settings,
        certificates: impl Iterator<Item = Option<&Certificates>>,
        answers: &ChallengeAnswers,
        start: &Start,
    ) -> Result<Self, BoxError> {
        let mut automatic = Self::default();
        let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
        for (nth, certificates) in certificates.enumerate() {
            let address = settings.listen[nth].address;
            // Port 0 may be there several times.
            let same = seen.entry(address).or_default();
            let name = format!("acme {address} {same}");
            *same += 1;
            let (Some(certificates), Some(mut acme)) = (certificates, settings.acme(nth, answers)?)
            else {
                continue;
            };
            if start.predecessor().is_some() {
                acme = acme.predecessor(start.state().find_secret(&name));
            }
            let loaded = acme.load(certificates).await?;
            automatic.exporters.0.push((name, loaded.exporter()));
            automatic.loaded.push(loaded);
        }
        Ok(automatic)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exporters.0.is_empty()
    }

    pub(crate) fn exporters(&self) -> Exporters {
        self.exporters.clone()
    }

    /// Fails readiness while a placeholder is served in place of a certificate that may be in the store. It
    /// does not while the first certificate is ordered: a balancer in front may send the authority only
    /// to instances that are ready.
    pub(crate) fn note(&self, readiness: &Readiness) {
        for loaded in &self.loaded {
            note(&loaded.statuses(), readiness);
        }
    }

    /// Begins to order and to renew: this process serves now.
    pub(crate) fn start(&mut self, readiness: &Readiness) -> Renewal {
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        for loaded in self.loaded.drain(..) {
            tasks.spawn(follow(loaded.start(), readiness.clone(), stopped.clone()));
        }
        Renewal {
            stop: Some(stop),
            tasks,
        }
    }
}

impl Exporters {
    /// Adds the certificates in force to what the successor gets.
    pub(crate) fn add_to(&self, state: State) -> State {
        let mut left = MAX_SECRETS;
        self.0.iter().fold(state, |state, (name, exporter)| {
            let exported = exporter.export(left);
            left = left.saturating_sub(exported.len());
            state.secret(name, exported)
        })
    }
}

/// The renewal of all automatic certificates; it ends when this is dropped.
#[derive(Default)]
pub(crate) struct Renewal {
    /// Dropped to stop the tasks.
    stop: Option<watch::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Renewal {
    /// Begins to stop it, beside the drain. The returned task ends when running orders have left nothing
    /// behind, which the process waits for.
    pub(crate) fn stop(&mut self) -> JoinHandle<()> {
        let mut renewal = std::mem::take(self);
        tokio::spawn(async move {
            drop(renewal.stop.take());
            let all = async { while renewal.tasks.join_next().await.is_some() {} };
            let _ = timeout(STOP_TIMEOUT, all).await;
        })
    }
}

async fn follow(mut handle: AcmeHandle, readiness: Readiness, mut stopped: watch::Receiver<()>) {
    loop {
        note(&handle.statuses(), &readiness);
        tokio::select! {
            () = handle.changed() => {}
            // Nothing is sent: it ends with the sender.
            _ = stopped.changed() => return handle.stop().await,
        }
    }
}

fn note(statuses: &[CertificateStatus], readiness: &Readiness) {
    for status in statuses {
        let names = status.names.join(", ");
        let reason = format!("{names}: a placeholder is served: the store of certificates failed");
        match (&status.directory, &status.store_failure) {
            (None, Some(_)) => readiness.fail(reason),
            _ => readiness.restore(&reason),
        }
    }
}

/// Some 400 certificates. In a message of a hand-over, which has 16 MiB at most, a byte takes up to four.
const MAX_SECRETS: usize = 2 << 20;
/// A store answers within that, or fails.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
