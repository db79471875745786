//! What is known of the backends, kept over a restart: `[health] state_file`.

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

/// Takes over what an earlier process knew, before checks begin. What cannot be read, or is old,
/// is left: then backends are unknown until their first check.
pub(crate) fn restore(path: &Path, pool: &Pool) {
    let file = path.display();
    match read(path) {
        Ok(known) => {
            let backends = pool.restore_health(&known);
            tracing::info!(%file, backends, "took over what was known of the backends");
        }
        Err(error) if is_missing(&error) => {
            tracing::info!(%file, "nothing is known of the backends yet");
        }
        Err(error) => {
            tracing::warn!(%file, %error, "cannot take over what was known of the backends")
        }
    }
}

/// Writes what is known when it changes, and now and then so that it does not grow old. Ends with
/// its drop.
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

    /// Writes it a last time.
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
        // What follows within a moment is written with it.
        sleep(PAUSE).await;
        while events.try_next().is_some() {}
        let (path, known) = (path.clone(), pool.health_snapshot());
        // A slow disk holds up nothing else.
        let _ = spawn_blocking(move || save(&path, &known)).await;
    }
}

fn save(path: &Path, known: &HealthSnapshot) {
    if let Err(error) = write(path, known) {
        tracing::warn!(file = %path.display(), %error, "cannot keep what is known of the backends");
    }
}

/// Replaces the file as a whole: a reader, or a crash, never sees a part of it.
fn write(path: &Path, known: &HealthSnapshot) -> Result<(), BoxError> {
    let text = json!({ "written": seconds(), "health": serde_json::to_value(known)? });
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
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
        .ok_or("it does not say when it was written")?;
    let age = seconds().saturating_sub(written);
    if age > OLDEST.as_secs() {
        return Err(format!("it is {age} s old").into());
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

/// At most one write in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// Well below what is too old.
const REFRESH: Duration = Duration::from_secs(60);
/// Longer than a restart or a reboot takes; what is older, backends may have changed since.
const OLDEST: Duration = Duration::from_secs(300);
