//! The queue of requests that wait for a backend: bounded in number and in time, first come, first
//! served.
//!
//! Two counters bound the queue and say whether there is a line; they are `Relaxed`, because each is
//! read alone and guards no other memory. The turn is a `tokio::sync::Mutex`, which is fair: those
//! that wait get it in the order in which they asked. A semaphore of slots would have to follow each
//! change of caps, health and membership, while a look at the snapshot is always right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Mutex, MutexGuard};

use super::layer::BalanceLayer;
use crate::error::{Error, ErrorKind};

/// How many requests wait, how many may wait, and which one has the turn.
///
/// Requests in line wait for the turn in their order; only the one that has it waits for a free slot.
/// A request that arrives while others are in line goes behind them. Under a steady overload, new
/// requests would otherwise take each slot that becomes free, and waiting ones would wait in vain.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    in_line: AtomicUsize,
    turn: Mutex<()>,
    size: usize,
    timeout: Duration,
}

impl Queue {
    pub(super) fn new(size: usize, timeout: Duration) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            in_line: AtomicUsize::new(0),
            turn: Mutex::new(()),
            size,
            timeout,
        }
    }

    /// Enters the queue, in line or beside it; returns `None` if it is full. Wait-free.
    pub(super) fn enter(self: &Arc<Self>, in_line: bool) -> Option<QueueEntry> {
        // Made first: if the queue is full, its drop takes the counts back.
        self.in_line.fetch_add(usize::from(in_line), Relaxed);
        let entry = QueueEntry {
            queue: self.clone(),
            in_line,
        };
        // Add, then check: two requests that arrive for the last place cannot both get it. `then_some`
        // drops the entry of the one that does not.
        (self.waiting.fetch_add(1, Relaxed) < self.size).then_some(entry)
    }

    /// Returns true while requests are in line.
    ///
    /// One relaxed load on the path of each request. A request that misses an entry made this very
    /// moment is at most one place too early.
    pub(super) fn has_line(&self) -> bool {
        self.in_line.load(Relaxed) > 0
    }

    /// Returns the error of a request that found the queue full.
    #[cold]
    pub(super) fn overflow(&self) -> Error {
        let why = format!("{} requests wait already", self.size);
        let error = Error::new(ErrorKind::Overloaded).with_source(why);
        error.with_retry_after(BalanceLayer::RETRY_AFTER)
    }

    /// Returns the number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        // An entry that finds the queue full counts for a moment.
        self.waiting.load(Relaxed).min(self.size)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// One request's entry in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct QueueEntry {
    queue: Arc<Queue>,
    in_line: bool,
}

impl QueueEntry {
    /// Waits for the turn; returns `None` at once for an entry beside the line.
    ///
    /// Cancel-safe: a request that gives up in line leaves no hole in it
    /// (`a_request_that_gives_up_waiting_passes_its_turn_on`).
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.in_line {
            Some(self.queue.turn.lock().await)
        } else {
            None
        }
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Relaxed);
        let in_line = usize::from(self.in_line);
        self.queue.in_line.fetch_sub(in_line, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_bounded_and_come_back() {
        let queue = Arc::new(Queue::new(2, Duration::ZERO));
        let entries: Vec<_> = [false, true, true, false, true]
            .into_iter()
            .filter_map(|in_line| queue.enter(in_line))
            .collect();
        assert_eq!(entries.len(), 2, "no more than its size may wait");
        let counts = || (queue.waiting.load(Relaxed), queue.in_line.load(Relaxed));
        assert_eq!(counts(), (2, 1), "those turned away must not count");
        drop(entries);
        assert_eq!(counts(), (0, 0), "an entry must come back");
        assert!(!queue.has_line());
        let none = Arc::new(Queue::new(0, Duration::ZERO));
        assert!(none.enter(true).is_none() && !none.has_line());
    }
}
