//! The trace of events in order; two runs of one seed must have the same trace.

use std::{
    fmt::{self, Write},
    hash::{DefaultHasher, Hash, Hasher},
};

/// One line of a trace: when, in milliseconds, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) at: u64,
    pub(super) what: What,
}

/// What happened. Backends go by their id and the number of their membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// A step of the schedule, by its index.
    Step(usize),
    CheckBegan {
        id: u8,
        port: u16,
    },
    CheckPassed {
        id: u8,
    },
    CheckFailed {
        id: u8,
    },
    CheckDropped {
        id: u8,
    },
    Active {
        id: u8,
        from: &'static str,
        to: &'static str,
    },
    Ejected {
        id: u8,
    },
    Readmitted {
        id: u8,
    },
    Published {
        usable: usize,
        held: usize,
    },
    Sent {
        request: usize,
        id: u8,
        port: u16,
    },
    Answered {
        request: usize,
        id: u8,
        how: &'static str,
    },
    Dropped {
        request: usize,
        id: u8,
        why: &'static str,
    },
    Over {
        request: usize,
        how: &'static str,
    },
}

#[derive(Default)]
pub(super) struct Trace {
    lines: Vec<Line>,
    /// While a runtime ends, in an order that is not its seed's.
    pub(super) muted: bool,
}

impl Trace {
    pub(super) fn push(&mut self, at: u64, what: What) {
        if !self.muted {
            self.lines.push(Line { at, what });
        }
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(super) fn holds(&self, what: What) -> bool {
        self.lines.iter().any(|line| line.what == what)
    }

    /// Returns a number that stands for the whole; the same in every process.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines.hash(&mut hasher);
        hasher.finish()
    }

    /// Shows the last lines.
    pub(super) fn tail(&self, lines: usize) -> String {
        let from = self.lines.len().saturating_sub(lines);
        self.lines[from..]
            .iter()
            .fold(String::new(), |mut text, line| {
                let _ = writeln!(text, "{line}");
                text
            })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} ms  {:?}", self.at, self.what)
    }
}
