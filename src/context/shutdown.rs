//! Graceful shutdown: the end of a server, announced to its connections.
//!
//! ```text
//!             announce                    begin
//! serving ───────────────▶ announced ───────────────▶ begun ──▶ ended (no signal is left)
//! responses:               close, GOAWAY              close
//! idle connections:        wait on                    closed at `idle_until`
//! new connections:         accepted                   not accepted
//! ```
//!
//! The watch channel has two jobs: its change wakes the connections that wait, and its receivers are
//! what `remaining` counts and `ended` waits for. The phase itself is an atomic beside it, as each
//! response reads it. It only grows (`fetch_max`), so that a late `announce` does not undo a `begin`.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Tells connections to finish their current exchange and to end, and counts those that have not.
///
/// A shutdown has two phases. [`announce`](Self::announce) makes responses say that their connection
/// closes, so that clients and balancers move on while the server still accepts (lame duck).
/// [`begin`](Self::begin) ends the connections. A server may begin without announcing.
///
/// # Example
///
/// ```
/// use evenkeel::context::GracefulShutdown;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let shutdown = GracefulShutdown::new();
/// let mut signal = shutdown.signal();
/// let connection = tokio::spawn(async move {
///     signal.begun().await;
///     // ... finish the current exchange, and drop the signal with the connection.
/// });
///
/// shutdown.begin();
/// shutdown.ended().await;
/// assert_eq!(shutdown.remaining(), 0);
/// # connection.await.unwrap();
/// # }
/// ```
pub struct GracefulShutdown {
    sender: watch::Sender<()>,
    state: Arc<ShutdownState>,
}

/// The phase, kept beside the channel: to read the channel's own value takes a lock, and each request
/// reads the phase.
///
/// `phase` is 0, [`ANNOUNCED`] or [`BEGUN`].
struct ShutdownState {
    phase: AtomicU8,
    announced: OnceLock<Instant>,
    idle_grace: Duration,
}

impl GracefulShutdown {
    /// Makes a shutdown that is neither announced nor begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(()),
            state: Arc::new(ShutdownState::new(IDLE_GRACE)),
        }
    }

    /// Sets how long an idle connection may still wait for a request after the announcement; see
    /// [`ShutdownSignal::idle_until`]. Call it before [`signal`](Self::signal): signals that exist
    /// already keep the earlier value and do not learn of the shutdown.
    ///
    /// Default: 2 s.
    #[must_use]
    pub fn idle_grace(mut self, grace: Duration) -> Self {
        self.state = Arc::new(ShutdownState::new(grace));
        self
    }

    /// Returns a signal for one connection, which holds it until it ends.
    #[must_use]
    pub fn signal(&self) -> ShutdownSignal {
        ShutdownSignal {
            receiver: self.sender.subscribe(),
            state: self.state.clone(),
        }
    }

    /// Announces the end: from now on responses say `connection: close` (RFC 9112 §9.6), and HTTP/2
    /// connections get a GOAWAY. Connections that wait for a request keep waiting.
    pub fn announce(&self) {
        self.enter(ANNOUNCED);
    }

    /// Begins the end: busy connections end after their current exchange, idle ones at
    /// [`ShutdownSignal::idle_until`]. Announces the end if that was not done.
    pub fn begin(&self) {
        self.enter(BEGUN);
    }

    fn enter(&self, phase: u8) {
        // Of the first of both calls: idle connections count from there.
        self.state.announced.get_or_init(Instant::now);
        // Before the channel changes: a connection that is woken, or that looks by itself, finds the
        // phase.
        self.state.phase.fetch_max(phase, Relaxed);
        self.sender.send_replace(());
    }

    /// Waits until every [`ShutdownSignal`] is dropped, that is until every connection has ended.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time; a later call waits again.
    pub async fn ended(&self) {
        self.sender.closed().await;
    }

    /// Returns the number of connections that have not ended.
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

/// One connection's side of a [`GracefulShutdown`]. It tells the connection when to end, and while it
/// exists, the shutdown counts the connection as not ended.
#[derive(Clone)]
pub struct ShutdownSignal {
    receiver: watch::Receiver<()>,
    state: Arc<ShutdownState>,
}

impl ShutdownSignal {
    /// Returns true once responses should say that their connection closes. Costs one relaxed load.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.state.has_reached(ANNOUNCED)
    }

    /// Returns true once the connection should end. Costs one relaxed load.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state.has_reached(BEGUN)
    }

    /// Returns the time at which a connection that has been idle since `since` should be closed: the
    /// idle grace (2 s) after `since`, or after the announcement if that was later. `None` before the
    /// shutdown begins. A connection that closes at once may lose a request that its client has just
    /// sent (RFC 9112 §9.5).
    #[must_use]
    pub fn idle_until(&self, since: Instant) -> Option<Instant> {
        let announced = self.state.announced.get().copied().unwrap_or(since);
        let until = since.max(announced) + self.state.idle_grace;
        self.has_begun().then_some(until)
    }

    /// Waits for the announcement. Never returns if the [`GracefulShutdown`] is dropped before that.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time; a later call waits again.
    pub async fn announced(&mut self) {
        self.reached(ANNOUNCED).await;
    }

    /// Waits until the connection should end. Never returns if the [`GracefulShutdown`] is dropped
    /// before that.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time; a later call waits again.
    pub async fn begun(&mut self) {
        self.reached(BEGUN).await;
    }

    async fn reached(&mut self, phase: u8) {
        while !self.state.has_reached(phase) {
            if self.receiver.changed().await.is_err() {
                // A shutdown that was dropped never comes: that is no reason to end.
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
/// A client that sends its requests one after the other sends the next within this time, nearly
/// always, even on a busy machine. A shutdown without a lame duck takes this much longer if clients
/// are idle.
pub(crate) const IDLE_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_and_late_ones_learn_of_it() {
        let shutdown = GracefulShutdown::new();
        let mut early = shutdown.signal();
        assert!(!early.has_begun(), "not yet");
        shutdown.begin();
        let mut late = shutdown.signal();
        for drain in [&mut early, &mut late] {
            assert!(drain.has_begun());
            drain.begun().await;
            assert!(drain.has_begun(), "it stays so after it was waited for");
            assert!(drain.clone().has_begun(), "for copies, too");
        }
        drop(shutdown);
        assert!(early.has_begun() && late.has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_comes_before_the_end_and_counts_for_the_grace() {
        let shutdown = GracefulShutdown::new().idle_grace(Duration::from_secs(3));
        let mut drain = shutdown.signal();
        let early = Instant::now();
        shutdown.announce();
        drain.announced().await;
        assert!(drain.is_announced() && !drain.has_begun());
        assert_eq!(drain.idle_until(early), None, "not before the end begins");
        tokio::time::advance(Duration::from_secs(2)).await;
        let late = Instant::now();
        shutdown.begin();
        shutdown.announce();
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
        let shutdown = GracefulShutdown::new();
        let (one, two) = (shutdown.signal(), shutdown.signal());
        assert_eq!(shutdown.remaining(), 2);
        drop((one, two));
        shutdown.ended().await;
    }
}
