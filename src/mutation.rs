//! Mutations: deliberate faults in the code, each against one invariant, for the simulation to catch.
//! In tests only, and per thread: no other test notices.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A: a reconfigured backend is up, as in balancers that make a new member of the old one.
    ReconfigurationRevives,
    /// A: a reconfigured backend is no longer ejected.
    ReconfigurationReadmits,
    /// B: a pass leaves the count of failures as it is.
    FailuresAddUp,
    /// C: a check that another address made void is a failure.
    CancelledCheckCounts,
    /// D: one check at a time, so that all wait for one that hangs.
    ChecksTakeTurns,
    /// E: a response whose client went away is the backend's failure.
    HangUpCounts,
    /// F: an ejection may take the last usable backend.
    LastIsEjected,
    /// Each retry is granted, as where attempts alone bound them.
    RetriesAreFree,
}

thread_local! {
    static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    static LISTENER: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Returns true where this fault is switched on.
pub(crate) fn is(fault: Mutation) -> bool {
    ON.get() == Some(fault)
}

/// Switches a fault on, or all off.
pub(crate) fn set(fault: Option<Mutation>) {
    ON.set(fault);
}

/// Has `listener` called whenever a pool of this thread publishes a snapshot. It may read the
/// pool, and not change it.
pub(crate) fn listen(listener: Option<Rc<dyn Fn()>>) {
    LISTENER.set(listener);
}

/// Says that a snapshot was published.
pub(crate) fn published() {
    let listener = LISTENER.with_borrow(Clone::clone);
    if let Some(listener) = listener {
        listener();
    }
}
