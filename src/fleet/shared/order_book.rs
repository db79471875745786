//! The orders that an instance knows, its own and those of others: which are new, which win, and which
//! the pool does not follow yet.
//!
//! The book is a map in which the later order for a subject wins. Instances that have exchanged their
//! books hold the same map, in whatever order they did so, and whether or not the store lost it in
//! between.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    frame,
    order::{Now, Order, StampedOrder, Subject},
};
use crate::pool::{Backend, Mode, Pool};

pub(super) struct OrderBook {
    instance: Box<str>,
    known: BTreeMap<Subject, Known>,
    /// The members as the book last saw them, by their ids.
    seen: HashMap<Box<str>, Seen>,
    /// The fields of the store that were reported as unreadable.
    refused: HashSet<Vec<u8>>,
}

struct Known {
    order: StampedOrder,
    /// The store has never had it.
    is_new: bool,
}

/// A member, and what the pool showed of it.
struct Seen {
    backend: Backend,
    mode: Mode,
    /// The order that led to the mode.
    mode_order: Option<StampedOrder>,
    weight: u32,
    weight_order: Option<StampedOrder>,
    /// How many weights were ordered.
    weight_orders: u32,
    /// The weight that the configuration gave.
    configured_weight: u32,
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

impl OrderBook {
    pub(super) fn new(instance: &str) -> Self {
        Self {
            instance: instance.into(),
            known: BTreeMap::new(),
            seen: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Compares the pool with what was last seen of it. What differs was ordered here.
    pub(super) fn observe(&mut self, backends: &[Backend], now: Now) {
        for backend in backends {
            let (mode, weight) = self.differences(backend);
            if let Some(mode) = mode {
                let order = Order::of_mode(mode, now);
                let stamped = self.give(Subject::Mode(backend.id().into()), order, now);
                if let Some(seen) = self.seen.get_mut(backend.id()) {
                    seen.mode_order = Some(stamped);
                }
            }
            if let Some(weight) = weight {
                let subject = Subject::Weight(backend.id().into());
                let stamped = self.give(subject, Order::Weight(weight), now);
                if let Some(seen) = self.seen.get_mut(backend.id()) {
                    seen.weight_order = Some(stamped);
                }
            }
        }
        let members: HashSet<&str> = backends.iter().map(Backend::id).collect();
        self.seen.retain(|id, _| members.contains(&**id));
    }

    /// Returns the mode and the weight of a member that were ordered since it was last seen.
    fn differences(&mut self, backend: &Backend) -> (Option<Mode>, Option<u32>) {
        let weight = backend.configured_weight();
        // Read before the mode and the weight: an order in between is found the next time.
        let weight_orders = backend.weight_orders();
        let configured_weight = backend.weight_before_order();
        let is_same = |seen: &&mut Seen| seen.backend.is_same(backend);
        let found = self.seen.get_mut(backend.id()).filter(is_same);
        let Some(seen) = found else {
            // A member begins ready, with the weight of its configuration.
            let seen = Seen {
                backend: backend.clone(),
                mode: backend.mode(),
                mode_order: None,
                weight,
                weight_order: None,
                weight_orders,
                configured_weight,
            };
            let mode = (seen.mode != Mode::Ready).then_some(seen.mode);
            self.seen.insert(backend.id().into(), seen);
            return (mode, (weight_orders > 0).then_some(weight));
        };
        let mode = backend.mode();
        let ordered_mode = (mode != seen.mode).then_some(mode);
        seen.mode = mode;
        let is_ordered = weight_orders != seen.weight_orders;
        // A configuration that was read again brings the weight that it always had: an order for
        // another one goes on. A changed weight is an order.
        let is_configured = configured_weight != seen.configured_weight;
        seen.configured_weight = configured_weight;
        if weight != seen.weight && !is_ordered {
            seen.weight_order = None;
        }
        (seen.weight, seen.weight_orders) = (weight, weight_orders);
        (
            ordered_mode,
            (is_ordered || is_configured).then_some(weight),
        )
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

    /// Takes over the later orders of the store.
    pub(super) fn merge(&mut self, stored: Vec<(Vec<u8>, Vec<u8>)>) -> Merged {
        let mut merged = Merged::default();
        let mut unreadable = HashSet::new();
        let mut present = HashSet::new();
        for (field, framed) in stored {
            let read = frame::decode(framed).map_err(|error| error.to_string());
            let order = read.and_then(|text| {
                let order = StampedOrder::parse(&text);
                order.ok_or_else(|| "no order of this program".to_owned())
            });
            let subject = Subject::parse(&field);
            match (subject, order) {
                (Some(subject), Ok(order)) => {
                    if self.take_over(&subject, order) {
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
        self.refused.retain(|field| unreadable.contains(field));
        let missing = self.known.iter().filter(|(s, _)| !present.contains(s));
        merged.to_write = missing
            .map(|(subject, known)| Write {
                subject: subject.clone(),
                order: known.order.clone(),
                is_new: known.is_new,
            })
            .collect();
        merged
    }

    /// Takes over an order of the store if it is later; returns false if the known one is later.
    fn take_over(&mut self, subject: &Subject, order: StampedOrder) -> bool {
        let known = self.known.get(subject);
        if known.is_some_and(|known| known.order > order) {
            return false;
        }
        let is_new = false;
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

    /// Returns old orders that say nothing any more: `ready`, and those for backends that are no
    /// members here.
    pub(super) fn outdated(&self, now: Now) -> Vec<(Subject, StampedOrder)> {
        let outdated = self.known.iter().filter(|(subject, known)| {
            let age = now.wall.saturating_sub(known.order.time());
            let is_ready = known.order.order() == Order::Ready;
            let is_member = self.seen.contains_key(subject.id());
            age > READY_KEPT && is_ready || age > UNKNOWN_KEPT && !is_member
        });
        let outdated = outdated.map(|(subject, known)| (subject.clone(), known.order.clone()));
        outdated.collect()
    }

    /// Forgets an order, unless a later one replaced it.
    pub(super) fn forget(&mut self, subject: &Subject, order: &StampedOrder) {
        if self.known.get(subject).is_some_and(|k| k.order == *order) {
            self.known.remove(subject);
        }
    }

    /// Makes the pool follow the orders that it does not follow yet. Orders for backends that are no
    /// members wait until they are.
    pub(super) fn apply(&mut self, pool: &Pool, now: Now) {
        for (subject, known) in &self.known {
            let Some(seen) = self.seen.get_mut(subject.id()) else {
                continue;
            };
            let is_followed = match subject {
                Subject::Mode(_) => seen.mode_order.as_ref() == Some(&known.order),
                Subject::Weight(_) => seen.weight_order.as_ref() == Some(&known.order),
            };
            if !is_followed {
                seen.follow(pool, &known.order, now);
            }
        }
    }
}

impl Seen {
    /// Changes the pool, unless an operator ordered something else meanwhile: the next look finds that.
    fn follow(&mut self, pool: &Pool, order: &StampedOrder, now: Now) {
        let (is_done, is_change) = match (order.order(), order.order().mode(now)) {
            (Order::Weight(weight), _) => {
                let is_change = self.weight != weight;
                let is_done =
                    !is_change || pool.take_over_weight(&self.backend, self.weight_orders, weight);
                if is_done {
                    self.weight = weight;
                    self.weight_order = Some(order.clone());
                }
                (is_done, is_change)
            }
            (_, Some(mode)) => {
                let is_change = self.mode != mode;
                let is_done = !is_change || pool.take_over_mode(&self.backend, self.mode, mode);
                if is_done {
                    self.mode = mode;
                    self.mode_order = Some(order.clone());
                }
                (is_done, is_change)
            }
            (_, None) => (false, false),
        };
        if is_done && is_change {
            tracing::info!(
                target: "evenkeel::fleet",
                backend = self.backend.id(), order = %order.order(), instance = order.instance(),
                age_ms = now.wall.saturating_sub(order.time()),
                "an order of the fleet is followed"
            );
        }
    }
}

/// An instance that was cut off for longer, and missed the end of a drain, would order the drain again.
const READY_KEPT: u64 = 7 * DAY;
/// A backend that has not come back by then is not expected to.
const UNKNOWN_KEPT: u64 = 30 * DAY;
/// In milliseconds.
const DAY: u64 = 86_400_000;
