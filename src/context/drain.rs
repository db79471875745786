//! How a connection learns that it should end.

use std::fmt;

use tokio::sync::watch;

/// Tells connections to finish what they are at and end; see [`Drain`].
pub struct Drainer {
    sender: watch::Sender<bool>,
}

impl Drainer {
    /// Makes a drainer that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(false),
        }
    }

    /// Returns what a connection listens to.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain {
            receiver: self.sender.subscribe(),
        }
    }

    /// Begins: idle connections end now, busy ones after the exchange they are at.
    pub fn begin(&self) {
        self.sender.send_replace(true);
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
            .field("begun", &*self.sender.borrow())
            .field("left", &self.left())
            .finish()
    }
}

/// Held by a connection while it lives: says when it should end, and that it has not yet.
#[derive(Clone)]
pub struct Drain {
    receiver: watch::Receiver<bool>,
}

impl Drain {
    /// Returns true once the connection should end.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Waits until the connection should end. Never ends when the [`Drainer`] is dropped first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn begun(&mut self) {
        if self.receiver.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
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
