//! The counters that each request of a backend writes: requests in flight, and requests so far.
//!
//! The word:
//!
//! ```text
//!  63                    32 31                     0
//! ┌────────────────────────┬────────────────────────┐
//! │ requests so far (wraps)│ requests in flight     │
//! └────────────────────────┴────────────────────────┘
//! ```
//!
//! A slot is taken with one addition of both halves, and given back with a subtraction of the lower.
//! The lower half cannot carry into the upper: that would need 2^32 requests in flight. The upper half
//! wraps after 2^32 requests, some days at 10,000 a second, so that `half_wraps` counts each time that
//! its highest bit changes. Its own lowest bit must then agree with that bit; where it does not, the
//! request that passed the middle has not counted yet, and the reader counts for it.
//!
//! Orderings: a pick needs only a number, which may be a moment old (`Relaxed`). The end of the last
//! request and the beginning of a wait for it must not miss one another, so both sides are `SeqCst`:
//! the drain adds itself and then reads the count, the request lowers the count and then reads the
//! waiters. In every order of the four steps at least one sees the other.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::state::set;

/// Requests in flight and requests so far in one word, so that one addition takes a slot and counts
/// the request.
///
/// Aligned to cache lines of its own, apart from what every pick reads.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct RequestCounters {
    /// The requests in flight in the lower half, the requests so far in the upper, which wraps.
    word: AtomicU64,
    /// How often the upper half passed its middle or its end.
    half_wraps: AtomicU32,
    /// The number of drains that wait for the last request in flight.
    drain_waiters: AtomicU32,
    /// The backend has a cap, so that a request may wait for a slot.
    capped: AtomicBool,
}

impl RequestCounters {
    pub(super) fn in_flight(&self) -> u32 {
        low(self.word.load(Relaxed))
    }

    pub(super) fn requests(&self) -> u64 {
        let mut half_wraps = self.half_wraps.load(SeqCst);
        loop {
            let so_far = self.word.load(SeqCst) >> 32;
            let again = self.half_wraps.load(SeqCst);
            // A wrap in between would pair the upper half of one round with the count of another.
            if again == half_wraps {
                // The request that passed the middle or the end may not have counted that yet.
                let uncounted = (so_far >> 31) ^ u64::from(half_wraps & 1);
                return ((u64::from(half_wraps) + uncounted) >> 1 << 32) | so_far;
            }
            half_wraps = again;
        }
    }

    /// Takes a slot, wait-free.
    pub(super) fn acquire(&self) {
        self.count_half_wrap(self.word.fetch_add(REQUEST | SLOT, SeqCst));
    }

    /// Takes a slot below the cap, wait-free: adds, compares, and undoes the addition if the cap was
    /// reached.
    ///
    /// Two additions: the request counts only once its slot is sure, so that `requests` never counts
    /// one that was refused. For a moment between addition and undoing, the backend looks fuller than
    /// it is; [`Acquisition::Undone`] says what that may have hidden.
    pub(super) fn acquire_below(&self, cap: u32) -> Acquisition {
        // A read finds a full backend without taking its cache line from other threads.
        if self.in_flight() >= cap {
            return Acquisition::Full;
        }
        if low(self.word.fetch_add(SLOT, Relaxed)) < cap {
            self.count_half_wrap(self.word.fetch_add(REQUEST, SeqCst));
            return Acquisition::Acquired;
        }
        self.undo(cap)
    }

    fn undo(&self, cap: u32) -> Acquisition {
        let before = low(self.word.fetch_sub(SLOT, SeqCst));
        // With `before <= cap`, the others left a slot free while this one looked taken: a request
        // that came in that moment found the backend full and may wait, so it must be woken.
        Acquisition::Undone {
            hid_a_slot: before <= cap,
            was_last: before == 1 && self.has_drain_waiter(),
        }
    }

    /// Gives a slot back; returns true if it was the last request in flight and a drain waits for
    /// that.
    pub(super) fn release(&self) -> bool {
        // Sequentially consistent: a drain adds itself as a waiter before it reads the count.
        low(self.word.fetch_sub(SLOT, SeqCst)) == 1 && self.has_drain_waiter()
    }

    fn has_drain_waiter(&self) -> bool {
        self.drain_waiters.load(SeqCst) > 0
    }

    fn count_half_wrap(&self, before: u64) {
        if (before >> 32) & (HALF_WRAP - 1) == HALF_WRAP - 1 {
            self.half_wraps.fetch_add(1, SeqCst);
        }
    }

    /// Makes [`release`](Self::release) report the end of the last request in flight.
    pub(super) fn add_drain_waiter(&self) {
        self.drain_waiters.fetch_add(1, SeqCst);
    }

    pub(super) fn remove_drain_waiter(&self) {
        self.drain_waiters.fetch_sub(1, SeqCst);
    }

    /// Returns true if no request is in flight, ordered after
    /// [`add_drain_waiter`](Self::add_drain_waiter).
    pub(super) fn is_empty(&self) -> bool {
        low(self.word.load(SeqCst)) == 0
    }

    pub(super) fn is_capped(&self) -> bool {
        self.capped.load(Relaxed)
    }

    pub(super) fn set_capped(&self, capped: bool) {
        set(&self.capped, capped);
    }
}

/// Whether a slot below a cap was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquisition {
    /// The cap was reached.
    Full,
    /// The cap was reached; for a moment the count was one too high.
    Undone {
        /// A slot that became free in that moment looked taken to other requests.
        hid_a_slot: bool,
        /// The last request in flight ended in that moment, and a drain waits for that.
        was_last: bool,
    },
    /// A slot was taken.
    Acquired,
}

/// Returns the lower half of the word.
fn low(word: u64) -> u32 {
    word as u32
}

const SLOT: u64 = 1;
const REQUEST: u64 = 1 << 32;
const HALF_WRAP: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Counters after this many requests, none of them in flight.
    fn after(requests: u64) -> RequestCounters {
        let counters = RequestCounters::default();
        counters.word.store(requests << 32, SeqCst);
        counters.half_wraps.store((requests >> 31) as u32, SeqCst);
        counters
    }

    #[test]
    fn slots_and_requests_do_not_carry_into_each_other() {
        let counters = RequestCounters::default();
        for _ in 0..3 {
            counters.acquire();
        }
        assert_eq!((counters.in_flight(), counters.requests()), (3, 3));
        assert_eq!(counters.acquire_below(3), Acquisition::Full);
        assert_eq!(counters.acquire_below(4), Acquisition::Acquired);
        assert_eq!((counters.in_flight(), counters.requests()), (4, 4));
        for _ in 0..4 {
            assert!(!counters.release(), "no drain waits");
        }
        assert_eq!((counters.in_flight(), counters.requests()), (0, 4));
        assert!(counters.is_empty());
        counters.acquire();
        counters.add_drain_waiter();
        counters.acquire();
        assert!(!counters.release(), "not the last");
        assert!(counters.release());
        counters.remove_drain_waiter();
    }

    #[test]
    fn requests_are_counted_past_the_end_of_their_half_word() {
        for cap in [None, Some(9)] {
            let counters = RequestCounters::default();
            counters.word.fetch_add(2, SeqCst);
            let mut requests = 0;
            for wrap in 1..7 {
                // No request that passes a boundary is left out.
                let jump = wrap * HALF_WRAP - 3 - requests;
                counters.word.fetch_add(jump << 32, SeqCst);
                requests += jump;
                for _ in 0..6 {
                    assert_eq!(counters.requests(), requests);
                    assert_eq!(counters.in_flight(), 2);
                    match cap {
                        Some(cap) => assert_eq!(counters.acquire_below(cap), Acquisition::Acquired),
                        None => counters.acquire(),
                    }
                    counters.release();
                    requests += 1;
                }
            }
        }
    }

    #[test]
    fn an_undone_acquisition_says_what_it_hid() {
        // In flight with the undone one; whether a drain waits; what the result says.
        for (in_flight, drain_waits, hid_a_slot, was_last) in [
            (3, true, false, false),
            (2, true, true, false),
            (1, true, true, true),
            (1, false, true, false),
        ] {
            let counters = RequestCounters::default();
            counters.word.store(in_flight, SeqCst);
            if drain_waits {
                counters.add_drain_waiter();
            }
            let undone = Acquisition::Undone {
                hid_a_slot,
                was_last,
            };
            assert_eq!(counters.undo(2), undone, "{in_flight}");
            assert_eq!(u64::from(counters.in_flight()), in_flight - 1);
            assert_eq!(counters.requests(), 0);
        }
    }

    #[test]
    fn a_read_amid_a_wrap_is_right() {
        for before in [HALF_WRAP - 1, 2 * HALF_WRAP - 1, 5 * HALF_WRAP - 1] {
            let counters = after(before);
            // The word is written, the wrap not counted yet.
            let word = counters.word.fetch_add(REQUEST | SLOT, SeqCst);
            assert_eq!(counters.requests(), before + 1);
            counters.count_half_wrap(word);
            assert_eq!(counters.requests(), before + 1);
        }
    }

    #[test]
    fn a_reader_beside_requests_never_reads_fewer_than_before() {
        let counters = after(HALF_WRAP - 1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300_000 {
                    // Over a boundary, and on to the next.
                    counters.acquire();
                    counters.release();
                    counters.word.fetch_add((HALF_WRAP - 1) << 32, SeqCst);
                }
                done.store(true, SeqCst);
            });
            let mut last = 0;
            while !done.load(SeqCst) {
                let now = counters.requests();
                assert!(last <= now, "{last}, then {now}");
                last = now;
            }
        });
        assert_eq!(counters.requests(), 300_001 * HALF_WRAP - 1);
    }
}
