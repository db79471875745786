//! The orders of an operator in a form that a successor of the process can take over.

use std::time::Duration;

use tokio::time::Instant;

use super::{Backend, Locality, Mode, Pool};

/// What operators ordered at a pool: drains, maintenance, weights and evacuations. The process that
/// replaces this one gives it to [`Pool::restore_orders`]. With the feature `serde` it can be
/// serialized.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, Pool, pool::Mode};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = || Backend::new("a", "http://127.0.0.1:9001");
/// let before = Pool::new([backend()?])?;
/// before.drain("a", Duration::from_secs(300))?;
///
/// let after = Pool::new([backend()?])?;
/// after.restore_orders(&before.order_snapshot());
/// let mode = after.snapshot().backends()[0].mode();
/// assert!(matches!(mode, Mode::Draining { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct OrderSnapshot {
    /// One record for each member with an order.
    pub backends: Vec<BackendOrder>,
    /// The evacuated regions, zones and racks, as [`Locality::as_str`] shows them.
    pub evacuated: Vec<String>,
}

/// The orders for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackendOrder {
    /// The backend's id.
    pub id: String,
    /// The ordered mode.
    pub mode: OrderedMode,
    /// The weight that [`Pool::update_weight`] set; `None` if it is the configured one.
    pub weight: Option<OrderedWeight>,
}

/// A [`Mode`] that counts the time that is left, as no other process has the same clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum OrderedMode {
    /// The backend gets no new traffic; its sticky sessions stay for the time that is left.
    Draining {
        /// The time until the deadline, in milliseconds; 0 once it has passed.
        left_ms: u64,
    },
    /// The backend gets no traffic.
    Maintenance,
    /// The backend gets traffic.
    Ready,
}

/// A weight that an operator set, and the configured one that it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "__serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct OrderedWeight {
    /// The configured weight.
    pub configured: u32,
    /// The weight in its place.
    pub ordered: u32,
}

impl OrderSnapshot {
    /// Shortens the time that drains have left, by the time that the snapshot was on its way.
    #[must_use]
    pub fn later(mut self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        for backend in &mut self.backends {
            if let OrderedMode::Draining { left_ms } = &mut backend.mode {
                *left_ms = left_ms.saturating_sub(by);
            }
        }
        self
    }
}

impl Pool {
    /// Returns the orders of operators that are in force.
    #[must_use]
    pub fn order_snapshot(&self) -> OrderSnapshot {
        let now = Instant::now();
        let snapshot = self.snapshot();
        let orders = snapshot.backends().iter().map(|b| order_for(b, now));
        let is_order =
            |order: &BackendOrder| order.mode != OrderedMode::Ready || order.weight.is_some();
        let evacuated = self.evacuated();
        OrderSnapshot {
            backends: orders.filter(is_order).collect(),
            evacuated: evacuated.iter().map(|l| l.as_str().to_owned()).collect(),
        }
    }

    /// Takes over the orders of an earlier process: afterwards they are those of the snapshot, and
    /// orders that it does not have are undone. The deadlines of drains stay, and so does a drain
    /// whose deadline has passed. An ordered weight is taken over if the configured weight is still
    /// the one that it replaced; a changed configuration takes precedence. Records of ids that are no
    /// members are ignored, and so are localities that cannot be parsed. Returns the number of
    /// backends with an order.
    pub fn restore_orders(&self, orders: &OrderSnapshot) -> usize {
        let mut restored = 0;
        let members = self.snapshot().backends().to_vec();
        for member in &members {
            let order = orders.backends.iter().find(|order| order.id == member.id());
            restored += usize::from(order.is_some());
            self.restore_mode(member, order.map_or(OrderedMode::Ready, |order| order.mode));
            self.restore_weight(member, order.and_then(|order| order.weight));
        }
        let wanted = orders.evacuated.iter();
        let wanted: Vec<_> = wanted.filter_map(|path| Locality::new(path).ok()).collect();
        for evacuated in self.evacuated() {
            if !wanted.contains(&evacuated) {
                self.restore(&evacuated);
            }
        }
        for prefix in &wanted {
            self.evacuate(prefix);
        }
        restored
    }

    /// Orders a mode, unless the member has it. A member may leave at any time, which is no error.
    fn restore_mode(&self, member: &Backend, mode: OrderedMode) {
        let id = member.id();
        let _ = match mode {
            OrderedMode::Draining { left_ms } => {
                let left = Duration::from_millis(left_ms);
                match member.mode() {
                    Mode::Draining { until } if is_near(until, left) => Ok(()),
                    _ => self.drain(id, left).map(drop),
                }
            }
            OrderedMode::Maintenance => self.start_maintenance(id),
            OrderedMode::Ready => self.mark_ready(id),
        };
    }

    fn restore_weight(&self, member: &Backend, weight: Option<OrderedWeight>) {
        let configured = member.weight_before_order();
        let wanted = match weight {
            Some(weight) if weight.configured == configured => weight.ordered,
            _ => configured,
        };
        if wanted != member.configured_weight() {
            // A weight out of range is that of another version, and is ignored.
            let _ = self.update_weight(member.id(), wanted);
        }
    }
}

fn order_for(backend: &Backend, now: Instant) -> BackendOrder {
    let mode = match backend.mode() {
        Mode::Draining { until } => {
            let left = until.saturating_duration_since(now).as_millis();
            OrderedMode::Draining {
                left_ms: u64::try_from(left).unwrap_or(u64::MAX),
            }
        }
        Mode::Maintenance => OrderedMode::Maintenance,
        Mode::Ready => OrderedMode::Ready,
    };
    let (configured, ordered) = (backend.weight_before_order(), backend.configured_weight());
    let weight = OrderedWeight {
        configured,
        ordered,
    };
    BackendOrder {
        id: backend.id().to_owned(),
        mode,
        weight: (configured != ordered).then_some(weight),
    }
}

/// Returns true if a drain ends about when the other one does: a second order would only repeat it.
fn is_near(until: Instant, left: Duration) -> bool {
    let now = Instant::now();
    until.saturating_duration_since(now).abs_diff(left) < SAME_DEADLINE
}

/// A snapshot has whole milliseconds, and is some of them on its way.
const SAME_DEADLINE: Duration = Duration::from_secs(1);
