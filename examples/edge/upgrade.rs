//! `[fleet] handover`: a new process takes the listening sockets and the state over; and SIGUSR2,
//! which starts it.

use std::{collections::HashMap, env, io, process::ExitStatus, time::Duration};

use evenkeel::{
    Pool,
    fleet::handover::{Handover, Start, State},
    pool::HealthStatus,
    settings::ListenSettings,
    tls::{TicketKeys, TlsLayer},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};

/// The name of the pool in the state.
pub(crate) const POOL: &str = "pool";

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
pub(crate) fn state(pool: &Pool, keys: &Keys) -> State {
    let state = State::new().pool(POOL, pool);
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
