//! [`Seen`]: a member of the pool as the order book last saw it. What differs since was ordered here.

use super::order::{Now, Order, StampedOrder, Subject};
use crate::pool::{Backend, Mode, Pool};

/// A member, and what the pool showed of it.
pub(super) struct Seen {
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

/// What was ordered since a member was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    pub(super) mode: Option<Mode>,
    pub(super) weight: Option<u32>,
}

impl Seen {
    /// Sees a member for the first time. It begins ready, with the weight of its configuration: what
    /// it has beyond that was ordered.
    pub(super) fn first(backend: &Backend) -> (Self, Differences) {
        // Read before the mode and the weight: an order in between is found the next time.
        let weight_orders = backend.weight_orders();
        let seen = Self {
            backend: backend.clone(),
            mode: backend.mode(),
            mode_order: None,
            weight: backend.configured_weight(),
            weight_order: None,
            weight_orders,
            configured_weight: backend.weight_before_order(),
        };
        let differences = Differences {
            mode: (seen.mode != Mode::Ready).then_some(seen.mode),
            weight: (weight_orders > 0).then_some(seen.weight),
        };
        (seen, differences)
    }

    /// Returns true if this is the same member, and not a later one of the same id.
    pub(super) fn is_of(&self, backend: &Backend) -> bool {
        self.backend.is_same(backend)
    }

    /// Sees the member again.
    pub(super) fn again(&mut self, backend: &Backend) -> Differences {
        // Read before the mode and the weight: an order in between is found the next time.
        let weight_orders = backend.weight_orders();
        let weight = backend.configured_weight();
        let configured_weight = backend.weight_before_order();
        let mode = backend.mode();
        let ordered_mode = (mode != self.mode).then_some(mode);
        self.mode = mode;
        let is_ordered = weight_orders != self.weight_orders;
        // A configuration that was read again brings the weight that it always had: an order for
        // another one goes on. A changed weight is an order.
        let is_configured = configured_weight != self.configured_weight;
        self.configured_weight = configured_weight;
        if weight != self.weight && !is_ordered {
            self.weight_order = None;
        }
        (self.weight, self.weight_orders) = (weight, weight_orders);
        Differences {
            mode: ordered_mode,
            weight: (is_ordered || is_configured).then_some(weight),
        }
    }

    /// Notes the order that led to what the pool shows.
    pub(super) fn follows(&mut self, subject: &Subject, order: StampedOrder) {
        match subject {
            Subject::Locality(_) => {}
            Subject::Mode(_) => self.mode_order = Some(order),
            Subject::Weight(_) => self.weight_order = Some(order),
        }
    }

    fn is_followed(&self, subject: &Subject, order: &StampedOrder) -> bool {
        match subject {
            Subject::Locality(_) => true,
            Subject::Mode(_) => self.mode_order.as_ref() == Some(order),
            Subject::Weight(_) => self.weight_order.as_ref() == Some(order),
        }
    }

    /// Changes the pool if it does not follow the order, unless an operator ordered something else
    /// meanwhile: the next look finds that.
    pub(super) fn follow(
        &mut self,
        pool: &Pool,
        subject: &Subject,
        order: &StampedOrder,
        now: Now,
    ) {
        if self.is_followed(subject, order) {
            return;
        }
        let (is_done, is_change) = match (order.order(), order.order().mode(now)) {
            (Order::Weight(weight), _) => {
                let is_change = self.weight != weight;
                let (backend, orders, seen) = (&self.backend, self.weight_orders, self.weight);
                let is_done = !is_change || pool.take_over_weight(backend, orders, seen, weight);
                if is_done {
                    self.weight = weight;
                }
                (is_done, is_change)
            }
            (_, Some(mode)) => {
                let is_change = self.mode != mode;
                let is_done = !is_change || pool.take_over_mode(&self.backend, self.mode, mode);
                if is_done {
                    self.mode = mode;
                }
                (is_done, is_change)
            }
            (_, None) => return,
        };
        if is_done {
            self.follows(subject, order.clone());
        }
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
