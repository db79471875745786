//! The certificates in force, in order: what changes work on, under a lock that no handshake takes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::certificate_entry::{Entry, Ranked};

/// The certificates by rank: first those of the list, then those that were inserted.
#[derive(Default)]
pub(super) struct Store {
    all: BTreeMap<u64, Arc<Entry>>,
    /// The ranks of those inserted, by their identifiers.
    inserted: HashMap<Arc<str>, u64>,
    /// How many have been inserted until now.
    insertions: u64,
}

/// The certificates that a change removes and adds. One that is replaced is in both lists, with one
/// rank.
#[derive(Default)]
pub(super) struct Change {
    pub(super) removed: Vec<Ranked>,
    pub(super) added: Vec<Ranked>,
}

impl Store {
    pub(super) fn ranked(&self) -> impl Iterator<Item = Ranked> {
        let ranked = |(&rank, entry): (&u64, &Arc<Entry>)| Ranked {
            rank,
            entry: entry.clone(),
        };
        self.all.iter().map(ranked)
    }

    /// Returns the certificates of the list.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.all.range(..FIRST_INSERTED).map(|(_, entry)| entry)
    }

    /// Replaces the certificates of the list.
    pub(super) fn replace_list(&mut self, entries: Vec<Arc<Entry>>) -> Change {
        let mut change = Change::default();
        let count = entries.len() as u64;
        let surplus = self.all.range(count..FIRST_INSERTED);
        let surplus: Vec<_> = surplus.map(|(&rank, _)| rank).collect();
        for (rank, entry) in (0..count).zip(entries) {
            self.put(rank, entry, &mut change);
        }
        for rank in surplus {
            self.take(rank, &mut change);
        }
        change
    }

    /// Adds a certificate with an identifier, or replaces the one that has it.
    pub(super) fn insert(&mut self, id: Arc<str>, entry: Arc<Entry>) -> Change {
        let mut change = Change::default();
        let next = FIRST_INSERTED + self.insertions;
        let rank = *self.inserted.entry(id).or_insert(next);
        self.insertions += u64::from(rank == next);
        self.put(rank, entry, &mut change);
        change
    }

    /// Removes the certificate with an identifier.
    pub(super) fn remove(&mut self, id: &str) -> Change {
        let mut change = Change::default();
        if let Some(rank) = self.inserted.remove(id) {
            self.take(rank, &mut change);
        }
        change
    }

    /// Replaces `before` by `now`, unless another change came first.
    pub(super) fn renew(&mut self, before: &Ranked, now: Arc<Entry>, change: &mut Change) {
        let current = self.all.get(&before.rank);
        if current.is_some_and(|current| Arc::ptr_eq(current, &before.entry)) {
            self.put(before.rank, now, change);
        }
    }

    fn put(&mut self, rank: u64, entry: Arc<Entry>, change: &mut Change) {
        let added = Ranked { rank, entry };
        match self.all.insert(rank, added.entry.clone()) {
            Some(previous) if Arc::ptr_eq(&previous, &added.entry) => return,
            Some(entry) => change.removed.push(Ranked { rank, entry }),
            None => {}
        }
        change.added.push(added);
    }

    fn take(&mut self, rank: u64, change: &mut Change) {
        if let Some(entry) = self.all.remove(&rank) {
            change.removed.push(Ranked { rank, entry });
        }
    }
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Behind every certificate of the list, whose ranks count from 0.
const FIRST_INSERTED: u64 = 1 << 32;
