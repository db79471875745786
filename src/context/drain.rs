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

/// Tells connections to finish what they are at and end; see [`Drain`].
pub struct Drainer {
    sender: watch::Sender<()>,
    shared: Arc<Shared>,
}

/// Beside the channel, whose own flag is behind a lock.
struct Shared {
    phase: AtomicU8,
    announced: OnceLock<Instant>,
    idle_grace: Duration,
}

impl Drainer {
    /// Makes a drainer that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(()),
            shared: Arc::new(Shared::new(IDLE_GRACE)),
        }
    }

    /// Sets how long a connection may still wait for a request once the end was announced; see
    /// [`Drain::idle_until`]. Before [`drain`](Self::drain).
    ///
    /// Default: 2 s.
    #[must_use]
    pub fn idle_grace(mut self, grace: Duration) -> Self {
        self.shared = Arc::new(Shared::new(grace));
        self
    }

    /// Returns what a connection listens to.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain {
            receiver: self.sender.subscribe(),
            shared: self.shared.clone(),
        }
    }

    /// Announces the end: from now on, responses say that their connection closes (RFC 9112
    /// §9.6), and HTTP/2 connections get a GOAWAY. Connections that wait for a request go on
    /// waiting.
    pub fn announce(&self) {
        self.enter(ANNOUNCED);
    }

    /// Begins: busy connections end after the exchange they are at, the others once they have
    /// waited for a request until [`Drain::idle_until`].
    pub fn begin(&self) {
        self.enter(BEGUN);
    }

    fn enter(&self, phase: u8) {
        self.shared.announced.get_or_init(Instant::now);
        self.shared.phase.fetch_max(phase, Relaxed);
        self.sender.send_replace(());
    }

    /// Waits until every [`Drain`] that was handed out is dropped.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn ended(&self) {
        self.sender.closed().await;
    }

    /// Returns how many connections have not ended.
    #[must_use]
    pub fn left(&self) -> usize {
        self.sender.receiver_count()
    }
}

impl Shared {
    fn new(idle_grace: Duration) -> Self {
        Self {
            phase: AtomicU8::new(0),
            announced: OnceLock::new(),
            idle_grace,
        }
    }

    fn has_come_to(&self, phase: u8) -> bool {
        self.phase.load(Relaxed) >= phase
    }
}

impl Default for Drainer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drainer")
            .field("announced", &self.shared.has_come_to(ANNOUNCED))
            .field("begun", &self.shared.has_come_to(BEGUN))
            .field("left", &self.left())
            .finish()
    }
}

/// Held by a connection while it lives: says when it should end, and that it has not yet.
#[derive(Clone)]
pub struct Drain {
    receiver: watch::Receiver<()>,
    shared: Arc<Shared>,
}

impl Drain {
    /// Returns true once responses should say that their connection closes. One relaxed load.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.shared.has_come_to(ANNOUNCED)
    }

    /// Returns true once the connection should end. One relaxed load.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.shared.has_come_to(BEGUN)
    }

    /// Returns when a connection that has waited for a request `since` then should be closed:
    /// after a grace from then, or from the announcement if that came later. A close at once would
    /// lose the request of a client that sends one after the other (RFC 9112 §9.5). `None` before
    /// the connection should end.
    #[must_use]
    pub fn idle_until(&self, since: Instant) -> Option<Instant> {
        let announced = self.shared.announced.get().copied().unwrap_or(since);
        let until = since.max(announced) + self.shared.idle_grace;
        self.has_begun().then_some(until)
    }

    /// Waits for the announcement of the end. Never ends when the [`Drainer`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn announced(&mut self) {
        self.phase(ANNOUNCED).await;
    }

    /// Waits until the connection should end. Never ends when the [`Drainer`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn begun(&mut self) {
        self.phase(BEGUN).await;
    }

    async fn phase(&mut self, phase: u8) {
        while !self.shared.has_come_to(phase) {
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
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
        let drainer = Drainer::new();
        let mut early = drainer.drain();
        assert!(!early.has_begun(), "not yet");
        drainer.begin();
        let mut late = drainer.drain();
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
        let drainer = Drainer::new().idle_grace(Duration::from_secs(3));
        let mut drain = drainer.drain();
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
        let direct = Drainer::default();
        direct.begin();
        direct.drain().announced().await;
    }

    #[tokio::test]
    async fn the_last_one_ends_it() {
        let drainer = Drainer::new();
        let (one, two) = (drainer.drain(), drainer.drain());
        assert_eq!(drainer.left(), 2);
        drop((one, two));
        drainer.ended().await;
    }
}
