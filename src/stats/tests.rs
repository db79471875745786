//! Tests of what is recorded, through the handle.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use http::StatusCode;
use proptest::prelude::*;
use tokio::time;

use super::{
    HistogramSnapshot, Stats,
    backend::AttemptKind,
    certificates::CertificateRegistry,
    listener::OTHER,
    shard::{Counter, OWNERS, Sharded, Writer},
};
use crate::{
    context::{
        ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Ended, Exchange,
        HandshakeFailure, Outcome, Peer, RequestOutcome, StickyVerdict, TlsInfo,
    },
    error::ErrorKind,
    pool::{Backend, Pool},
};

fn stats(ids: &[&str]) -> Stats {
    let backends = ids
        .iter()
        .map(|id| Backend::new(*id, "http://127.0.0.1:1").unwrap());
    Stats::new(Pool::new(backends).unwrap())
}

fn backend(stats: &Stats, at: usize) -> Backend {
    stats.pool().snapshot().backends()[at].clone()
}

/// Records a request with these attempts, which end before the next begins.
fn record(stats: &Stats, attempts: &[(usize, Outcome)], ended: Ended, status: Option<u16>) {
    let exchange = Exchange::new();
    let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
    for (at, outcome) in attempts {
        let number = exchange.begin_attempt(backend(stats, *at));
        exchange.end_attempt(number, *outcome);
    }
    if let Some(status) = status {
        recording.status(StatusCode::from_u16(status).unwrap());
        recording.head();
    }
    match ended {
        Ended::Dropped => drop(recording),
        ended => recording.end(ended),
    }
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let bounds = HistogramSnapshot::BOUNDS.map(|bound| format!("{bound:?}"));
    // As people write them.
    let bounds = bounds.map(|bound| bound.replace("µs", " µs").replace("ms", " ms"));
    let bounds = bounds.map(|bound| match bound.strip_suffix('s') {
        Some(seconds) if seconds.ends_with(|c: char| c.is_ascii_digit()) => format!("{seconds} s"),
        _ => bound,
    });
    let days = |time: Duration| format!("{} days before its end", time.as_secs() / 86_400);
    let compared = [
        ("buckets of histograms", bounds.join(", ")),
        ("listeners with a name of their own", OTHER.to_string()),
        ("threads with counters of their own", OWNERS.to_string()),
        (
            "a certificate is worth a warning",
            days(CertificateRegistry::WARN_BEFORE),
        ),
        (
            "a certificate is an error",
            days(CertificateRegistry::ERROR_BEFORE),
        ),
    ];
    crate::default_table::compare(include_str!("mod.rs"), &compared);
}

#[test]
fn a_retried_request_belongs_to_the_backend_that_answered() {
    let stats = stats(&["a", "b"]);
    let refused = Outcome::Failed(ErrorKind::Connect);
    record(
        &stats,
        &[(0, refused), (1, Outcome::Ok)],
        Ended::Whole,
        Some(200),
    );
    let snapshot = stats.snapshot();
    let [a, b] = &snapshot.backends[..] else {
        panic!("two backends")
    };
    assert_eq!((a.requests(), b.requests()), (0, 1));
    assert_eq!(a.attempts, [("connect", 1)]);
    assert_eq!(b.attempts, [("ok", 1)]);
    assert_eq!((a.retries, b.retries, b.hedges), (0, 1, 0));
    assert_eq!(b.statuses, [0, 0, 1, 0, 0, 0]);
    assert_eq!(b.outcomes, [("ok", 1)]);
    assert_eq!((b.duration.count(), b.time_to_first_byte.count()), (1, 1));
    assert_eq!(a.duration.count(), 0);
    let listener = &snapshot.listeners[0];
    assert_eq!(listener.name, "unknown");
    assert_eq!(
        (listener.accepted, listener.in_flight, listener.ended()),
        (1, 0, 1)
    );
    assert_eq!(listener.outcomes, [("ok", 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_ends_in_the_poll_of_the_last_frame_ends_the_request() {
    for (in_the_poll, wanted) in [(true, 10), (false, 100)] {
        let stats = stats(&["a"]);
        let exchange = Exchange::new();
        let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
        let number = exchange.begin_attempt(backend(&stats, 0));
        recording.status(StatusCode::OK);
        recording.head();
        let before = recording.ends();
        time::advance(Duration::from_millis(10)).await;
        exchange.end_attempt(number, Outcome::Ok);
        let ends = if in_the_poll {
            before
        } else {
            recording.ends()
        };
        time::advance(Duration::from_millis(90)).await;
        recording.end_in_poll(Ended::Whole, ends);
        let snapshot = stats.snapshot();
        let wanted = Duration::from_millis(wanted);
        assert_eq!(snapshot.backends[0].duration.sum(), wanted);
        assert_eq!(snapshot.listeners[0].duration.sum(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_is_timed_where_it_passed_first() {
    let stats = stats(&["a"]);
    let exchange = Exchange::new();
    let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
    time::advance(Duration::from_millis(30)).await;
    let number = exchange.begin_attempt(backend(&stats, 0));
    time::advance(Duration::from_millis(5)).await;
    exchange.set_head_at(time::Instant::now());
    time::advance(Duration::from_millis(20)).await;
    recording.status(StatusCode::OK);
    recording.head();
    exchange.end_attempt(number, Outcome::Ok);
    recording.end(Ended::Whole);
    let snapshot = stats.snapshot();
    let backend = &snapshot.backends[0];
    assert_eq!(backend.time_to_first_byte.sum(), Duration::from_millis(5));
    assert_eq!(backend.duration.sum(), Duration::from_millis(25));
    let listener = &snapshot.listeners[0];
    assert_eq!(listener.duration.sum(), Duration::from_millis(55));
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_a_log_times_the_head_for_the_phases() {
    let stats = stats(&["a"]);
    let exchange = Exchange::new();
    let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
    let number = exchange.begin_attempt(backend(&stats, 0));
    time::advance(Duration::from_millis(5)).await;
    recording.head();
    time::advance(Duration::from_millis(20)).await;
    exchange.end_attempt(number, Outcome::Ok);
    let phases = exchange.attempts(|all| all[0].phases());
    assert_eq!(phases.head, Some(Duration::from_millis(5)));
    assert_eq!(phases.body, Some(Duration::from_millis(20)));
}

#[test]
fn a_request_without_an_answer_belongs_to_the_backend_tried_last() {
    let stats = stats(&["a", "b"]);
    let failed = [
        (0, Outcome::Failed(ErrorKind::ResponseClosed)),
        (1, Outcome::Failed(ErrorKind::ResponseHeadTimeout)),
    ];
    record(&stats, &failed, Ended::Whole, Some(504));
    let snapshot = stats.snapshot();
    assert_eq!(snapshot.backends[0].requests(), 0);
    assert_eq!(
        snapshot.backends[1].outcomes,
        [("response_head_timeout", 1)]
    );
    assert_eq!(
        snapshot.backends[1].time_to_first_byte.count(),
        0,
        "the head is not the backend's"
    );
}

#[test]
fn each_end_of_a_request_is_counted_once() {
    let stats = stats(&["a"]);
    let ok = [(0, Outcome::Ok)];
    for (attempts, ended, status, outcome) in [
        (&ok[..], Ended::Whole, Some(200), "ok"),
        (
            &[(0, Outcome::Cancelled)],
            Ended::Dropped,
            None,
            "client_abort",
        ),
        (&ok, Ended::Dropped, Some(200), "client_abort"),
        (&[], Ended::Failed, None, "service"),
        (&[], Ended::Whole, Some(404), "ok"),
        (
            &[(0, Outcome::Cancelled)],
            Ended::Whole,
            Some(504),
            "timeout",
        ),
        (
            &[(0, Outcome::Cancelled)],
            Ended::Whole,
            Some(503),
            "superseded",
        ),
        (&[], Ended::Superseded, Some(408), "timeout"),
        (
            &[(0, Outcome::Failed(ErrorKind::ResponseBody))],
            Ended::Failed,
            Some(200),
            "response_body",
        ),
    ] {
        let of = |outcomes: &[(&str, u64)]| {
            outcomes
                .iter()
                .find(|(name, _)| *name == outcome)
                .map_or(0, |(_, number)| *number)
        };
        let before = stats
            .snapshot()
            .listeners
            .first()
            .map_or(0, |l| of(&l.outcomes));
        record(&stats, attempts, ended, status);
        let after = stats.snapshot();
        assert_eq!(of(&after.listeners[0].outcomes), before + 1, "{outcome}");
        assert_eq!(after.listeners[0].in_flight, 0, "{outcome}");
    }
    let listener = &stats.snapshot().listeners[0];
    let outcomes: u64 = listener.outcomes.iter().map(|(_, number)| number).sum();
    assert_eq!((listener.accepted, listener.ended(), outcomes), (9, 9, 9));
}

#[test]
fn a_request_that_is_lost_stays_in_flight() {
    let stats = stats(&[]);
    let recording = stats.begin(stats.listener_of(None), Exchange::new());
    let before = stats.snapshot().listeners[0].in_flight;
    drop(recording);
    assert_eq!((before, stats.snapshot().listeners[0].in_flight), (1, 0));
}

#[test]
fn an_attempt_beside_another_is_a_hedge() {
    let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
    let kinds = |exchange: &Exchange| {
        exchange.attempts(|all| {
            let kinds = (0..all.len()).map(|at| AttemptKind::of(all, at));
            kinds.collect::<Vec<_>>()
        })
    };
    let retried = Exchange::new();
    let first = retried.begin_attempt(backend.clone());
    retried.end_attempt(first, Outcome::Discarded);
    retried.begin_attempt(backend.clone());
    assert_eq!(kinds(&retried), [AttemptKind::First, AttemptKind::Retry]);
    // A response that is retried is kept until its successor has begun.
    let kept = Exchange::new();
    let first = kept.begin_attempt(backend.clone());
    kept.begin_attempt(backend.clone());
    kept.end_attempt(first, Outcome::Discarded);
    assert_eq!(kinds(&kept), [AttemptKind::First, AttemptKind::Retry]);
    let hedged = Exchange::new();
    let first = hedged.begin_attempt(backend.clone());
    let second = hedged.begin_attempt(backend.clone());
    hedged.end_attempt(second, Outcome::Ok);
    hedged.end_attempt(first, Outcome::Hedged);
    hedged.begin_attempt(backend);
    assert_eq!(
        kinds(&hedged),
        [AttemptKind::First, AttemptKind::Hedge, AttemptKind::Retry]
    );
}

#[test]
fn a_session_begins_where_the_cookie_did_not_lead() {
    let stats = stats(&["a", "b"]);
    let request = |named: Option<usize>, verdict, at| {
        let exchange = Exchange::new();
        if let Some(named) = named {
            exchange.set_affinity(backend(&stats, named));
        }
        exchange.set_sticky_verdict(verdict);
        let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
        let number = exchange.begin_attempt(backend(&stats, at));
        exchange.end_attempt(number, Outcome::Ok);
        recording.status(StatusCode::OK);
        recording.end_at_head();
    };
    request(None, StickyVerdict::None, 0);
    request(Some(0), StickyVerdict::Valid, 0);
    request(Some(0), StickyVerdict::Valid, 0);
    request(Some(0), StickyVerdict::Down, 1);
    let snapshot = stats.snapshot();
    let [a, b] = &snapshot.backends[..] else {
        panic!("two backends")
    };
    assert_eq!((a.sessions, b.sessions), (1, 1));
    assert_eq!(
        a.sticky,
        [(StickyVerdict::Valid, 2), (StickyVerdict::None, 1)]
    );
    assert_eq!(b.sticky, [(StickyVerdict::Down, 1)]);
    assert_eq!(
        snapshot.sticky_skew,
        Some(1.5),
        "three of four, where two are the mean"
    );
}

#[tokio::test(start_paused = true)]
async fn the_skew_follows_the_present() {
    let stats = stats(&["a", "b"]);
    let request = |at| {
        let exchange = Exchange::new();
        exchange.set_sticky_verdict(StickyVerdict::Valid);
        let mut recording = stats.begin(stats.listener_of(None), exchange.clone());
        let number = exchange.begin_attempt(backend(&stats, at));
        exchange.end_attempt(number, Outcome::Ok);
        recording.end(Ended::Whole);
    };
    (0..10).for_each(|_| request(0));
    assert_eq!(stats.snapshot().sticky_skew, Some(2.0));
    for _ in 0..3 {
        time::advance(Duration::from_secs(61)).await;
        drop(stats.snapshot());
    }
    assert_eq!(stats.snapshot().sticky_skew, None, "no requests of late");
    (0..4).for_each(|n| request(n % 2));
    assert_eq!(stats.snapshot().sticky_skew, Some(1.0));
}

#[test]
fn listeners_are_bounded() {
    let stats = stats(&[]);
    let named = stats.listener_named("inside".into());
    assert_eq!(stats.listener_named("inside".into()), named);
    for port in 1..=100 {
        let local = Peer::Tcp(([127, 0, 0, 1], port).into());
        let conn = ConnInfo::new(Peer::Unknown, local);
        let listener = stats.listener_of(Some(&conn));
        assert_eq!(listener, stats.listener_of(Some(&conn)));
        drop(stats.begin(listener, Exchange::new()));
    }
    let listeners = stats.snapshot().listeners;
    let names: Vec<_> = listeners
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names.len(), 16);
    assert_eq!(
        (names[0], names[1], names[15]),
        ("inside", "127.0.0.1:1", "other")
    );
    assert_eq!((listeners[1].accepted, listeners[15].accepted), (1, 86));
}

#[test]
fn connections_and_handshakes_are_counted() {
    let stats = stats(&[]);
    let conn = || ConnInfo::new(Peer::Unknown, Peer::Unix);
    let tls = |version, resumed| {
        let (conn, mut tls) = (conn(), TlsInfo::default());
        (tls.version, tls.resumed) = (version, resumed);
        conn.set_tls(tls);
        conn
    };
    for conn in [
        tls("TLSv1.3", false),
        tls("TLSv1.3", true),
        tls("TLSv1.2", false),
        tls("SSLv3", false),
    ] {
        stats.connection_opened(&conn);
        stats.handshake_ended(&conn);
        stats.connection_closed(&conn);
    }
    stats.connection_opened(&conn());
    let event = |kind| ConnectionEvent::new(conn(), kind, "", Duration::ZERO);
    let crowded = event(ConnectionEventKind::TlsTimeout);
    let crowded = crowded.failed_handshake(HandshakeFailure::TooManyHandshakes, Some("a.test"));
    stats.connection_ended(&crowded);
    stats.connection_ended(&event(ConnectionEventKind::Io));
    stats.connection_ended(&event(ConnectionEventKind::Io));
    let listener = &stats.snapshot().listeners[0];
    assert_eq!(
        (listener.connections_opened, listener.connections_closed),
        (5, 4)
    );
    assert_eq!(
        listener.connection_failures,
        [("io", 2), ("tls_timeout", 1)]
    );
    assert_eq!(listener.handshake_failures, [("too_many_handshakes", 1)]);
    let handshakes: Vec<_> = listener
        .handshakes
        .iter()
        .map(|h| (h.version, h.resumed, h.count))
        .collect();
    let wanted = [
        ("TLSv1.3", false, 1),
        ("TLSv1.3", true, 1),
        ("TLSv1.2", false, 1),
        ("other", false, 1),
    ];
    assert_eq!(handshakes, wanted);
}

#[test]
fn a_backend_takes_its_numbers_along() {
    let stats = stats(&["a", "b"]);
    record(&stats, &[(0, Outcome::Ok)], Ended::Whole, Some(200));
    stats.pool().remove("a").unwrap();
    assert_eq!(stats.snapshot().backends.len(), 1);
    let again = Backend::new("a", "http://127.0.0.1:1").unwrap();
    stats.pool().upsert(again);
    let snapshot = stats.snapshot();
    assert_eq!(snapshot.backends[1].backend.id(), "a");
    assert_eq!(
        snapshot.backends[1].requests(),
        0,
        "another backend of that name"
    );
}

#[test]
fn a_gauge_replaces_one_of_the_same_name() {
    let stats = stats(&[]);
    stats.gauge("a", "A.", || 1.0);
    stats.gauge("b", "B.", || 2.0);
    stats.gauge("a", "A.", || 3.0);
    let gauges = stats.snapshot().gauges;
    let read: Vec<_> = gauges
        .iter()
        .map(|gauge| (gauge.name, gauge.value))
        .collect();
    assert_eq!(read, [("a", 3.0), ("b", 2.0)]);
}

#[test]
fn a_gauge_is_the_sum_of_the_things_that_exist() {
    let stats = stats(&[]);
    let value = || {
        let gauges = stats.snapshot().gauges;
        gauges.first().map(|gauge| gauge.value)
    };
    let (one, other) = (Arc::new(1.0), Arc::new(20.0));
    for thing in [&one, &other, &one] {
        stats.add_to_gauge("a", "A.", thing, |thing| *thing);
    }
    assert_eq!(value(), Some(21.0), "each counts once");
    drop(one);
    assert_eq!(value(), Some(20.0), "what is gone does not count");
    // As a reload does: the new one comes before the old one goes.
    let next = Arc::new(300.0);
    stats.add_to_gauge("a", "A.", &next, |thing| *thing);
    drop(other);
    assert_eq!(value(), Some(300.0));
    stats.gauge("a", "A.", || 4.0);
    assert_eq!(value(), Some(4.0), "a single value replaces all");
    stats.add_to_gauge("b", "B.", &next, |thing| *thing);
    drop(next);
    let names: Vec<_> = stats.snapshot().gauges.iter().map(|g| g.name).collect();
    assert_eq!(names, ["a"], "the gauge ends with its last thing");
}

/// More threads than shards, several at a time.
#[test]
fn no_thread_loses_what_another_counts() {
    let sharded = Sharded::<Counter>::new();
    let (threads, each) = (80, 2_000);
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..each {
                    let writer = Writer::current();
                    sharded.of(writer).add(writer, 1);
                }
            });
        }
    });
    // Threads that come later own the shards of those that are gone.
    for _ in 0..threads {
        thread::scope(|scope| {
            scope.spawn(|| {
                let writer = Writer::current();
                sharded.of(writer).add(writer, 1);
            });
        });
    }
    assert_eq!(sharded.sum(|counter| counter), threads as u64 * (each + 1));
    assert!(sharded.iter().count() <= 33, "shards are bounded");
}

proptest! {
    #[test]
    fn the_sum_over_threads_is_what_was_recorded(
        threads in prop::collection::vec(
            prop::collection::vec((0_usize..3, 0_usize..4, 100_u16..700), 0..20),
            1..5,
        ),
    ) {
        let stats = stats(&["a", "b", "c"]);
        let outcomes = [
            Outcome::Ok,
            Outcome::Cancelled,
            Outcome::Hedged,
            Outcome::Failed(ErrorKind::Connect),
        ];
        let shared = &stats;
        thread::scope(|scope| {
            for requests in &threads {
                scope.spawn(move || {
                    for (at, outcome, status) in requests {
                        record(shared, &[(*at, outcomes[*outcome])], Ended::Whole, Some(*status));
                    }
                });
            }
        });
        let snapshot = stats.snapshot();
        let all: Vec<_> = threads.concat();
        for (at, backend) in snapshot.backends.iter().enumerate() {
            let here: Vec<_> = all.iter().filter(|request| request.0 == at).collect();
            prop_assert_eq!(backend.requests(), here.len() as u64);
            prop_assert_eq!(backend.duration.count(), here.len() as u64);
            for class in 1..=5_u16 {
                let of = here.iter().filter(|r| (r.2 / 100).min(5) == class).count();
                prop_assert_eq!(backend.statuses[usize::from(class)], of as u64);
            }
            for (index, outcome) in outcomes.iter().enumerate() {
                let of = here.iter().filter(|request| request.1 == index).count() as u64;
                let counted = backend.attempts.iter().find(|(name, _)| *name == outcome.as_str());
                prop_assert_eq!(counted.map_or(0, |(_, number)| *number), of);
            }
        }
        let accepted: u64 = snapshot.listeners.iter().map(|listener| listener.accepted).sum();
        prop_assert_eq!(accepted, all.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_that_of_the_attempt_that_ended_last() {
    let exchange = Exchange::new();
    let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
    let first = exchange.begin_attempt(backend.clone());
    let hedge = exchange.begin_attempt(backend);
    exchange.end_attempt(hedge, Outcome::Cancelled);
    time::advance(Duration::from_millis(2)).await;
    exchange.end_attempt(first, Outcome::Ok);
    let outcome =
        exchange.summary(|record| RequestOutcome::of(&record, Ended::Whole, Some(StatusCode::OK)));
    assert_eq!(outcome, RequestOutcome::Ok);
}

#[test]
fn a_hedge_that_was_not_needed_and_a_local_reply_leave_a_request_as_it_is() {
    let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
    let of = |exchange: &Exchange| {
        let status = Some(StatusCode::OK);
        exchange.summary(|record| RequestOutcome::of(&record, Ended::Whole, status))
    };
    // A response without a body ends its attempt before failover drops the hedge.
    let hedged = Exchange::new();
    let first = hedged.begin_attempt(backend.clone());
    let hedge = hedged.begin_attempt(backend.clone());
    hedged.end_attempt(first, Outcome::Ok);
    hedged.end_attempt(hedge, Outcome::Cancelled);
    assert_eq!(of(&hedged), RequestOutcome::Ok);
    let local = Exchange::new();
    let only = local.begin_attempt(backend);
    local.end_attempt(only, Outcome::Cancelled);
    assert_eq!(of(&local), RequestOutcome::Superseded);
    local.set_local_reply();
    assert_eq!(of(&local), RequestOutcome::Ok);
}
