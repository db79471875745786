//! The certificates in force, indexed by name: what handshakes read.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use rustls::{SignatureScheme, sign::CertifiedKey};

use super::{
    certificate_entry::Ranked,
    certificate_store::{Change, Store},
};

/// The certificates, indexed by name. It never changes: a change makes another table, which shares all
/// shards but those of the names that changed.
#[derive(Clone)]
pub(super) struct Table {
    shards: Box<[Arc<Shard>]>,
    /// The first certificate of each kind of key, by rank.
    first: Vec<Ranked>,
    hasher: RandomState,
}

#[derive(Clone, Default)]
struct Shard {
    exact: Names,
    /// By what follows `*.`.
    wildcard: Names,
}

/// The certificates of each name, by rank.
type Names = HashMap<Arc<str>, Arc<[Ranked]>>;

impl Table {
    /// Returns the table after a change; `store` has made it already.
    pub(super) fn changed(&self, change: &Change, store: &Store) -> Self {
        let mut table = self.clone();
        for removed in &change.removed {
            table.remove(removed);
        }
        for added in &change.added {
            table.add(added);
        }
        table.find_first(change, store);
        table
    }

    fn add(&mut self, added: &Ranked) {
        for name in &*added.entry.parsed.facts.names {
            let (names, name) = self.names_mut(name);
            let ranked = names.get(name).map(|ranked| &**ranked).unwrap_or_default();
            let at = ranked.partition_point(|other| other.rank <= added.rank);
            let (before, after) = ranked.split_at(at);
            let ranked = before.iter().chain([added]).chain(after).cloned();
            let ranked: Arc<[_]> = ranked.collect();
            names.insert(name.into(), ranked);
        }
    }

    fn remove(&mut self, removed: &Ranked) {
        for name in &*removed.entry.parsed.facts.names {
            let (names, name) = self.names_mut(name);
            let ranked = names.get(name).map(|ranked| &**ranked).unwrap_or_default();
            let others = ranked.iter().filter(|other| other.rank != removed.rank);
            let others: Arc<[_]> = others.cloned().collect();
            match others.is_empty() {
                true => names.remove(name),
                false => names.insert(name.into(), others),
            };
        }
    }

    /// Keeps the first certificate of each kind of key.
    fn find_first(&mut self, change: &Change, store: &Store) {
        let is_in = |places: &[Ranked], other: &Ranked| {
            places.iter().any(|place| {
                place.rank == other.rank && place.entry.parsed.kind == other.entry.parsed.kind
            })
        };
        let lost: Vec<_> = change
            .removed
            .iter()
            .filter(|removed| is_in(&self.first, removed))
            .cloned()
            .collect();
        self.first.retain(|first| !is_in(&lost, first));
        for added in &change.added {
            self.add_first(added);
        }
        // The next of a kind is searched for only if the first of it went without a successor.
        for lost in lost.iter().filter(|lost| !is_in(&change.added, lost)) {
            let kind = lost.entry.parsed.kind;
            if let Some(next) = store.ranked().find(|next| next.entry.parsed.kind == kind) {
                self.add_first(&next);
            }
        }
    }

    fn add_first(&mut self, added: &Ranked) {
        let kind = added.entry.parsed.kind;
        let of_kind = |first: &Ranked| first.entry.parsed.kind == kind;
        match self.first.iter().position(of_kind) {
            Some(at) if self.first[at].rank < added.rank => return,
            Some(at) => self.first[at] = added.clone(),
            None => self.first.push(added.clone()),
        }
        self.first.sort_unstable_by_key(|first| first.rank);
    }

    /// Returns the certificates for the name, which rustls has put in lower case.
    pub(super) fn find(&self, name: Option<&str>) -> Option<Candidates<'_>> {
        let name = name?;
        let exact = self.shards[self.shard(name)].exact.get(name);
        let found = exact.or_else(|| {
            // A wildcard stands for one whole label (RFC 9525 §6.3).
            let parent = name.split_once('.')?.1;
            self.shards[self.shard(parent)].wildcard.get(parent)
        });
        found.map(|ranked| Candidates(ranked))
    }

    /// Returns the certificates for a client that asks for none of their names: the first of each kind
    /// of key, since the others of that kind suit no other client.
    pub(super) fn first(&self) -> Candidates<'_> {
        Candidates(&self.first)
    }

    fn names_mut<'name>(&mut self, name: &'name str) -> (&mut Names, &'name str) {
        let parent = name.strip_prefix("*.");
        let name = parent.unwrap_or(name);
        let shard = self.shard(name);
        let shard = Arc::make_mut(&mut self.shards[shard]);
        match parent {
            Some(_) => (&mut shard.wildcard, name),
            None => (&mut shard.exact, name),
        }
    }

    fn shard(&self, name: &str) -> usize {
        let shards = self.shards.len() as u64;
        (self.hasher.hash_one(name) % shards) as usize
    }
}

impl Default for Table {
    fn default() -> Self {
        let empty = Arc::<Shard>::default();
        Self {
            shards: vec![empty; SHARDS].into(),
            first: Vec::new(),
            hasher: RandomState::new(),
        }
    }
}

/// Some certificates, in order of preference.
pub(super) struct Candidates<'a>(&'a [Ranked]);

impl Candidates<'_> {
    pub(super) fn best(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |ranked: &&Ranked| {
            let key = &ranked.entry.parsed.key.key;
            key.choose_scheme(schemes).is_some()
        };
        let best = match self.0 {
            [only] => Some(only),
            // If none fits, the first: rustls then reports that no signature scheme is shared.
            all => all.iter().find(fits).or_else(|| all.first()),
        };
        best.map(|ranked| ranked.entry.parsed.key.clone())
    }
}

/// With 10,000 names, a change copies a shard of ten; the table itself takes 8 KiB.
const SHARDS: usize = 1_024;
