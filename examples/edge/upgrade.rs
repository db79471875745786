//! `[fleet] handover`: a new process takes the listening sockets and the state over; and SIGUSR2,
//! which starts it.

use std::{
    collections::HashMap, env, io, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration,
};

use evenkeel::{
    BoxError, Pool,
    fleet::{
        FleetHandle,
        handover::{Handover, Start, State},
    },
    pool::HealthStatus,
    settings::{ListenSettings, Settings},
    tls::{TicketKeys, TlsLayer},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};

/// The name of the pool in the state.
pub(crate) const POOL: &str = "pool";

/// The name of what the fleet shares, in the state.
pub(crate) const FLEET: &str = "fleet";

/// The variable in which a process tells the successor that it starts at which path it listens: the
/// settings may name another one by then.
const PREDECESSOR: &str = "EVENKEEL_HANDOVER";

/// Returns where this process hands over, and where it asks the running one.
pub(crate) fn handover(settings: &Settings) -> Result<Option<Handover>, BoxError> {
    let asked = env::var_os(PREDECESSOR).filter(|path| !path.is_empty());
    match (settings.handover(), asked) {
        (own, None) => Ok(own),
        (Some(own), Some(asked)) => Ok(Some(own.ask_at(PathBuf::from(asked))?)),
        (None, Some(asked)) => Err(format!(
            "the running process hands over at {asked:?}, and the settings have no [fleet] handover"
        )
        .into()),
    }
}

/// The ticket keys of the listeners under TLS, each under the name of its listener.
pub(crate) type Keys = Vec<(String, TicketKeys)>;

/// Returns the ticket keys of the listeners that made their own, after they got those of the
/// predecessor.
pub(crate) fn ticket_keys(
    listen: &[ListenSettings],
    layers: &[Option<TlsLayer>],
    start: &Start,
) -> Keys {
    let mut found = Vec::new();
    let mut seen: HashMap<_, usize> = HashMap::new();
    for (listen, layer) in listen.iter().zip(layers) {
        // Port 0 may be there several times.
        let nth = seen.entry(listen.address).or_default();
        let name = format!("tickets {} {nth}", listen.address);
        *nth += 1;
        let Some(keys) = layer.as_ref().and_then(TlsLayer::ticket_keys) else {
            continue;
        };
        if let Some(secret) = start.state().find_secret(&name)
            && let Err(error) = keys.import(secret)
        {
            tracing::warn!(%error, "sessions of the process before cannot be resumed");
        }
        found.push((name, keys));
    }
    found
}

/// What the successor gets.
pub(crate) fn state(pool: &Pool, keys: &Keys, fleet: Option<&Arc<FleetHandle>>) -> State {
    let mut state = State::new().pool(POOL, pool);
    if let Some(fleet) = fleet {
        state = state.secret(FLEET, fleet.export());
    }
    keys.iter().fold(state, |state, (name, keys)| {
        state.secret(name, keys.export())
    })
}

/// Waits until each backend was checked, so that requests do not wait for checks in this process
/// while the old one could answer them. A check that hangs ends the wait.
pub(crate) async fn checked(pool: &Pool) {
    let mut events = pool.subscribe();
    let all = async {
        let is_unknown = || {
            let snapshot = pool.snapshot();
            let mut health = snapshot.backends().iter().map(|b| b.health());
            health.any(|health| health == HealthStatus::Unknown)
        };
        while is_unknown() && events.next().await.is_some() {}
    };
    let _ = timeout(FIRST_CHECKS, all).await;
}

/// The successor that this process started, until it serves or ends.
#[derive(Default)]
pub(crate) struct Successor {
    running: Option<(Child, Instant)>,
}

impl Successor {
    /// Starts this program again, from the path and with the arguments of the start.
    /// Returns true if it runs.
    pub(crate) fn start(&mut self, handover: Option<&Handover>) -> bool {
        let Some(handover) = handover else {
            tracing::error!(
                "SIGUSR2: nothing to hand over at: the settings have no [fleet] handover"
            );
            return false;
        };
        if self.running.is_some() {
            tracing::warn!("SIGUSR2: a new process starts already");
            return true;
        }
        let mut arguments = env::args_os();
        let program = arguments.next().unwrap_or_default();
        let spawned = Command::new(&program)
            .args(arguments)
            .env(PREDECESSOR, handover.path())
            // The sockets of systemd come from this process.
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("LISTEN_PID")
            .spawn();
        match spawned {
            Ok(child) => {
                tracing::info!(process = child.id(), "SIGUSR2: started a new process");
                let limit = Instant::now() + handover.configured_start_timeout();
                self.running = Some((child, limit));
                true
            }
            Err(error) => {
                tracing::error!(?program, %error, "SIGUSR2: cannot start a new process");
                false
            }
        }
    }

    /// Ends the successor as this process is ended, which it does not replace any more. It drains what
    /// it has accepted, within this time.
    pub(crate) async fn stop(&mut self, limit: Duration) {
        let Some((mut child, _)) = self.running.take() else {
            return;
        };
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            tracing::info!(
                process = child.id(),
                "the new process is not ready: it stops as well"
            );
            // It may have ended.
            let _ = kill_process(id, Signal::TERM);
        }
        if timeout(limit, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// Waits until the successor ends before it serves, and ends it if it takes too long.
    pub(crate) async fn failed(&mut self) {
        let Some((child, limit)) = &mut self.running else {
            return std::future::pending().await;
        };
        let ended: io::Result<ExitStatus> = tokio::select! {
            ended = child.wait() => ended,
            () = sleep_until(*limit) => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        self.running = None;
        match ended {
            Ok(status) => {
                tracing::error!("the new process did not take over ({status}): this one serves on")
            }
            Err(error) => tracing::error!(%error, "the new process is lost: this one serves on"),
        }
    }
}

/// Longer than the time-out of a check by default; far below the time that the old process waits.
const FIRST_CHECKS: Duration = Duration::from_secs(3);
