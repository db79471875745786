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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::{super::certificate_entry::Entry, *};
    use crate::tls::Certificate;

    /// The names of certificates, and those that clients ask for.
    const NAMES: [&[&str]; 4] = [
        &["a.test"],
        &["*.test"],
        &["a.test", "b.test"],
        &["b.test", "*.a.test"],
    ];
    const ASKED: [&str; 5] = ["a.test", "b.test", "c.test", "x.a.test", "none.example"];

    /// For each set of names, a certificate of each kind of key.
    static CERTIFICATES: LazyLock<Vec<[Certificate; 2]>> = LazyLock::new(|| {
        let issue = |names: &[&str], kind| {
            let names = names.iter().map(|name| (*name).to_owned());
            let params = rcgen::CertificateParams::new(names.collect::<Vec<_>>()).unwrap();
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            Certificate::pem(params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let kinds = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519];
        let each = NAMES
            .iter()
            .map(|names| kinds.map(|kind| issue(names, kind)));
        each.collect()
    });

    fn entry((names, kind): (usize, usize), id: Option<&str>) -> Arc<Entry> {
        let certificate = CERTIFICATES[names][kind].clone();
        Entry::read(id, certificate, &RandomState::new()).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(usize, (usize, usize)),
        List(Vec<(usize, usize)>),
        Remove(usize),
        /// A file of the list, or of one that was inserted, has changed.
        Renew(usize, (usize, usize)),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let made = || (0..NAMES.len(), 0..2_usize);
        let op = prop_oneof![
            (0..4_usize, made()).prop_map(|(id, made)| Op::Insert(id, made)),
            prop::collection::vec(made(), 0..4).prop_map(Op::List),
            (0..4_usize).prop_map(Op::Remove),
            (0..8_usize, made()).prop_map(|(nth, made)| Op::Renew(nth, made)),
        ];
        prop::collection::vec(op, 1..24)
    }

    fn apply(store: &mut Store, op: Op) -> Change {
        match op {
            Op::Insert(id, made) => {
                let id = id.to_string();
                store.insert((*id).into(), entry(made, Some(&id)))
            }
            Op::List(list) => {
                // As a reload does, it keeps those that are as they were.
                let listed: Vec<_> = store.listed().cloned().collect();
                let made = list.iter().enumerate();
                let entries = made.map(|(at, &made)| match listed.get(at) {
                    Some(known) if made.1 == 0 => known.clone(),
                    _ => entry(made, None),
                });
                store.replace_list(entries.collect())
            }
            Op::Remove(id) => store.remove(&id.to_string()),
            Op::Renew(nth, made) => {
                let mut change = Change::default();
                let before = store.ranked().nth(nth);
                if let Some(before) = before {
                    let now = entry(made, before.entry.id.as_deref());
                    store.renew(&before, now, &mut change);
                }
                change
            }
        }
    }

    fn places(candidates: &Candidates<'_>) -> Vec<(u64, usize)> {
        let place = |ranked: &Ranked| (ranked.rank, Arc::as_ptr(&ranked.entry) as usize);
        candidates.0.iter().map(place).collect()
    }

    /// What a search through all certificates finds for the name.
    fn searched(store: &Store, name: &str) -> Vec<Ranked> {
        let having = |name: &str| -> Vec<_> {
            let has = |ranked: &Ranked| {
                let names = &ranked.entry.parsed.facts.names;
                names.iter().any(|own| **own == *name)
            };
            store.ranked().filter(has).collect()
        };
        let exact = having(name);
        match (exact.is_empty(), name.split_once('.')) {
            (true, Some((_, parent))) => having(&format!("*.{parent}")),
            _ => exact,
        }
    }

    /// The first of each kind of key, as a search through all finds them.
    fn searched_first(store: &Store) -> Vec<Ranked> {
        let mut first: Vec<Ranked> = Vec::new();
        for ranked in store.ranked() {
            let kind = ranked.entry.parsed.kind;
            if first.iter().all(|first| first.entry.parsed.kind != kind) {
                first.push(ranked);
            }
        }
        first
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_changed_table_finds_what_a_search_through_all_certificates_finds(ops in ops()) {
            let (mut table, mut store) = (Table::default(), Store::default());
            for op in ops {
                let change = apply(&mut store, op.clone());
                table = table.changed(&change, &store);
                for name in ASKED {
                    let found = table.find(Some(name)).map(|found| places(&found));
                    let wanted = places(&Candidates(&searched(&store, name)));
                    prop_assert_eq!(found.unwrap_or_default(), wanted, "{} after {:?}", name, op);
                }
                let wanted = places(&Candidates(&searched_first(&store)));
                prop_assert_eq!(places(&table.first()), wanted, "the first after {:?}", op);
            }
        }
    }
}
