//! How many requests a backend has, and has had: what each of them writes.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::state::set;

/// Requests in flight and requests so far in one word, so that a slot is taken with one addition.
///
/// On cache lines of its own, apart from what every pick reads.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct Load {
    /// Those in flight in the lower half, those so far in the upper, which turns over.
    word: AtomicU64,
    /// How often the upper half came to its middle, or to its end.
    half_turns: AtomicU32,
    /// How many wait for the last request in flight to end.
    watchers: AtomicU32,
    /// Has a cap of requests in flight: somebody may wait for a slot.
    capped: AtomicBool,
}

impl Load {
    pub(super) fn in_flight(&self) -> u32 {
        low(self.word.load(Relaxed))
    }

    pub(super) fn requests(&self) -> u64 {
        let mut half_turns = self.half_turns.load(SeqCst);
        loop {
            let so_far = self.word.load(SeqCst) >> 32;
            let again = self.half_turns.load(SeqCst);
            if again == half_turns {
                // Whoever came to the middle or to the end has not told of it yet.
                let untold = (so_far >> 31) ^ u64::from(half_turns & 1);
                return ((u64::from(half_turns) + untold) >> 1 << 32) | so_far;
            }
            half_turns = again;
        }
    }

    /// Takes a slot, wait-free.
    pub(super) fn enter(&self) {
        self.counted(self.word.fetch_add(REQUEST | SLOT, SeqCst));
    }

    /// Takes a slot below the cap, wait-free: adds, checks, and undoes where it was reached.
    pub(super) fn enter_below(&self, cap: u32) -> Entered {
        // A full backend is told by a read, which leaves its cache line shared.
        if self.in_flight() >= cap {
            return Entered::No;
        }
        if low(self.word.fetch_add(SLOT, Relaxed)) < cap {
            self.counted(self.word.fetch_add(REQUEST, SeqCst));
            return Entered::Yes;
        }
        self.undo(cap)
    }

    fn undo(&self, cap: u32) -> Entered {
        let before = low(self.word.fetch_sub(SLOT, SeqCst));
        Entered::Undone {
            hid_a_slot: before <= cap,
            was_last: before == 1 && self.is_watched(),
        }
    }

    /// Gives a slot back; returns true where the last request in flight ended and somebody waits
    /// for that.
    pub(super) fn leave(&self) -> bool {
        // Ordered before the look at the watchers, as they write before they read the count.
        low(self.word.fetch_sub(SLOT, SeqCst)) == 1 && self.is_watched()
    }

    fn is_watched(&self) -> bool {
        self.watchers.load(SeqCst) > 0
    }

    fn counted(&self, before: u64) {
        if (before >> 32) & (HALF_TURN - 1) == HALF_TURN - 1 {
            self.half_turns.fetch_add(1, SeqCst);
        }
    }

    pub(super) fn watch(&self) {
        self.watchers.fetch_add(1, SeqCst);
    }

    pub(super) fn unwatch(&self) {
        self.watchers.fetch_sub(1, SeqCst);
    }

    /// As ordered with [`watch`](Self::watch).
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    No,
    /// No; for a moment there was one more in flight.
    Undone {
        /// A slot that became free in between looked taken to others.
        hid_a_slot: bool,
        /// The last request in flight ended in between, and somebody waits for that.
        was_last: bool,
    },
    Yes,
}

/// The lower half.
fn low(word: u64) -> u32 {
    word as u32
}

const SLOT: u64 = 1;
const REQUEST: u64 = 1 << 32;
const HALF_TURN: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// After as many requests, none in flight.
    fn after(requests: u64) -> Load {
        let load = Load::default();
        load.word.store(requests << 32, SeqCst);
        load.half_turns.store((requests >> 31) as u32, SeqCst);
        load
    }

    #[test]
    fn slots_and_requests_do_not_get_into_one_another() {
        let load = Load::default();
        for _ in 0..3 {
            load.enter();
        }
        assert_eq!((load.in_flight(), load.requests()), (3, 3));
        assert_eq!(load.enter_below(3), Entered::No);
        assert_eq!(load.enter_below(4), Entered::Yes);
        assert_eq!((load.in_flight(), load.requests()), (4, 4));
        for _ in 0..4 {
            assert!(!load.leave(), "nobody waits");
        }
        assert_eq!((load.in_flight(), load.requests()), (0, 4));
        assert!(load.is_empty());
        load.enter();
        load.watch();
        load.enter();
        assert!(!load.leave(), "not the last");
        assert!(load.leave());
        load.unwatch();
    }

    #[test]
    fn requests_are_counted_on_where_their_half_of_the_word_is_full() {
        for cap in [None, Some(9)] {
            let load = Load::default();
            load.word.fetch_add(2, SeqCst);
            let mut requests = 0;
            for turn in 1..7 {
                // None that comes to a boundary is left out.
                let jump = turn * HALF_TURN - 3 - requests;
                load.word.fetch_add(jump << 32, SeqCst);
                requests += jump;
                for _ in 0..6 {
                    assert_eq!(load.requests(), requests);
                    assert_eq!(load.in_flight(), 2);
                    match cap {
                        Some(cap) => assert_eq!(load.enter_below(cap), Entered::Yes),
                        None => load.enter(),
                    }
                    load.leave();
                    requests += 1;
                }
            }
        }
    }

    #[test]
    fn what_is_undone_is_told_where_it_mattered() {
        // In flight, with the one that is to be undone; whether anybody watches; what is told.
        for (in_flight, watched, hid_a_slot, was_last) in [
            (3, true, false, false),
            (2, true, true, false),
            (1, true, true, true),
            (1, false, true, false),
        ] {
            let load = Load::default();
            load.word.store(in_flight, SeqCst);
            if watched {
                load.watch();
            }
            let undone = Entered::Undone {
                hid_a_slot,
                was_last,
            };
            assert_eq!(load.undo(2), undone, "{in_flight}");
            assert_eq!(u64::from(load.in_flight()), in_flight - 1);
            assert_eq!(load.requests(), 0);
        }
    }

    #[test]
    fn whoever_reads_amid_a_turn_reads_right() {
        for before in [HALF_TURN - 1, 2 * HALF_TURN - 1, 5 * HALF_TURN - 1] {
            let load = after(before);
            // Counted, and not told of yet.
            let word = load.word.fetch_add(REQUEST | SLOT, SeqCst);
            assert_eq!(load.requests(), before + 1);
            load.counted(word);
            assert_eq!(load.requests(), before + 1);
        }
    }

    #[test]
    fn a_reader_beside_requests_never_reads_fewer_than_before() {
        let load = after(HALF_TURN - 1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300_000 {
                    // Over a boundary, and on to the next.
                    load.enter();
                    load.leave();
                    load.word.fetch_add((HALF_TURN - 1) << 32, SeqCst);
                }
                done.store(true, SeqCst);
            });
            let mut last = 0;
            while !done.load(SeqCst) {
                let now = load.requests();
                assert!(last <= now, "{last}, then {now}");
                last = now;
            }
        });
        assert_eq!(load.requests(), 300_001 * HALF_TURN - 1);
    }
}
