//! An operator's order for a backend, as instances exchange it.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::pool::{Locality, Mode};

/// What an order is about: the later order for the same subject wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Subject {
    /// The evacuation of this region, zone or rack.
    Locality(Box<str>),
    /// The mode of the backend with this id.
    Mode(Box<str>),
    /// The weight of the backend with this id.
    Weight(Box<str>),
}

impl Subject {
    /// Returns the id of the backend; `None` for a locality.
    pub(super) fn backend(&self) -> Option<&str> {
        match self {
            Self::Locality(_) => None,
            Self::Mode(id) | Self::Weight(id) => Some(id),
        }
    }

    /// Returns whether an order can be about this.
    pub(super) fn accepts(&self, order: Order) -> bool {
        match self {
            Self::Locality(_) => matches!(order, Order::Evacuated | Order::Restored),
            Self::Mode(_) => {
                matches!(
                    order,
                    Order::Drain { .. } | Order::Maintenance | Order::Ready
                )
            }
            Self::Weight(_) => matches!(order, Order::Weight(_)),
        }
    }

    /// Returns the field of the hash in Redis.
    pub(super) fn field(&self) -> String {
        match self {
            Self::Locality(path) => format!("locality:{path}"),
            Self::Mode(id) => format!("mode:{id}"),
            Self::Weight(id) => format!("weight:{id}"),
        }
    }

    pub(super) fn parse(field: &[u8]) -> Option<Self> {
        let (kind, id) = std::str::from_utf8(field).ok()?.split_once(':')?;
        if kind == "locality" {
            return Self::locality(id);
        }
        // As the pool accepts ids.
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        match kind {
            "mode" => Some(Self::Mode(id.into())),
            "weight" => Some(Self::Weight(id.into())),
            _ => None,
        }
    }

    /// Returns the subject of an evacuation; `None` for a path that instances do not exchange.
    pub(super) fn locality(path: &str) -> Option<Self> {
        let is_path = Locality::new(path).is_ok() && path.len() <= MAX_LOCALITY;
        let is_path = is_path && !path.chars().any(char::is_control);
        is_path.then(|| Self::Locality(path.into()))
    }
}

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A drain, with its deadline in milliseconds since 1970.
    Drain {
        until: u64,
    },
    /// A region, zone or rack gets no traffic.
    Evacuated,
    Maintenance,
    Ready,
    /// A region, zone or rack is no longer evacuated.
    Restored,
    Weight(u32),
}

impl Order {
    /// Returns the order that led to a mode.
    pub(super) fn of_mode(mode: Mode, now: Now) -> Self {
        match mode {
            Mode::Draining { until } => {
                let left = until.saturating_duration_since(now.instant).as_millis();
                let left = u64::try_from(left).unwrap_or(u64::MAX);
                Self::Drain {
                    until: now.wall.saturating_add(left),
                }
            }
            Mode::Maintenance => Self::Maintenance,
            Mode::Ready => Self::Ready,
        }
    }

    /// Returns the mode that is ordered; `None` for a weight and for a locality. A deadline that has passed is now.
    pub(super) fn mode(self, now: Now) -> Option<Mode> {
        match self {
            Self::Drain { until } => {
                let left = Duration::from_millis(until.saturating_sub(now.wall));
                let until = now.instant.checked_add(left.min(CENTURY));
                Some(Mode::Draining {
                    until: until.unwrap_or(now.instant),
                })
            }
            Self::Maintenance => Some(Mode::Maintenance),
            Self::Ready => Some(Mode::Ready),
            Self::Evacuated | Self::Restored | Self::Weight(_) => None,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain { until } => write!(f, "drain {until}"),
            Self::Evacuated => f.write_str("evacuated"),
            Self::Maintenance => f.write_str("maintenance"),
            Self::Ready => f.write_str("ready"),
            Self::Restored => f.write_str("restored"),
            Self::Weight(weight) => write!(f, "weight {weight}"),
        }
    }
}

/// One moment, by the clock that deadlines use and by the one that instances share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// In milliseconds since 1970.
    pub(super) wall: u64,
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: super::wall_clock(),
        }
    }
}

/// An order with the time and the instance that gave it.
///
/// Its text is `TIME INSTANCE ORDER`, with the time in 20 digits, so that the order of texts is the order
/// of orders: at all instances, and in the script that Redis runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StampedOrder {
    text: Box<str>,
}

impl StampedOrder {
    pub(super) fn new(time: u64, instance: &str, order: Order) -> Self {
        Self {
            text: format!("{time:020} {instance} {order}").into(),
        }
    }

    /// Returns `None` if it is no order.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (time, rest) = text.split_once(' ')?;
        let is_time = time.len() == TIME_DIGITS && time.bytes().all(|b| b.is_ascii_digit());
        let (instance, order) = rest.split_once(' ')?;
        let is_stamp = is_time && time.parse::<u64>().is_ok() && !instance.is_empty();
        let parsed = Self { text: text.into() };
        (is_stamp && parsed.order_in(order).is_some()).then_some(parsed)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn time(&self) -> u64 {
        let time = self.text.get(..TIME_DIGITS).unwrap_or_default();
        time.parse().unwrap_or_default()
    }

    pub(super) fn instance(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }

    /// Returns the order. Each text was checked, or written here.
    pub(super) fn order(&self) -> Order {
        let order = self.text.splitn(3, ' ').nth(2).unwrap_or_default();
        self.order_in(order).unwrap_or(Order::Ready)
    }

    fn order_in(&self, text: &str) -> Option<Order> {
        match text.split_once(' ') {
            None if text == "evacuated" => Some(Order::Evacuated),
            None if text == "maintenance" => Some(Order::Maintenance),
            None if text == "ready" => Some(Order::Ready),
            None if text == "restored" => Some(Order::Restored),
            Some(("drain", until)) => Some(Order::Drain {
                until: until.parse().ok()?,
            }),
            Some(("weight", weight)) => {
                let weight = weight.parse().ok()?;
                (weight <= MAX_WEIGHT).then_some(Order::Weight(weight))
            }
            _ => None,
        }
    }
}

const TIME_DIGITS: usize = 20;
/// As `Backend::new`.
const MAX_ID: usize = 128;
/// Three names, each as long as an id.
const MAX_LOCALITY: usize = 3 * MAX_ID + 2;
/// As `Backend::weight`.
const MAX_WEIGHT: u32 = 1_000;
/// A longer wait than this is as good as no deadline.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
