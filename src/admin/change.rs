//! What changed of late.
//!
//! The page shows changes of all backends as one list, but each backend remembers its own (16): a
//! backend that flaps cannot crowd out those of the others. Backends that left took their history
//! along, so that `Removed` is in no list.

use std::cmp::Reverse;

use serde::Serialize;

use super::{
    status::ReasonStatus,
    time::{Clocks, Moment},
};
use crate::pool::{Backend, EventKind, PastEvent};

/// A change of one backend in the past.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    pub(super) time: Moment,
    pub(super) backend: String,
    pub(super) kind: &'static str,
    pub(super) from: Option<&'static str>,
    pub(super) to: String,
    pub(super) reason: Option<ReasonStatus>,
}

/// Returns the latest changes of all members, the latest first.
pub(super) fn changes(members: &[Backend], clocks: &Clocks) -> Vec<Change> {
    let events = members.iter().flat_map(|backend| {
        let events = backend.past_events();
        events.into_iter().map(move |event| (backend, event))
    });
    let mut events: Vec<_> = events.collect();
    events.sort_by_key(|(_, event)| Reverse(event.at));
    // Filtered after the sort and before the count, so that kinds which are not shown take no place.
    let latest = events
        .into_iter()
        .filter_map(|(b, event)| change(b, &event, clocks));
    latest.take(CHANGES).collect()
}

fn change(backend: &Backend, event: &PastEvent, clocks: &Clocks) -> Option<Change> {
    let (kind, from, to, reason) = match &event.kind {
        EventKind::Added => ("membership", None, "joined".into(), None),
        EventKind::Updated => ("membership", None, "reconfigured".into(), None),
        EventKind::Health(change) => {
            let reason = ReasonStatus::of(&change.reason, change.source);
            let (from, to) = (change.from.as_str(), change.to.as_str());
            ("health", Some(from), to.into(), Some(reason))
        }
        EventKind::Mode { from, to } => ("mode", Some(from.as_str()), to.as_str().into(), None),
        EventKind::Evacuated(true) => ("evacuation", None, "evacuated".into(), None),
        EventKind::Evacuated(false) => ("evacuation", None, "restored".into(), None),
        EventKind::SharedFailure(Some(dependency)) => (
            "shared_failure",
            None,
            format!("{dependency} fails everywhere"),
            None,
        ),
        EventKind::SharedFailure(None) => ("shared_failure", None, "over".into(), None),
        // A history has none of the first two, and the third is in that of a backend that is no
        // member.
        EventKind::Capacity { .. } | EventKind::Circuit { .. } | EventKind::Removed => return None,
    };
    Some(Change {
        time: clocks.moment(event.at),
        backend: backend.id().to_owned(),
        kind,
        from,
        to,
        reason,
    })
}

/// As many as a person reads in a glance and a half; each backend keeps 16.
const CHANGES: usize = 40;
