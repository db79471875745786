//! How a connection learns that it should end.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Tells connections to finish what they are at and end; see [`ShutdownSignal`].
pub struct GracefulShutdown {
    sender: watch::Sender<()>,
    state: Arc<ShutdownState>,
}

/// Beside the channel, whose own flag is behind a lock.
struct ShutdownState {
    phase: AtomicU8,
    announced: OnceLock<Instant>,
    idle_grace: Duration,
}

impl GracefulShutdown {
    /// Makes a drainer that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(()),
            state: Arc::new(ShutdownState::new(IDLE_GRACE)),
        }
    }

    /// Sets how long a connection may still wait for a request once the end was announced; see
    /// [`ShutdownSignal::idle_until`]. Before [`signal`](Self::signal).
    ///
    /// Default: 2 s.
    #[must_use]
    pub fn idle_grace(mut self, grace: Duration) -> Self {
        self.state = Arc::new(ShutdownState::new(grace));
        self
    }

    /// Returns what a connection listens to.
    #[must_use]
    pub fn signal(&self) -> ShutdownSignal {
        ShutdownSignal {
            receiver: self.sender.subscribe(),
            state: self.state.clone(),
        }
    }

    /// Announces the end: from now on, responses say that their connection closes (RFC 9112
    /// §9.6), and HTTP/2 connections get a GOAWAY. Connections that wait for a request go on
    /// waiting.
    pub fn announce(&self) {
        self.enter(ANNOUNCED);
    }

    /// Begins: busy connections end after the exchange they are at, the others once they have
    /// waited for a request until [`ShutdownSignal::idle_until`].
    pub fn begin(&self) {
        self.enter(BEGUN);
    }

    fn enter(&self, phase: u8) {
        self.state.announced.get_or_init(Instant::now);
        self.state.phase.fetch_max(phase, Relaxed);
        self.sender.send_replace(());
    }

    /// Waits until every [`ShutdownSignal`] that was handed out is dropped.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn ended(&self) {
        self.sender.closed().await;
    }

    /// Returns how many connections have not ended.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.sender.receiver_count()
    }
}

impl ShutdownState {
    fn new(idle_grace: Duration) -> Self {
        Self {
            phase: AtomicU8::new(0),
            announced: OnceLock::new(),
            idle_grace,
        }
    }

    fn has_reached(&self, phase: u8) -> bool {
        self.phase.load(Relaxed) >= phase
    }
}

impl Default for GracefulShutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for GracefulShutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulShutdown")
            .field("announced", &self.state.has_reached(ANNOUNCED))
            .field("begun", &self.state.has_reached(BEGUN))
            .field("remaining", &self.remaining())
            .finish()
    }
}

/// Held by a connection while it lives: says when it should end, and that it has not yet.
#[derive(Clone)]
pub struct ShutdownSignal {
    receiver: watch::Receiver<()>,
    state: Arc<ShutdownState>,
}

impl ShutdownSignal {
    /// Returns true once responses should say that their connection closes. One relaxed load.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.state.has_reached(ANNOUNCED)
    }

    /// Returns true once the connection should end. One relaxed load.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.has_reached(BEGUN)
    }

    /// Returns when a connection that has waited for a request `since` then should be closed:
    /// after a grace from then, or from the announcement if that came later. A close at once would
    /// lose the request of a client that sends one after the other (RFC 9112 §9.5). `None` before
    /// the connection should end.
    #[must_use]
    pub fn idle_until(&self, since: Instant) -> Option<Instant> {
        let announced = self.state.announced.get().copied().unwrap_or(since);
        let until = since.max(announced) + self.state.idle_grace;
        self.has_begun().then_some(until)
    }

    /// Waits for the announcement of the end. Never ends when the [`GracefulShutdown`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn announced(&mut self) {
        self.reached(ANNOUNCED).await;
    }

    /// Waits until the connection should end. Never ends when the [`GracefulShutdown`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn begun(&mut self) {
        self.reached(BEGUN).await;
    }

    async fn reached(&mut self, phase: u8) {
        while !self.state.has_reached(phase) {
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for ShutdownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownSignal")
            .field("announced", &self.is_announced())
            .field("begun", &self.has_begun())
            .finish()
    }
}

const ANNOUNCED: u8 = 1;
const BEGUN: u8 = 2;
/// Clients that send one request after the other do it sooner, nearly always on a busy machine, too;
/// a process with idle clients and without a lame duck ends so much later.
pub(crate) const IDLE_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_and_late_ones_learn_of_it() {
        let drainer = GracefulShutdown::new();
        let mut early = drainer.signal();
        assert!(!early.has_begun(), "not yet");
        drainer.begin();
        let mut late = drainer.signal();
        for drain in [&mut early, &mut late] {
            assert!(drain.has_begun());
            drain.begun().await;
            assert!(drain.has_begun(), "it stays so after it was waited for");
            assert!(drain.clone().has_begun(), "for copies, too");
        }
        drop(drainer);
        assert!(early.has_begun() && late.has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_comes_before_the_end_and_counts_for_the_grace() {
        let drainer = GracefulShutdown::new().idle_grace(Duration::from_secs(3));
        let mut drain = drainer.signal();
        let early = Instant::now();
        drainer.announce();
        drain.announced().await;
        assert!(drain.is_announced() && !drain.has_begun());
        assert_eq!(drain.idle_until(early), None, "not before the end begins");
        tokio::time::advance(Duration::from_secs(2)).await;
        let late = Instant::now();
        drainer.begin();
        drainer.announce();
        drain.begun().await;
        assert!(drain.has_begun(), "it stays so");
        let after = |since| drain.idle_until(since).unwrap() - early;
        assert_eq!(after(early).as_secs(), 3, "from the announcement on");
        assert_eq!(after(late).as_secs(), 5, "from the last response on");
        let direct = GracefulShutdown::default();
        direct.begin();
        direct.signal().announced().await;
    }

    #[tokio::test]
    async fn the_last_one_ends_it() {
        let drainer = GracefulShutdown::new();
        let (one, two) = (drainer.signal(), drainer.signal());
        assert_eq!(drainer.remaining(), 2);
        drop((one, two));
        drainer.ended().await;
    }
}
