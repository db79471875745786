//! Which addresses of a name are dialled, and which the name has left. Pure: the time is a parameter.
//!
//! | address | dialled | its connections |
//! |---|---|---|
//! | in the last answer | yes | stay |
//! | left out of fewer than 8 answers (250 ms apart at least), for under 60 s | no | stay |
//! | left out of 8 answers, or for 60 s | no | are retired |
//! | any, name denied for 60 s | no | are retired |
//!
//! Dialling follows each answer at once; retiring is slow on purpose. Many resolvers rotate: of
//! eight addresses they return two each time, and a connection must not be closed because its
//! address was not drawn.
//!
//! `gone` is read on the request path without a lock (Acquire, paired with the Release here); an
//! entry that is gone stays so, and the same address later gets a new entry.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

/// One address that a name has or had.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) address: SocketAddr,
    gone: AtomicBool,
}

impl Entry {
    /// Returns true once the name no longer has this address.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }
}

/// The addresses of one name, by the resolver's answers.
///
/// Under the lock of its name.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The addresses of the last answer that had some, in its order.
    last: Vec<Arc<Entry>>,
    history: Vec<History>,
    /// The time at which an answer last counted against the addresses that it left out.
    counted: Option<Instant>,
    /// The time since which the name is denied (NXDOMAIN).
    missing: Option<Instant>,
}

#[derive(Debug)]
struct History {
    entry: Arc<Entry>,
    seen: Instant,
    /// The number of consecutive answers without it.
    misses: u32,
}

impl Answers {
    /// Returns the addresses to dial: those of the last good answer.
    pub(super) fn current(&self) -> &[Arc<Entry>] {
        &self.last
    }

    /// Takes an answer with at least one address.
    pub(super) fn found(&mut self, addresses: &[SocketAddr], now: Instant) {
        // The name exists again: a later denial begins a hold time of its own.
        self.missing = None;
        let counts = self
            .counted
            .is_none_or(|at| now.saturating_duration_since(at) >= MISS_INTERVAL);
        if counts {
            self.counted = Some(now);
        }
        self.history.retain_mut(|history| {
            if addresses.contains(&history.entry.address) {
                history.seen = now;
                history.misses = 0;
                return true;
            }
            history.misses += u32::from(counts);
            // By time as well: a name that is looked up once a minute would need eight minutes for
            // eight answers.
            let unseen = now.saturating_duration_since(history.seen);
            let gone = history.misses >= MAX_MISSES || unseen >= HOLD_TIME;
            history.entry.gone.store(gone, Release);
            !gone
        });
        self.last.clear();
        for address in addresses {
            let history = self.history.iter().find(|k| k.entry.address == *address);
            let entry = match history {
                Some(history) => history.entry.clone(),
                None => {
                    let entry = Arc::new(Entry {
                        address: *address,
                        gone: AtomicBool::new(false),
                    });
                    self.history.push(History {
                        entry: entry.clone(),
                        seen: now,
                        misses: 0,
                    });
                    entry
                }
            };
            // A resolver may return an address twice, once for each socket type.
            if !self.last.iter().any(|e| Arc::ptr_eq(e, &entry)) {
                self.last.push(entry);
            }
        }
    }

    /// Takes an answer that denies the name. Returns true if the answer before did not, and addresses are
    /// still in use.
    pub(super) fn missing(&mut self, now: Instant) -> bool {
        let since = *self.missing.get_or_insert(now);
        if now.saturating_duration_since(since) >= HOLD_TIME {
            for history in self.history.drain(..) {
                history.entry.gone.store(true, Release);
            }
            self.last.clear();
        }
        since == now && !self.last.is_empty()
    }
}

/// An answer that rotates over many addresses has each of them again within fewer.
pub(in crate::connect) const MAX_MISSES: u32 = 8;
/// Look-ups within this time count as one: a burst of connections makes many.
pub(in crate::connect) const MISS_INTERVAL: Duration = Duration::from_millis(250);
/// How long an address stays in use that no answer has, or whose name is denied.
pub(in crate::connect) const HOLD_TIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    struct Table {
        answers: Answers,
        now: Instant,
    }

    impl Table {
        fn new() -> Self {
            Self {
                answers: Answers::default(),
                now: Instant::now(),
            }
        }

        fn wait(&mut self, millis: u64) -> &mut Self {
            self.now += Duration::from_millis(millis);
            self
        }

        fn found(&mut self, last: &[u8]) {
            let addresses: Vec<_> = last.iter().map(|n| ([10, 0, 0, *n], 0).into()).collect();
            self.answers.found(&addresses, self.now);
        }

        fn dialled(&self) -> Vec<u8> {
            let each = self.answers.current().iter();
            each.map(|entry| match entry.address.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            })
            .collect()
        }
    }

    #[test]
    fn an_address_is_gone_after_several_answers_without_it() {
        let mut table = Table::new();
        table.found(&[1]);
        let old = table.answers.current()[0].clone();
        for nth in 1..MAX_MISSES {
            table.wait(500).found(&[2]);
            assert!(!old.is_gone(), "after {nth}");
            assert_eq!(table.dialled(), [2], "new connections follow at once");
        }
        table.wait(500).found(&[2]);
        assert!(old.is_gone());
        table.wait(500).found(&[1]);
        assert!(old.is_gone(), "what was retired stays so");
        assert!(!table.answers.current()[0].is_gone(), "a new beginning");
    }

    #[test]
    fn a_burst_of_answers_is_one_and_seldom_ones_count_by_time() {
        let mut table = Table::new();
        table.found(&[1]);
        let old = table.answers.current()[0].clone();
        for _ in 0..100 {
            table.wait(1).found(&[2]);
        }
        assert!(!old.is_gone());
        table.wait(59_000).found(&[2]);
        assert!(!old.is_gone());
        table.wait(1_000).found(&[2]);
        assert!(old.is_gone(), "60 s without it");
    }

    #[test]
    fn rotation_retires_nothing() {
        let mut table = Table::new();
        let mut all: Vec<Arc<Entry>> = Vec::new();
        for nth in 0..200_u8 {
            table.wait(1_000).found(&[nth % 8, (nth + 1) % 8]);
            all.extend(table.answers.current().iter().cloned());
        }
        assert!(all.iter().all(|entry| !entry.is_gone()));
        assert_eq!(table.answers.history.len(), 8);
    }

    #[test]
    fn a_name_that_is_denied_is_kept_for_a_minute() {
        let mut table = Table::new();
        table.found(&[1, 2]);
        let old = table.answers.current()[0].clone();
        let (start, now) = (table.now, table.now);
        assert!(table.answers.missing(now), "news");
        assert!(!table.answers.missing(start + Duration::from_secs(59)));
        assert_eq!(table.dialled(), [1, 2]);
        table.wait(59_500).found(&[1, 2]);
        table.answers.missing(table.now);
        table.wait(59_000);
        table.answers.missing(table.now);
        assert_eq!(table.dialled(), [1, 2], "an answer in between counts");
        table.wait(1_000);
        table.answers.missing(table.now);
        assert!(table.dialled().is_empty() && old.is_gone());
    }
}
