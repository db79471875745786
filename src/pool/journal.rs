//! The log lines of a pool: one for each change that is not a check's result.
//!
//! The control path writes a line before the snapshot that shows the change, so that the lines stand
//! in the order of the changes, and before the lines that follow from them.
//!
//! `Supply` has three states so that each outage is one ERROR and one INFO, whatever takes the last
//! backend away and however often health changes meanwhile:
//!
//! ```text
//!          one is usable or held            none is
//! Empty ──────────────────────▶ Serves ──────────────▶ Out (ERROR)
//!                                  ▲                     │
//!                                  └── one is usable ────┘ (INFO)
//! ```
//!
//! A pool that begins empty is `Empty`, not `Out`: discovery may fill it within a moment, and an ERROR
//! at each start would train operators to ignore it.

use super::{Backend, Locality, Mode, Reason, Snapshot, control::Control, state::FULL};

/// What the log last said about usable backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Supply {
    /// Nothing: the pool has had no usable backend yet.
    #[default]
    Empty,
    /// An ERROR said that none is usable.
    Out,
    /// One is usable, or waits for its first check.
    Serves,
}

impl Supply {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        match snapshot.usable_by_health() + snapshot.held() {
            0 => Self::Empty,
            _ => Self::Serves,
        }
    }
}

impl Control {
    /// Logs when the last usable backend is gone, and when one is usable again.
    pub(super) fn note_supply(&mut self, next: &Snapshot) {
        let members = self.members.len();
        match (self.supply, Supply::of(next)) {
            (Supply::Serves, Supply::Empty) => {
                tracing::error!(
                    target: "evenkeel::pool",
                    members, "no backend is usable: new requests are answered with 503"
                );
                self.supply = Supply::Out;
            }
            // A backend that waits for its first check does not serve yet.
            (Supply::Out, Supply::Serves) if next.usable_by_health() > 0 => {
                let usable = next.usable_by_health();
                tracing::info!(
                    target: "evenkeel::pool",
                    usable, members, "a backend is usable again"
                );
                self.supply = Supply::Serves;
            }
            (Supply::Empty, supply) => self.supply = supply,
            (Supply::Out | Supply::Serves, _) => {}
        }
    }
}

/// The changes of membership of one call.
#[derive(Default)]
pub(super) struct Membership {
    lines: Vec<Line>,
}

enum Line {
    Changed(Backend, String),
    Joined(Backend),
    Left(Backend),
}

impl Membership {
    pub(super) fn joined(&mut self, backend: &Backend) {
        self.lines.push(Line::Joined(backend.clone()));
    }

    pub(super) fn left(&mut self, backend: &Backend) {
        self.lines.push(Line::Left(backend.clone()));
    }

    /// Adds the names of the changed settings, if any.
    pub(super) fn changed(&mut self, backend: &Backend, before: &Backend) {
        let changed = backend.differs_in(before);
        if !changed.is_empty() {
            let line = Line::Changed(backend.clone(), changed.join(", "));
            self.lines.push(line);
        }
    }

    /// Writes a line for each backend, or one for all if there are more than [`MOST_LINES`].
    pub(super) fn log(&self, members: usize) {
        // Discovery may bring thousands at once: one line then says how many.
        if self.lines.len() > MOST_LINES {
            let count = |is: fn(&Line) -> bool| self.lines.iter().filter(|line| is(line)).count();
            tracing::info!(
                target: "evenkeel::pool",
                joined = count(|line| matches!(line, Line::Joined(_))),
                left = count(|line| matches!(line, Line::Left(_))),
                changed = count(|line| matches!(line, Line::Changed(..))),
                members, "backends joined, left or changed"
            );
            return;
        }
        for line in &self.lines {
            match line {
                Line::Changed(backend, settings) => tracing::info!(
                    target: "evenkeel::pool",
                    backend = backend.id(), %settings, "the backend changed"
                ),
                Line::Joined(backend) => tracing::info!(
                    target: "evenkeel::pool",
                    backend = backend.id(), host = backend.host(), port = backend.port(), members,
                    "the backend joined"
                ),
                Line::Left(backend) => tracing::info!(
                    target: "evenkeel::pool",
                    backend = backend.id(), in_flight = backend.in_flight(), members,
                    "the backend left"
                ),
            }
        }
    }
}

/// Logs an operator's order for a backend.
///
/// `in_flight` is what an operator waits for next: a drain is over when it reaches 0.
pub(super) fn mode_changed(backend: &Backend, from: Mode, to: Mode) {
    let (id, from, in_flight) = (backend.id(), from.as_str(), backend.in_flight());
    match to {
        Mode::Draining { until } => {
            let deadline = until.saturating_duration_since(tokio::time::Instant::now());
            tracing::info!(
                target: "evenkeel::pool",
                backend = id, from, in_flight, ?deadline, "the backend drains"
            );
        }
        Mode::Maintenance => tracing::info!(
            target: "evenkeel::pool",
            backend = id, from, in_flight, "the backend is in maintenance"
        ),
        Mode::Ready => tracing::info!(
            target: "evenkeel::pool",
            backend = id, from, "the backend takes traffic again, as its health allows"
        ),
    }
}

/// Logs that a drain's deadline passed.
pub(super) fn drain_ended(backend: &Backend) {
    tracing::info!(
        target: "evenkeel::pool",
        backend = backend.id(), in_flight = backend.in_flight(),
        "the drain's deadline passed: sessions move"
    );
}

/// Logs an operator's order for a locality.
pub(super) fn evacuation_changed(locality: &Locality, backends: usize, evacuated: bool) {
    match evacuated {
        true => tracing::info!(
            target: "evenkeel::pool",
            %locality, backends, "the locality is evacuated"
        ),
        false => tracing::info!(
            target: "evenkeel::pool",
            %locality, backends, "the locality is restored"
        ),
    }
}

/// Logs when a backend begins or ceases to ask to be drained, and to be degraded. The capacity of a
/// degraded backend may change with each check, which is no line.
pub(super) fn capacity_changed(
    backend: &Backend,
    from: (u32, bool),
    to: (u32, bool),
    reason: &Reason,
) {
    let id = backend.id();
    match (from.1, to.1) {
        (false, true) => tracing::info!(
            target: "evenkeel::pool",
            backend = id, %reason, "the backend asks to be drained"
        ),
        (true, false) => tracing::info!(
            target: "evenkeel::pool",
            backend = id, %reason, "the backend does not ask to be drained any more"
        ),
        _ => {}
    }
    // Only at the beginning and the end: in between it may change with each check.
    let capacity = f64::from(to.0) / f64::from(FULL);
    match (from.0 == FULL, to.0 == FULL) {
        (true, false) => tracing::info!(
            target: "evenkeel::pool",
            backend = id, capacity, %reason, "the backend is degraded"
        ),
        (false, true) => tracing::info!(
            target: "evenkeel::pool",
            backend = id, capacity, %reason, "the backend is not degraded any more"
        ),
        _ => {}
    }
}

/// Logs an ejection.
pub(super) fn ejected(backend: &Backend, reason: &Reason, streak: u32) {
    tracing::warn!(
        target: "evenkeel::pool",
        backend = backend.id(), streak, code = reason.code, detail = &*reason.detail,
        "the backend is ejected: live traffic fails there"
    );
}

/// Logs the end of an ejection.
pub(super) fn readmitted(backend: &Backend, reason: &Reason) {
    tracing::info!(
        target: "evenkeel::pool",
        backend = backend.id(), code = reason.code, detail = &*reason.detail,
        after = ?backend.in_state_for(), "the backend is readmitted"
    );
}

/// An operator reads a handful of lines; a whole zone that joins at once is one line.
const MOST_LINES: usize = 16;
