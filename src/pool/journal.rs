//! What an operator reads of a pool: one line for each change that is not a check's result.
//!
//! Each line is written on the control path before the snapshot that shows the change, so that
//! the lines stand in the order in which things happened, and what follows from a change stands
//! behind it.

use super::{Backend, Locality, Mode, Reason, Snapshot, control::Control, state::FULL};

/// Whether the pool has a backend for new requests, as far as the log has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Supply {
    /// The pool had none yet, as it was empty.
    #[default]
    Empty,
    /// An ERROR said that there is none.
    Out,
    /// There is one, or one that waits for its first check.
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
    /// Says when the last usable backend is gone, and when there is one again.
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
            // One that waits for its first check is no news yet.
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

/// What one call changed of the membership.
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

    /// Notes which settings changed, if any did.
    pub(super) fn changed(&mut self, backend: &Backend, before: &Backend) {
        let changed = backend.differs_in(before);
        if !changed.is_empty() {
            let line = Line::Changed(backend.clone(), changed.join(", "));
            self.lines.push(line);
        }
    }

    /// Writes a line for each backend, or one for all where there are very many.
    pub(super) fn log(&self, members: usize) {
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

/// Says what an operator ordered.
pub(super) fn ordered(backend: &Backend, from: Mode, to: Mode) {
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

/// Says that a drain's deadline passed.
pub(super) fn drain_ended(backend: &Backend) {
    tracing::info!(
        target: "evenkeel::pool",
        backend = backend.id(), in_flight = backend.in_flight(),
        "the drain's deadline passed: sessions move"
    );
}

/// Says what an operator ordered for a place.
pub(super) fn relocated(place: &Locality, backends: usize, evacuated: bool) {
    match evacuated {
        true => tracing::info!(
            target: "evenkeel::pool",
            %place, backends, "the place is evacuated"
        ),
        false => tracing::info!(
            target: "evenkeel::pool",
            %place, backends, "the place is restored"
        ),
    }
}

/// Says that a backend asks to be drained or not any more, and that it is degraded or not any
/// more; how much of itself a degraded one offers may change with each check, and is no line.
pub(super) fn offers(backend: &Backend, from: (u32, bool), to: (u32, bool), reason: &Reason) {
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

/// Says that live traffic took a backend out.
pub(super) fn ejected(backend: &Backend, reason: &Reason, streak: u32) {
    tracing::warn!(
        target: "evenkeel::pool",
        backend = backend.id(), streak, code = reason.code, detail = &*reason.detail,
        "the backend is ejected: live traffic fails there"
    );
}

/// Says that an ejection is over.
pub(super) fn readmitted(backend: &Backend, reason: &Reason) {
    tracing::info!(
        target: "evenkeel::pool",
        backend = backend.id(), code = reason.code, detail = &*reason.detail,
        after = ?backend.in_state_for(), "the backend is readmitted"
    );
}

/// A list of a handful is read line by line; one of a whole zone is not.
const MOST_LINES: usize = 16;
