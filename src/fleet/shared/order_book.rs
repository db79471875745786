//! The orders that an instance knows, its own and those of others: which are new, which win, and which
//! the pool does not follow yet.
//!
//! The book is a map in which the later order for a subject wins. Instances that have exchanged their
//! books hold the same map, in whatever order they did so, and whether or not the store lost it in
//! between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    frame,
    order::{Now, Order, StampedOrder, Subject},
    seen::Seen,
};
use crate::pool::{Backend, Locality, Pool};

pub(super) struct OrderBook {
    instance: Box<str>,
    known: BTreeMap<Subject, Known>,
    /// The members as the book last saw them, by their ids.
    seen: HashMap<Box<str>, Seen>,
    /// The evacuated localities, as the book last saw them.
    evacuated: BTreeSet<Box<str>>,
    /// When backends that have orders were members for the last time, in milliseconds since 1970.
    left: HashMap<Box<str>, u64>,
    /// When the book began: what was a member before is not known.
    began: u64,
    /// The fields of the store that were reported as unreadable.
    refused: HashSet<Vec<u8>>,
}

struct Known {
    order: StampedOrder,
    /// The store has never had it.
    is_new: bool,
}

/// What a look into the store led to.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Orders that the store does not have; new ones replace what is unreadable there.
    pub(super) to_write: Vec<Write>,
    /// Fields that cannot be read and were not reported before, and why.
    pub(super) refused: Vec<(String, String)>,
}

/// An order for the store.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) subject: Subject,
    pub(super) order: StampedOrder,
    pub(super) is_new: bool,
}

/// One order of a book, as it goes to a successor of the process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExportedOrder {
    field: String,
    order: String,
    is_new: bool,
}

impl OrderBook {
    /// Makes an empty book at this time, in milliseconds since 1970.
    pub(super) fn new(instance: &str, began: u64) -> Self {
        Self {
            instance: instance.into(),
            known: BTreeMap::new(),
            seen: HashMap::new(),
            evacuated: BTreeSet::new(),
            left: HashMap::new(),
            began,
            refused: HashSet::new(),
        }
    }

    /// Compares the pool with what was last seen of it. What differs was ordered here.
    pub(super) fn observe(&mut self, pool: &Pool, now: Now) {
        let backends = pool.snapshot().backends().to_vec();
        for backend in &backends {
            self.observe_backend(backend, now);
        }
        let members: HashSet<&str> = backends.iter().map(Backend::id).collect();
        let gone = self.seen.keys().filter(|id| !members.contains(&***id));
        let gone: Vec<_> = gone.filter(|id| self.has_order(id)).cloned().collect();
        self.left.extend(gone.into_iter().map(|id| (id, now.wall)));
        self.seen.retain(|id, _| members.contains(&**id));
        self.observe_localities(pool, now);
    }

    fn observe_backend(&mut self, backend: &Backend, now: Now) {
        let found = self.seen.get_mut(backend.id());
        let differences = match found.filter(|seen| seen.is_of(backend)) {
            Some(seen) => seen.again(backend),
            None => {
                let (seen, differences) = Seen::first(backend);
                self.seen.insert(backend.id().into(), seen);
                differences
            }
        };
        let id = backend.id();
        let mode = differences.mode.map(|mode| Order::of_mode(mode, now));
        let mode = mode.map(|order| (Subject::Mode(id.into()), order));
        let weight = differences.weight.map(Order::Weight);
        let weight = weight.map(|order| (Subject::Weight(id.into()), order));
        for (subject, order) in mode.into_iter().chain(weight) {
            let stamped = self.give(subject.clone(), order, now);
            if let Some(seen) = self.seen.get_mut(id) {
                seen.follows(&subject, stamped);
            }
        }
    }

    fn observe_localities(&mut self, pool: &Pool, now: Now) {
        let evacuated = pool.evacuated();
        let evacuated: BTreeSet<Box<str>> = evacuated.iter().map(|l| l.as_str().into()).collect();
        let before = std::mem::replace(&mut self.evacuated, evacuated.clone());
        for path in before.symmetric_difference(&evacuated) {
            let order = match evacuated.contains(path) {
                true => Order::Evacuated,
                false => Order::Restored,
            };
            if let Some(subject) = Subject::locality(path) {
                self.give(subject, order, now);
            }
        }
    }

    /// Enters an order of this instance. Its time is later than that of each order that is known, even
    /// if the clock here is behind.
    fn give(&mut self, subject: Subject, order: Order, now: Now) -> StampedOrder {
        let before = self.known.get(&subject).map(|known| known.order.time());
        let time = before.map_or(now.wall, |before| now.wall.max(before.saturating_add(1)));
        let order = StampedOrder::new(time, &self.instance, order);
        let known = Known {
            order: order.clone(),
            is_new: true,
        };
        self.known.insert(subject, known);
        order
    }

    /// Returns what matters here of a store that has more orders than are read: the orders for the
    /// members and their localities, and those that the store has never had.
    pub(super) fn own_subjects(&self, pool: &Pool, most: usize) -> BTreeSet<Subject> {
        let snapshot = pool.snapshot();
        let members = snapshot.backends().iter();
        let localities = members.clone().filter_map(Backend::configured_locality);
        let localities = localities.flat_map(|locality| {
            let path = locality.as_str();
            let ends = path.match_indices('/').map(|(end, _)| end);
            let paths = ends.chain([path.len()]).map(|end| &path[..end]);
            paths.filter_map(Subject::locality).collect::<Vec<_>>()
        });
        let new = self.known.iter().filter(|(_, known)| known.is_new);
        let own =
            members.flat_map(|b| [Subject::Mode(b.id().into()), Subject::Weight(b.id().into())]);
        let new = new.map(|(subject, _)| subject.clone());
        new.chain(localities).chain(own).take(most).collect()
    }

    /// Takes over the later orders of the store. If only some subjects were asked for, nothing is said
    /// about the others.
    pub(super) fn merge(
        &mut self,
        stored: Vec<(Vec<u8>, Vec<u8>)>,
        asked: Option<&BTreeSet<Subject>>,
        now: Now,
    ) -> Merged {
        let mut merged = Merged::default();
        let mut unreadable = HashSet::new();
        let mut present = HashSet::new();
        for (field, framed) in stored {
            match read(&field, framed) {
                (Some(subject), Ok(order)) => {
                    if self.take_over(&subject, order, false) {
                        present.insert(subject);
                    }
                }
                (subject, order) => {
                    let why = order.err().unwrap_or_else(|| "no subject".to_owned());
                    if self.refused.insert(field.clone()) {
                        let name = String::from_utf8_lossy(&field).into_owned();
                        merged.refused.push((name, why));
                    }
                    unreadable.insert(field);
                    // A later version may have written it: only an order given since replaces it.
                    present.extend(subject.filter(|subject| !self.is_new(subject)));
                }
            }
        }
        if asked.is_none() {
            self.refused.retain(|field| unreadable.contains(field));
        }
        // An outdated order that this instance remembers would come back each time that another one
        // has removed it.
        let missing = self.known.iter().filter(|(subject, known)| {
            !present.contains(*subject)
                && asked.is_none_or(|asked| asked.contains(*subject))
                && !self.is_outdated(subject, &known.order, now)
        });
        merged.to_write = missing
            .map(|(subject, known)| Write {
                subject: subject.clone(),
                order: known.order.clone(),
                is_new: known.is_new,
            })
            .collect();
        merged
    }

    /// Takes over an order if it is later; returns false if the known one is later.
    fn take_over(&mut self, subject: &Subject, order: StampedOrder, is_new: bool) -> bool {
        let known = self.known.get(subject);
        if known.is_some_and(|known| known.order > order) {
            return false;
        }
        self.known.insert(subject.clone(), Known { order, is_new });
        true
    }

    fn is_new(&self, subject: &Subject) -> bool {
        self.known.get(subject).is_some_and(|known| known.is_new)
    }

    /// Notes that the store has an order, or a later one.
    pub(super) fn written(&mut self, write: &Write) {
        if let Some(known) = self.known.get_mut(&write.subject) {
            known.is_new &= known.order != write.order;
        }
    }

    /// Forgets old orders that say nothing any more, and returns them. Call it when the pool follows
    /// what was merged: an old `ready` may still have ended a drain here.
    pub(super) fn take_outdated(&mut self, now: Now) -> Vec<(Subject, StampedOrder)> {
        let outdated = self.known.iter();
        let outdated = outdated.filter(|(s, known)| self.is_outdated(s, &known.order, now));
        let outdated: Vec<_> = outdated
            .map(|(subject, known)| (subject.clone(), known.order.clone()))
            .collect();
        for (subject, _) in &outdated {
            self.known.remove(subject);
        }
        let mut left = std::mem::take(&mut self.left);
        left.retain(|id, _| self.has_order(id));
        self.left = left;
        outdated
    }

    fn has_order(&self, id: &str) -> bool {
        let subjects = [Subject::Mode(id.into()), Subject::Weight(id.into())];
        subjects
            .iter()
            .any(|subject| self.known.contains_key(subject))
    }

    /// Returns true for an old `ready` or `restored`, and for an order for a backend that has been no
    /// member for long.
    fn is_outdated(&self, subject: &Subject, order: &StampedOrder, now: Now) -> bool {
        let age = |since: u64| now.wall.saturating_sub(since);
        let is_undone = matches!(order.order(), Order::Ready | Order::Restored);
        if is_undone && age(order.time()) > UNDONE_KEPT {
            return true;
        }
        let Some(id) = subject.backend().filter(|id| !self.seen.contains_key(*id)) else {
            return false;
        };
        // An instance that has just started does not know the members of before, and discovery may be
        // late.
        let left = self.left.get(id).copied().unwrap_or(self.began);
        age(order.time().max(left)) > UNKNOWN_KEPT
    }

    /// Makes the pool follow the orders that it does not follow yet. Orders for backends that are no
    /// members wait until they are.
    pub(super) fn apply(&mut self, pool: &Pool, now: Now) {
        for (subject, known) in &self.known {
            match subject {
                Subject::Locality(path) => {
                    let is_evacuated = known.order.order() == Order::Evacuated;
                    if self.evacuated.contains(path) != is_evacuated {
                        follow_locality(pool, path, &known.order, now);
                        match is_evacuated {
                            true => self.evacuated.insert(path.clone()),
                            false => self.evacuated.remove(path),
                        };
                    }
                }
                Subject::Mode(id) | Subject::Weight(id) => {
                    if let Some(seen) = self.seen.get_mut(id) {
                        seen.follow(pool, subject, &known.order, now);
                    }
                }
            }
        }
    }

    /// Returns all orders, for a successor of the process.
    pub(super) fn export(&self) -> Vec<ExportedOrder> {
        let orders = self.known.iter().map(|(subject, known)| ExportedOrder {
            field: subject.field(),
            order: known.order.text().to_owned(),
            is_new: known.is_new,
        });
        orders.collect()
    }

    /// Takes over the later orders of a predecessor. Those that cannot be read are those of another
    /// version, and are left out.
    pub(super) fn import(&mut self, orders: Vec<ExportedOrder>) {
        for exported in orders {
            let subject = Subject::parse(exported.field.as_bytes());
            let order = StampedOrder::parse(exported.order.as_bytes());
            if let Some((subject, order)) = subject.zip(order)
                && subject.accepts(order.order())
            {
                self.take_over(&subject, order, exported.is_new);
            }
        }
    }
}

/// Reads a field of the store: what it is about, and the order or why there is none.
fn read(field: &[u8], framed: Vec<u8>) -> (Option<Subject>, Result<StampedOrder, String>) {
    let subject = Subject::parse(field);
    let text = frame::decode(framed).map_err(|error| error.to_string());
    let order = text.and_then(|text| {
        let order = StampedOrder::parse(&text);
        order.ok_or_else(|| "no order of this program".to_owned())
    });
    let accepts = |order: &StampedOrder| subject.as_ref().is_none_or(|s| s.accepts(order.order()));
    let order = match order {
        Ok(order) if !accepts(&order) => Err(format!("{}: no order for this", order.order())),
        order => order,
    };
    (subject, order)
}

/// An order that was given here meanwhile is for the same, or is found by the next look: there are two
/// states only.
fn follow_locality(pool: &Pool, path: &str, order: &StampedOrder, now: Now) {
    let Ok(locality) = Locality::new(path) else {
        return;
    };
    match order.order() {
        Order::Evacuated => pool.evacuate(&locality),
        _ => pool.restore(&locality),
    };
    tracing::info!(
        target: "evenkeel::fleet",
        locality = path, order = %order.order(), instance = order.instance(),
        age_ms = now.wall.saturating_sub(order.time()),
        "an order of the fleet is followed"
    );
}

/// An instance that was cut off for longer, and missed the end of a drain, would order the drain again.
const UNDONE_KEPT: u64 = 7 * DAY;
/// A backend that has not come back by then is not expected to.
const UNKNOWN_KEPT: u64 = 30 * DAY;
/// In milliseconds.
const DAY: u64 = 86_400_000;
