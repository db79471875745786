//! Requests that are bound to a backend: by a sticky cookie, by the move of a session, or as the
//! trial of a half-open circuit.
//!
//! The verdicts of a request with a cookie, by the state of the backend that it names:
//!
//! | the backend | verdict | where the request goes |
//! |---|---|---|
//! | usable, below its cap | `valid` | there |
//! | draining, its deadline not over | `draining` | there |
//! | usable, at its cap | `over_capacity` | where the strategy says |
//! | out, or tried and failed | `down` | where the connection's hash or the strategy says |
//! | tried, the attempt still running (a hedge) | as before | where the strategy says |
//! | no member of this pool | none | where the strategy says |
//!
//! Each row is a line of `the_backend_asked_for_gets_the_request_if_it_can` in `tests/it/balance.rs`,
//! or of its neighbours. What the cookie of the response then is, `sticky` decides by the verdict.

use std::net::IpAddr;

use super::{
    pick::{Pick, below},
    xxh64::xxh64,
};
use crate::{
    context::{AffinityState, ConnInfo, StickyVerdict},
    pool::{Backend, Group, Lease, Mode, Snapshot},
};

/// Takes the slot of a trial, if the request asks for no other backend. The trial may fail, so it is
/// for requests that can be repeated at another backend and were not tried yet.
///
/// A circuit has one slot for trials ([`Lease::acquire_trial`]), so one request at a time is the
/// trial, however many arrive. Cold, as a pool without half-open circuits never calls it.
#[cold]
pub(super) fn take_trial(trials: &[Backend], wanted: Option<&AffinityState>) -> Option<Lease> {
    let asked = match wanted {
        None => None,
        Some(AffinityState::Untried(asked)) => Some(asked),
        // The caller lets no retry be a trial; a hedge of a session stays away as well.
        Some(AffinityState::Running | AffinityState::Tried) => return None,
    };
    let mut fit = trials
        .iter()
        .filter(|trial| asked.is_none_or(|asked| asked.is_same(trial)));
    fit.find_map(Lease::acquire_trial)
}

/// Takes a slot of the backend that the cookie asks for, or returns the verdict why another must be
/// picked. A backend of another pool gets no verdict.
pub(super) fn honour_affinity(
    wanted: AffinityState,
    snapshot: &Snapshot,
) -> (Option<Lease>, Option<StickyVerdict>) {
    let asked = match wanted {
        // A hedge: the first attempt may yet succeed, so the verdict stays.
        AffinityState::Running => return (None, None),
        AffinityState::Tried => return (None, Some(StickyVerdict::Down)),
        AffinityState::Untried(asked) => asked,
    };
    // `is_same` compares incarnations: a cookie of a backend that was removed and added again under
    // its id names the former one.
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

/// Sessions stay at a backend that takes no new ones while it drains by an operator's order or by its
/// own wish (a check that says so). A backend of weight 0 keeps its sessions as well; the verdict is
/// the same as if it were usable. The caller has asked [`Backend::keeps_sessions`] before.
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

/// Takes a slot for a session whose backend is out, by a hash of its connection: the requests that a
/// browser sends at once move to one backend, and all set the same cookie. Returns `None`, so that
/// the strategy picks, if the connection is unknown or the backend is too busy (many clients may
/// share one connection of another proxy).
#[cold]
pub(super) fn move_session(snapshot: &Snapshot, pick: &Pick<'_>) -> Option<Lease> {
    let conn = ConnInfo::of(pick.extensions())?;
    let key = match conn.forwarded_client() {
        // One connection of another proxy carries the requests of many clients.
        Some(IpAddr::V4(client)) => xxh64(&client.octets(), 0),
        Some(IpAddr::V6(client)) => xxh64(&client.octets(), 0),
        None => xxh64(&conn.number().to_le_bytes(), 0),
    };
    // Independent of the bits that pick the first candidate.
    let group = snapshot.groups().get(snapshot.draw_group(|| key as u32))?;
    pick.take(home(key, group, pick)?)
}

/// Finds the backend of the highest score among some that have room, by weighted rendezvous
/// hashing: where one leaves, only its own keys move.
fn home<'a>(key: u64, group: &'a Group, pick: &Pick<'_>) -> Option<&'a Backend> {
    let first = below((key >> 32) as u32, group.backends().len());
    let candidates = || {
        let all = group.backends().iter().zip(group.weights());
        let looks = group.backends().len().min(CANDIDATES);
        all.cycle().skip(first).take(looks)
    };
    let (in_flight, weights) = candidates().fold((0, 0), |(loads, weights), (backend, weight)| {
        let load = u64::from(backend.in_flight());
        (loads + load, weights + u64::from(*weight))
    });
    // load / weight ≤ 1.25 × in_flight / weights, multiplied out to do without a division.
    let fits = |backend: &Backend, weight: u32| {
        let load = u64::from(backend.in_flight()).saturating_sub(PER_CLIENT);
        // At most 1.25 times its share of what is in flight, beside what one client sends at once.
        load * weights * 4 <= in_flight * u64::from(weight) * 5
    };
    let score = |backend: &Backend, weight: u32| {
        let hash = xxh64(&backend.incarnation().to_le_bytes(), key);
        // 53 bits, as a number over 0 and at most 1.
        let drawn = ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        // Weighted rendezvous hashing: the highest of weight / -ln(u) falls to each backend in
        // proportion to its weight, and no other backend's score depends on it.
        f64::from(weight) / -drawn.ln()
    };
    candidates()
        .filter(|(backend, weight)| pick.has_room(backend) && fits(backend, **weight))
        .map(|(backend, &weight)| (score(backend, weight), backend))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, backend)| backend)
}

/// Enough to spread the sessions of one backend over many. A look at all of them costs about 2 µs.
const CANDIDATES: usize = 64;
/// Requests that one client sends at once: six connections of a browser, and its workers.
const PER_CLIENT: u64 = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::Request;

    use super::*;
    use crate::{context::Peer, pool::Pool};

    fn pool(weights: &[u32]) -> Pool {
        let backends = weights.iter().enumerate().map(|(nth, &weight)| {
            let backend = Backend::new(nth.to_string(), "http://127.0.0.1:1").unwrap();
            backend.weight(weight).unwrap()
        });
        Pool::new(backends).unwrap()
    }

    fn of_new_connection() -> Request<()> {
        let mut request = Request::new(());
        let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
        request.extensions_mut().insert(conn);
        request
    }

    fn homes(pool: &Pool, requests: &[Request<()>]) -> Vec<String> {
        let homes = requests.iter().map(|request| {
            let lease = move_session(&pool.snapshot(), &Pick::new(request));
            lease.unwrap().backend().id().to_owned()
        });
        homes.collect()
    }

    #[test]
    fn a_connection_always_moves_to_one_backend_and_connections_spread_by_weight() {
        for weights in [&[1, 1, 1][..], &[1, 2, 5], &[1; 200]] {
            let pool = pool(weights);
            let requests: Vec<_> = (0..5_000).map(|_| of_new_connection()).collect();
            let first = homes(&pool, &requests);
            assert_eq!(first, homes(&pool, &requests), "each time the same");
            let mut counts = HashMap::<_, u32>::new();
            first
                .iter()
                .for_each(|id| *counts.entry(id).or_default() += 1);
            let total: u32 = weights.iter().sum();
            for (nth, &weight) in weights.iter().enumerate() {
                let ideal = 5_000.0 * f64::from(weight) / f64::from(total);
                let got = f64::from(counts.get(&nth.to_string()).copied().unwrap_or(0));
                assert!(
                    (got - ideal).abs() < 5.0 * ideal.sqrt(),
                    "{nth}: {got} of {ideal}"
                );
            }
        }
    }

    #[test]
    fn clients_behind_one_proxy_connection_move_to_backends_of_their_own() {
        let pool = pool(&[1; 3]);
        let through = of_new_connection();
        let homes_of = |nth: u8| {
            let mut request = through.clone();
            let conn = ConnInfo::of_mut(request.extensions_mut()).unwrap();
            conn.set_forwarded_client([203, 0, 113, nth].into());
            homes(&pool, &[request])
        };
        let first: Vec<_> = (0..60).map(homes_of).collect();
        assert_eq!(first, (0..60).map(homes_of).collect::<Vec<_>>());
        let at_first = first.iter().filter(|home| **home == first[0]).count();
        assert!((10..30).contains(&at_first), "{at_first} of 60 at one");
    }

    #[test]
    fn when_a_backend_leaves_only_its_sessions_move() {
        let pool = pool(&[1; 5]);
        let requests: Vec<_> = (0..500).map(|_| of_new_connection()).collect();
        let before = homes(&pool, &requests);
        pool.start_maintenance("3").unwrap();
        for (old, new) in before.iter().zip(homes(&pool, &requests)) {
            assert!(*old == new || (old == "3" && new != "3"), "{old} to {new}");
        }
    }

    #[test]
    fn tried_full_and_busy_backends_get_no_moved_session() {
        let pool = pool(&[1; 3]);
        let request = of_new_connection();
        let find = |tried: &[u64]| {
            let pick = Pick::new(&request).excluding(tried);
            move_session(&pool.snapshot(), &pick)
        };
        let first = find(&[]).unwrap();
        let second = find(&[first.backend().incarnation()]).unwrap();
        assert_ne!(first.backend().id(), second.backend().id());
        drop(second);
        let home = first.backend().clone();
        let mut leases: Vec<Lease> = (1..PER_CLIENT).map(|_| find(&[]).unwrap()).collect();
        let stays = leases.iter().all(|lease| lease.backend().is_same(&home));
        assert!(stays, "what one client sends at once");
        leases.extend((0..100).map(|_| find(&[]).unwrap()));
        let mean = (leases.len() + 1) as f64 / 3.0;
        let most = mean * 1.25 + PER_CLIENT as f64 + 1.0;
        assert!(f64::from(home.in_flight()) <= most, "{}", home.in_flight());
    }

    #[test]
    fn without_connection_info_no_session_moves_by_hash() {
        let request = Request::new(());
        assert!(move_session(&pool(&[1, 1]).snapshot(), &Pick::new(&request)).is_none());
    }
}
