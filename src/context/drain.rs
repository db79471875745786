//! How a connection learns that it should end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::watch;

/// Tells connections to finish what they are at and end; see [`Drain`].
pub struct Drainer {
    sender: watch::Sender<()>,
    begun: Arc<AtomicBool>,
}

impl Drainer {
    /// Makes a drainer that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(()),
            begun: Arc::default(),
        }
    }

    /// Returns what a connection listens to.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain {
            receiver: self.sender.subscribe(),
            begun: self.begun.clone(),
        }
    }

    /// Begins: idle connections end now, busy ones after the exchange they are at.
    pub fn begin(&self) {
        self.begun.store(true, Relaxed);
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

impl Default for Drainer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drainer")
            .field("begun", &self.begun)
            .field("left", &self.left())
            .finish()
    }
}

/// Held by a connection while it lives: says when it should end, and that it has not yet.
#[derive(Clone)]
pub struct Drain {
    receiver: watch::Receiver<()>,
    /// Beside the channel, whose own flag is behind a lock.
    begun: Arc<AtomicBool>,
}

impl Drain {
    /// Returns true once the connection should end. One relaxed load.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// Waits until the connection should end. Never ends when the [`Drainer`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn begun(&mut self) {
        while !self.has_begun() {
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("begun", &self.has_begun())
            .finish()
    }
}

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

    #[tokio::test]
    async fn the_last_one_ends_it() {
        let drainer = Drainer::new();
        let (one, two) = (drainer.drain(), drainer.drain());
        assert_eq!(drainer.left(), 2);
        drop((one, two));
        drainer.ended().await;
    }
}
