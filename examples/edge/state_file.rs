//! `[health] state_file`: measured health of the backends, kept over a restart.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use evenkeel::{BoxError, Pool, pool::HealthSnapshot};
use serde_json::{Value, json};
use tokio::{
    task::{AbortHandle, spawn_blocking},
    time::{sleep, timeout},
};

/// Restores the health that an earlier process measured, before checks begin. If the file cannot be
/// read or is old, backends are unknown until their first check.
pub(crate) fn restore(path: &Path, pool: &Pool) {
    let file = path.display();
    match read(path) {
        Ok(snapshot) => {
            let backends = pool.restore_health(&snapshot);
            tracing::info!(%file, backends, "restored the measured health of the backends");
        }
        Err(error) if is_missing(&error) => {
            tracing::info!(%file, "no state file yet: backends are unknown until their first check");
        }
        Err(error) => {
            tracing::warn!(%file, %error, "cannot restore the measured health of the backends")
        }
    }
}

/// Writes the health of the backends when it changes, and every `REFRESH` so that the file does not
/// grow old. Stops when it is dropped.
pub(crate) struct StateFile {
    path: PathBuf,
    pool: Pool,
    task: AbortHandle,
}

impl StateFile {
    pub(crate) fn start(path: PathBuf, pool: Pool) -> Self {
        let task = tokio::spawn(follow(path.clone(), pool.clone())).abort_handle();
        Self { path, pool, task }
    }

    /// Writes the file a last time.
    pub(crate) fn finish(&self) {
        self.task.abort();
        save(&self.path, &self.pool.health_snapshot());
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(path: PathBuf, pool: Pool) {
    let mut events = pool.subscribe();
    loop {
        if let Ok(None) = timeout(REFRESH, events.next()).await {
            return;
        }
        // Events that follow within a moment are written together.
        sleep(PAUSE).await;
        while events.try_next().is_some() {}
        let (path, snapshot) = (path.clone(), pool.health_snapshot());
        // On another thread: a slow disk must not delay requests.
        let _ = spawn_blocking(move || save(&path, &snapshot)).await;
    }
}

fn save(path: &Path, snapshot: &HealthSnapshot) {
    if let Err(error) = write(path, snapshot) {
        tracing::warn!(file = %path.display(), %error, "cannot write the measured health of the backends");
    }
}

/// Replaces the file as a whole: a reader, or a crash, never sees a part of it.
fn write(path: &Path, snapshot: &HealthSnapshot) -> Result<(), BoxError> {
    let text = json!({ "written": seconds(), "health": serde_json::to_value(snapshot)? });
    let mut beside = path.as_os_str().to_owned();
    // Two processes write for a moment while one hands over to the other.
    beside.push(format!(".{}", std::process::id()));
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(())
}

fn read(path: &Path) -> Result<HealthSnapshot, BoxError> {
    let mut text: Value = serde_json::from_slice(&fs::read(path)?)?;
    let written = text["written"]
        .as_u64()
        .ok_or("the file does not say when it was written")?;
    let age = seconds().saturating_sub(written);
    if age > OLDEST.as_secs() {
        return Err(format!("the file is {age} s old").into());
    }
    Ok(serde_json::from_value(text["health"].take())?)
}

fn is_missing(error: &BoxError) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two writes; well below `OLDEST`.
const REFRESH: Duration = Duration::from_secs(60);
/// The oldest file that is restored: longer than a restart or a reboot takes. Backends may have
/// changed since an older one.
const OLDEST: Duration = Duration::from_secs(300);
