//! Room for requests that wait for a backend: bounded in number and in time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// How many requests wait, and how many may.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    size: usize,
    timeout: Duration,
}

impl Queue {
    pub(super) fn new(size: usize, timeout: Duration) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            size,
            timeout,
        }
    }

    /// Takes a place; `None` when the queue is full. Wait-free.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        // Made first: where the queue is full, its drop takes the count back.
        let place = Place {
            queue: self.clone(),
        };
        (self.waiting.fetch_add(1, Relaxed) < self.size).then_some(place)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

/// One request's place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let queue = Arc::new(Queue::new(2, Duration::ZERO));
        let places: Vec<_> = (0..5).filter_map(|_| queue.enter()).collect();
        assert_eq!(places.len(), 2, "no more than its size may wait");
        assert_eq!(queue.waiting(), 2, "those turned away must not count");
        drop(places);
        assert_eq!(queue.waiting(), 0, "a place must come back");
        assert!(Arc::new(Queue::new(0, Duration::ZERO)).enter().is_none());
    }
}
