//! The orders of an operator: what a request asks for, and what it does to the pool.
//!
//! `Action` is what the path says, `Order` what the fields complete it to; only an order that is
//! complete and in range exists as a value, so that `apply` can fail for one reason alone: no member
//! has the id.

use std::{fmt, time::Duration};

use super::fields::{BadBody, Fields};
use crate::pool::Pool;

/// What the last segment of a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Drain,
    Maintenance,
    Ready,
    Weight,
}

impl Action {
    pub(super) fn parse(segment: &str) -> Option<Self> {
        Some(match segment {
            "drain" => Self::Drain,
            "maintenance" => Self::Maintenance,
            "ready" => Self::Ready,
            "weight" => Self::Weight,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
            Self::Ready => "ready",
            Self::Weight => "weight",
        }
    }

    /// Makes an order of the fields of the body.
    pub(super) fn order(self, fields: Fields) -> Result<Order, BadBody> {
        Ok(match self {
            Self::Drain => {
                let deadline = fields.only(Some(DEADLINE))?;
                let deadline = deadline.as_deref().map(parse_deadline).transpose()?;
                Order::Drain(deadline.unwrap_or(DEFAULT_DEADLINE))
            }
            Self::Maintenance => fields.only(None).map(|_| Order::Maintenance)?,
            Self::Ready => fields.only(None).map(|_| Order::Ready)?,
            Self::Weight => {
                let weight = fields.only(Some(WEIGHT))?;
                let weight =
                    weight.ok_or_else(|| BadBody::field(WEIGHT, "the field is missing"))?;
                Order::Weight(parse_weight(&weight)?)
            }
        })
    }
}

/// An order for one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Drain(Duration),
    Maintenance,
    Ready,
    Weight(u32),
}

/// No member has the id.
#[derive(Debug)]
pub(super) struct UnknownId;

impl Order {
    /// Carries out the order.
    pub(super) fn apply(self, pool: &Pool, id: &str) -> Result<(), UnknownId> {
        let done = match self {
            // The drain goes on without its future.
            Self::Drain(deadline) => pool.drain(id, deadline).is_ok(),
            Self::Maintenance => pool.start_maintenance(id).is_ok(),
            Self::Ready => pool.mark_ready(id).is_ok(),
            // The weight is in range: only the id can be wrong.
            Self::Weight(weight) => pool.update_weight(id, weight).is_ok(),
        };
        match done {
            true => Ok(()),
            false => Err(UnknownId),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(deadline) => write!(f, "drain within {} s", deadline.as_secs()),
            Self::Maintenance => f.write_str("maintenance"),
            Self::Ready => f.write_str("ready"),
            Self::Weight(weight) => write!(f, "weight {weight}"),
        }
    }
}

/// Parses whole seconds, minutes or hours; a bare number is seconds.
///
/// A bare number is accepted here, unlike in settings, where each duration has its unit.
fn parse_deadline(text: &str) -> Result<Duration, BadBody> {
    let refused = || {
        let message = format!(
            "{text:?}: 0 s to 7 days is accepted, as seconds or as in \"90s\", \"5m\", \"1h\""
        );
        BadBody::field(DEADLINE, message)
    };
    // Digits alone: a sign or a fraction is in the rest, which is no unit.
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(refused()),
    };
    let number: u64 = number.parse().ok().ok_or_else(refused)?;
    let seconds = number.checked_mul(factor).ok_or_else(refused)?;
    match Duration::from_secs(seconds) {
        deadline if deadline <= MAX_DEADLINE => Ok(deadline),
        _ => Err(refused()),
    }
}

fn parse_weight(text: &str) -> Result<u32, BadBody> {
    let refused = || BadBody::field(WEIGHT, format!("{text:?}: 0 to {MAX_WEIGHT} is accepted"));
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let weight = text
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(refused)?;
    match weight {
        0..=MAX_WEIGHT => Ok(weight),
        _ => Err(refused()),
    }
}

const DEADLINE: &str = "deadline";
const WEIGHT: &str = "weight";
/// The pool's own default for sticky sessions.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);
/// Longer than a browser session; a mistyped unit is still noticed.
const MAX_DEADLINE: Duration = Duration::from_secs(7 * 86_400);
/// That of `Backend::weight`.
const MAX_WEIGHT: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::{super::fields::Format, *};
    use crate::pool::Backend;

    fn order(action: &str, form: &str) -> Result<Order, BadBody> {
        let fields = Fields::parse(Format::Form, form.as_bytes())?;
        Action::parse(action).unwrap().order(fields)
    }

    #[test]
    fn orders_are_read_with_their_bounds() {
        let drain = |seconds| Ok(Order::Drain(Duration::from_secs(seconds)));
        for (action, form, wanted) in [
            ("drain", "", drain(300)),
            ("drain", "deadline=90", drain(90)),
            ("drain", "deadline=90s", drain(90)),
            ("drain", "deadline=5m", drain(300)),
            ("drain", "deadline=168h", drain(604_800)),
            ("drain", "deadline=0", drain(0)),
            ("maintenance", "", Ok(Order::Maintenance)),
            ("ready", "", Ok(Order::Ready)),
            ("weight", "weight=0", Ok(Order::Weight(0))),
            ("weight", "weight=1000", Ok(Order::Weight(1_000))),
        ] {
            assert_eq!(order(action, form), wanted, "{action} {form}");
        }
        for (action, form, named) in [
            ("drain", "deadline=169h", "deadline"),
            ("drain", "deadline=5d", "deadline"),
            ("drain", "deadline=-1", "deadline"),
            ("drain", "deadline=", "deadline"),
            ("drain", "deadline=99999999999999999999", "deadline"),
            ("drain", "deadline=9999999999999999h", "deadline"),
            ("drain", "weight=1", "weight"),
            ("ready", "deadline=5m", "deadline"),
            ("weight", "", "weight"),
            ("weight", "weight=1001", "weight"),
            ("weight", "weight=%2B5", "weight"),
            ("weight", "weight=1.5", "weight"),
            ("weight", "weight=4294967297", "weight"),
        ] {
            match order(action, form) {
                Err(BadBody::Field { name, .. }) => assert_eq!(name, named, "{action} {form}"),
                other => panic!("{action} {form}: {other:?}"),
            }
        }
        assert_eq!(Action::parse("remove"), None);
    }

    #[test]
    fn the_greatest_weight_is_that_of_a_backend() {
        let backend = || Backend::new("a", "http://a").unwrap();
        assert!(backend().weight(MAX_WEIGHT).is_ok());
        assert!(backend().weight(MAX_WEIGHT + 1).is_err());
    }
}
