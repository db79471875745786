//! What the other instances know of the backends' health, as a hint for an instance that starts.
//!
//! A hint never admits a backend (invariant A): that others found it healthy says nothing about the way
//! from here to it. That they found it unhealthy keeps it out until its checks pass here.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{frame, order::Now};
use crate::{
    error::BoxError,
    pool::{BackendHealth, HealthSnapshot},
    store::MAX_VALUE,
};

/// What one instance measured.
#[derive(Serialize, Deserialize)]
struct Report {
    /// In milliseconds since 1970.
    written: u64,
    health: HealthSnapshot,
}

/// Returns the report of this instance for the store.
pub(super) fn encode(health: HealthSnapshot, now: Now) -> Result<Vec<u8>, BoxError> {
    let report = Report {
        written: now.wall,
        health,
    };
    let text = serde_json::to_vec(&report)?;
    match text.len() > MAX_VALUE {
        true => Err(format!("{} bytes of health; {MAX_VALUE} are accepted", text.len()).into()),
        false => Ok(frame::encode(&text)),
    }
}

/// The reports that the store has.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Those that are new enough to say something.
    pub(super) fresh: Vec<HealthSnapshot>,
    /// The instances whose last report is so old that they are gone.
    pub(super) gone: Vec<Vec<u8>>,
    /// The instances whose report cannot be read, and why.
    pub(super) refused: Vec<(String, String)>,
}

/// Reads the reports. That of this instance is one of an earlier process, and as good as any other.
pub(super) fn read(stored: Vec<(Vec<u8>, Vec<u8>)>, now: Now) -> Reports {
    let mut reports = Reports::default();
    for (instance, framed) in stored {
        let read = frame::decode(framed).map_err(BoxError::from);
        let report = read.and_then(|text: Bytes| Ok(serde_json::from_slice::<Report>(&text)?));
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                let name = String::from_utf8_lossy(&instance).into_owned();
                reports.refused.push((name, error.to_string()));
                continue;
            }
        };
        match now.wall.saturating_sub(report.written) {
            age if age > GONE => reports.gone.push(instance),
            age if age > FRESH => {}
            // Of a clock that is ahead: it would count for that long after its instance is gone.
            _ if report.written > now.wall.saturating_add(FRESH) => {}
            _ => reports.fresh.push(report.health),
        }
    }
    reports
}

/// Returns the backends that more than half of the instances which measured them found unhealthy, and no
/// other: one instance that reaches no backend must not keep them all out of another.
pub(super) fn unhealthy(reports: Vec<HealthSnapshot>) -> HealthSnapshot {
    let mut votes: BTreeMap<(String, String), (u32, u32)> = BTreeMap::new();
    for backend in reports.into_iter().flat_map(|report| report.backends) {
        let (up, down) = votes.entry((backend.id, backend.address)).or_default();
        match backend.healthy {
            true => *up += 1,
            false => *down += 1,
        }
    }
    let unhealthy = votes.into_iter().filter(|(_, (up, down))| down > up);
    let records = unhealthy.map(|((id, address), _)| BackendHealth {
        id,
        address,
        healthy: false,
        for_ms: 0,
        capacity: 1.0,
        draining: false,
        flaps: 0,
    });
    HealthSnapshot {
        backends: records.collect(),
    }
}

/// How often an instance reports its health, in milliseconds.
pub(super) const REFRESH: u64 = 10_000;
/// Three reports may be late.
pub(super) const FRESH: u64 = 30_000;
const GONE: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn health(backends: &[(&str, &str, bool)]) -> HealthSnapshot {
        let record = |(id, address, healthy): &(&str, &str, bool)| BackendHealth {
            id: (*id).to_owned(),
            address: (*address).to_owned(),
            healthy: *healthy,
            for_ms: 7,
            capacity: 0.5,
            draining: true,
            flaps: 3,
        };
        HealthSnapshot {
            backends: backends.iter().map(record).collect(),
        }
    }

    fn at(wall: u64) -> Now {
        let instant = Instant::now();
        Now { instant, wall }
    }

    #[test]
    fn a_majority_of_those_that_measured_a_backend_decides() {
        let reports = vec![
            health(&[("a", "1", false), ("b", "1", false), ("c", "1", true)]),
            health(&[("a", "1", false), ("b", "1", true), ("d", "2", false)]),
            health(&[("a", "1", true), ("d", "1", true)]),
        ];
        let down = unhealthy(reports);
        let found: Vec<_> = down
            .backends
            .iter()
            .map(|b| (&*b.id, &*b.address))
            .collect();
        assert_eq!(found, [("a", "1"), ("d", "2")], "b is even, c is up");
        assert!(
            down.backends
                .iter()
                .all(|b| !b.healthy && !b.draining && b.capacity == 1.0)
        );
        assert!(unhealthy(Vec::new()).backends.is_empty());
    }

    #[test]
    fn old_and_unreadable_reports_say_nothing() {
        let report = encode(health(&[("a", "1", false)]), at(1_000)).unwrap();
        let of = |name: &str, framed: &[u8]| (name.as_bytes().to_vec(), framed.to_vec());
        let stored = || {
            vec![
                of("lb-1", &report),
                of("lb-2", b"garbage"),
                of("lb-3", &frame::encode(b"{")),
            ]
        };
        let now = read(stored(), at(1_000 + FRESH));
        assert_eq!(
            (now.fresh.len(), now.gone.len(), now.refused.len()),
            (1, 0, 2)
        );
        assert!(!now.fresh[0].backends[0].healthy);
        let old = read(stored(), at(1_001 + FRESH));
        assert_eq!((old.fresh.len(), old.gone.len()), (0, 0));
        let gone = read(stored(), at(1_001 + GONE));
        assert_eq!(gone.gone, [b"lb-1".to_vec()]);
    }
}
