//! [`Visitor`]: a reader of all series, and what it gets of each.

use std::time::Duration;

use crate::stats::HistogramSnapshot;

/// Reads series, one family after the other: the writer of the exposition formats is one, and a bridge
/// to another library of metrics is another; see [the module's example](super#a-bridge-to-another-library).
pub trait Visitor {
    /// Begins a family: the samples that follow belong to it. A family is begun once.
    fn family(&mut self, family: &Family<'_>);

    /// Takes a sample of the family that was begun last. No two samples of a family have equal labels.
    fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>);
}

/// Series with one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Family<'a> {
    /// The name, with the unit and without the ending that the kind adds: `_total` of a counter, `_info`
    /// of an info.
    pub name: &'a str,
    /// One sentence that says what it means.
    pub help: &'a str,
    /// The kind of its values.
    pub kind: Kind,
    /// The unit, which the name ends in, such as `seconds`; `None` for a number of things.
    pub unit: Option<&'a str>,
}

impl<'a> Family<'a> {
    /// Makes a family of counters. `name` has no `_total`.
    #[must_use]
    pub const fn counter(name: &'a str, help: &'a str) -> Self {
        Self::new(Kind::Counter, name, help)
    }

    /// Makes a family of gauges.
    #[must_use]
    pub const fn gauge(name: &'a str, help: &'a str) -> Self {
        Self::new(Kind::Gauge, name, help)
    }

    /// Makes a family of histograms.
    #[must_use]
    pub const fn histogram(name: &'a str, help: &'a str) -> Self {
        Self::new(Kind::Histogram, name, help)
    }

    /// Makes a family of facts: all is in the labels, and the value is 1. `name` has no `_info`.
    #[must_use]
    pub const fn info(name: &'a str, help: &'a str) -> Self {
        Self::new(Kind::Info, name, help)
    }

    /// Makes a family of summaries: a number of durations, and their sum.
    #[must_use]
    pub const fn summary(name: &'a str, help: &'a str) -> Self {
        Self::new(Kind::Summary, name, help)
    }

    /// Sets the unit. The name must end in it.
    #[must_use]
    pub const fn unit(mut self, unit: &'a str) -> Self {
        self.unit = Some(unit);
        self
    }

    const fn new(kind: Kind, name: &'a str, help: &'a str) -> Self {
        Self {
            name,
            help,
            kind,
            unit: None,
        }
    }

    /// Returns the ending that the kind adds to the name.
    #[must_use]
    pub const fn ending(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram | Kind::Summary => "",
        }
    }
}

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number that grows, and begins at 0 when the process or the backend begins.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// A fact in labels.
    Info,
    /// A number of durations, and their sum.
    Summary,
}

/// A value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Of a counter: the number since it began.
    Counter(u64),
    /// Of a gauge, and 1 of an info.
    Gauge(f64),
    /// Of a histogram.
    Histogram(&'a HistogramSnapshot),
    /// Of a summary.
    Summary {
        /// The number of durations.
        count: u64,
        /// Their sum.
        sum: Duration,
    },
}
