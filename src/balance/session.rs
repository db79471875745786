//! What binds a request to a backend: a cookie, or a circuit that wants a trial.

use crate::{
    context::{StickyVerdict, Wanted},
    pool::{Backend, Lease, Mode, Snapshot},
};

/// Takes the place of a trial, where no other backend is asked for. For requests that can be
/// repeated elsewhere and were not tried yet: the trial may fail.
#[cold]
pub(super) fn try_half_open(trials: &[Backend], wanted: Option<&Wanted>) -> Option<Lease> {
    let asked = match wanted {
        None => None,
        Some(Wanted::Untried(asked)) => Some(asked),
        Some(Wanted::Running | Wanted::Tried) => return None,
    };
    let mut fit = trials
        .iter()
        .filter(|trial| asked.is_none_or(|asked| asked.is_same(trial)));
    fit.find_map(Lease::acquire_trial)
}

/// Takes a slot of the backend asked for, or says why another must be picked. A backend that is
/// not of this pool is somebody else's business.
pub(super) fn settle(
    wanted: Wanted,
    snapshot: &Snapshot,
) -> (Option<Lease>, Option<StickyVerdict>) {
    let asked = match wanted {
        // Beside an attempt that may yet succeed, the verdict stays as it is.
        Wanted::Running => return (None, None),
        Wanted::Tried => return (None, Some(StickyVerdict::Down)),
        Wanted::Untried(asked) => asked,
    };
    let Some(member) = snapshot.get(asked.id()).filter(|b| b.is_same(&asked)) else {
        return (None, None);
    };
    if !member.keeps_sessions() {
        return (None, Some(StickyVerdict::Down));
    }
    match Lease::acquire(member) {
        Some(lease) => (Some(lease), Some(kept(member))),
        None => (None, Some(StickyVerdict::OverCapacity)),
    }
}

fn kept(member: &Backend) -> StickyVerdict {
    if member.is_usable() {
        return StickyVerdict::Valid;
    }
    match member.mode() {
        Mode::Draining { .. } => StickyVerdict::Draining,
        Mode::Maintenance | Mode::Ready if member.asks_to_drain() => StickyVerdict::Draining,
        Mode::Maintenance | Mode::Ready => StickyVerdict::Valid,
    }
}
