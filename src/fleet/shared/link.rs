//! The one connection to a Redis server: made when a command needs it, given up when the server does not
//! answer in time, and made again after a wait that grows.

use std::{
    error::Error,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Mutex, Notify, Semaphore},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::redis_url::RedisUrl;
use crate::{
    connect::Connector,
    error::{BoxError, ConfigError},
};

/// A connection that commands share.
///
/// A command waits for its answer, for the connection and for the commands before it until one
/// deadline. Beyond [`MOST_CALLS`] that wait, further ones are refused at once, so that a server that
/// hangs holds a bounded amount of memory.
pub(super) struct Link {
    url: RedisUrl,
    connector: Connector,
    timeout: Duration,
    calls: Semaphore,
    state: Mutex<State>,
    /// Messages of this channel notify; set once, before the first command.
    channel: OnceLock<String>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Attempts that failed since the last that succeeded.
    failures: u32,
    /// When the next attempt may begin, and why the last one failed.
    retry: Option<(Instant, Arc<str>)>,
    /// How many connections were made.
    made: u64,
}

#[derive(Clone)]
struct Connection {
    redis: MultiplexedConnection,
    number: u64,
    _driver: Arc<Driver>,
}

/// Ends the task that reads and writes, and so the connection.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    pub(super) fn new(
        url: RedisUrl,
        connector: Connector,
        timeout: Duration,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            url,
            connector: connector.timeout(timeout)?,
            timeout,
            calls: Semaphore::new(MOST_CALLS),
            state: Mutex::default(),
            channel: OnceLock::new(),
            changed: Arc::default(),
        })
    }

    /// Returns the same, with other settings, as a link that has no connection yet.
    pub(super) fn with(
        &self,
        change: impl FnOnce(Connector) -> Connector,
        timeout: Duration,
    ) -> Result<Self, ConfigError> {
        Self::new(self.url.clone(), change(self.connector.clone()), timeout)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the server for logs.
    pub(super) fn shown(&self) -> &str {
        &self.url.shown
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call(&self, command: &Cmd) -> Result<Value, BoxError> {
        let _permit = self
            .calls
            .try_acquire()
            .map_err(|_full| format!("{}: {MOST_CALLS} commands wait already", self.url.shown))?;
        let deadline = Instant::now() + self.timeout;
        let mut connection = self.connection(deadline).await?;
        let answered = timeout_at(deadline, command.query_async(&mut connection.redis)).await;
        let failure = match answered {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => {
                let message = format!("{}: {}", self.url.shown, describe(&error));
                if !ends_connection(&error) {
                    return Err(message.into());
                }
                message
            }
            Err(_) => format!("{}: no answer within {:?}", self.url.shown, self.timeout),
        };
        self.give_up(connection.number).await;
        Err(failure.into())
    }

    /// Subscribes each connection to come to a channel, and ends the present one.
    pub(super) async fn subscribe(&self, channel: String) {
        if self.channel.set(channel).is_ok() {
            self.state.lock().await.connection = None;
        }
    }

    /// Waits for a message. One that came since the last call counts.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn connection(&self, deadline: Instant) -> Result<Connection, BoxError> {
        let shown = &self.url.shown;
        let state = timeout_at(deadline, self.state.lock()).await;
        let mut state =
            state.map_err(|_late| format!("{shown}: no connection within {:?}", self.timeout))?;
        if let Some(connection) = &state.connection {
            return Ok(connection.clone());
        }
        let now = Instant::now();
        if let Some((at, reason)) = state.retry.as_ref().filter(|(at, _)| now < *at) {
            let wait = *at - now;
            return Err(format!("{reason}; the next attempt follows in {wait:?}").into());
        }
        let number = state.made + 1;
        let failure = match timeout_at(deadline, self.connect(number)).await {
            Ok(Ok(connection)) => {
                *state = State {
                    connection: Some(connection.clone()),
                    made: number,
                    ..State::default()
                };
                return Ok(connection);
            }
            Ok(Err(error)) => format!("{shown}: {error}"),
            Err(_) => format!("{shown}: no connection within {:?}", self.timeout),
        };
        state.failures += 1;
        let wait = back_off(state.failures, fastrand::f64());
        state.retry = Some((Instant::now() + wait, failure.as_str().into()));
        Err(failure.into())
    }

    async fn connect(&self, number: u64) -> Result<Connection, BoxError> {
        let connected = self.connector.connect(&self.url.server).await;
        let connected = connected.map_err(|error| match error.source() {
            Some(cause) => cause.to_string(),
            None => error.to_string(),
        })?;
        let changed = self.changed.clone();
        let notify = move |push: PushInfo| {
            // The end of a connection is found by the next command: a server that closes each
            // connection at once must not be connected to without a pause.
            if push.kind == PushKind::Message {
                changed.notify_one();
            }
            Ok::<(), ()>(())
        };
        // Each command has a deadline of its own.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_push_sender(notify);
        let stream = connected.into_stream();
        let opened = MultiplexedConnection::new_with_config(&self.url.login, stream, config).await;
        let (mut redis, driver) = opened.map_err(|error| describe(&error))?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        if let Some(channel) = self.channel.get() {
            self.subscribe_to(channel, &mut redis).await?;
        }
        Ok(Connection {
            redis,
            number,
            _driver: Arc::new(driver),
        })
    }

    /// Subscribes a connection. A user without the right to it has the connection for commands all the
    /// same.
    async fn subscribe_to(
        &self,
        channel: &str,
        redis: &mut MultiplexedConnection,
    ) -> Result<(), BoxError> {
        match redis.subscribe(channel).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_unrecoverable_error() => Err(describe(&error).into()),
            Err(error) => {
                tracing::warn!(
                    target: "evenkeel::fleet",
                    server = %self.url.shown, channel, error = %describe(&error),
                    "no subscription: changes of other instances are noticed by polling alone"
                );
                Ok(())
            }
        }
    }

    /// Ends a connection, unless a later one has replaced it.
    async fn give_up(&self, number: u64) {
        let mut state = self.state.lock().await;
        let is_current = |connection: &Connection| connection.number == number;
        if state.connection.as_ref().is_some_and(is_current) {
            state.connection = None;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Returns true if no later command can succeed on the connection: it is broken, or leads to a server
/// that has become a replica.
fn ends_connection(error: &RedisError) -> bool {
    let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
    is_replica || error.is_unrecoverable_error()
}

/// Returns the message of an error, which has neither the password nor a value: those of a server name
/// commands and keys.
fn describe(error: &RedisError) -> String {
    error.to_string()
}

/// Returns the wait after this many failures in a row, for a random number from 0 to 1: half of it
/// varies, so that the instances of a fleet do not all connect at once.
fn back_off(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    let most = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
    most.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

/// As a lost connection is usually a restart, which takes less than a second.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Orders of the other instances are late by as much after an outage.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// More than all tasks of one process have under way; a value has 1 MiB at most.
pub(super) const MOST_CALLS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_ends_at_its_bound() {
        let waits = |random| [1, 2, 3, 5, 6, 40].map(|n| back_off(n, random).as_millis());
        assert_eq!(waits(1.0), [100, 200, 400, 1600, 2000, 2000]);
        assert_eq!(waits(0.0), [50, 100, 200, 800, 1000, 1000]);
    }
}
