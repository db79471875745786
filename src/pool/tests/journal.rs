//! The log lines of a pool: which are written, and in which order.

use std::{
    io,
    sync::{Arc, Mutex},
};

use super::*;

/// Takes lines, and calls a closure at each: what it sees is how things are at that moment.
#[derive(Clone)]
struct Lines {
    taken: Arc<Mutex<Vec<String>>>,
    at_each: Arc<dyn Fn(&str) + Send + Sync>,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line).trim().to_owned();
        (self.at_each)(&text);
        self.taken.lock().unwrap().push(text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs this; returns the lines that it logs.
fn logged_at(at_each: impl Fn(&str) + Send + Sync + 'static, run: impl FnOnce()) -> Vec<String> {
    let lines = Lines {
        taken: Arc::default(),
        at_each: Arc::new(at_each),
    };
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let mut taken = lines.taken.lock().unwrap();
    std::mem::take(&mut taken)
}

pub(super) fn logged(run: impl FnOnce()) -> Vec<String> {
    logged_at(|_| {}, run)
}

#[track_caller]
fn assert_lines(lines: &[String], wanted: &[&str]) {
    let fit = lines.len() == wanted.len()
        && lines
            .iter()
            .zip(wanted)
            .all(|(line, wanted)| line.starts_with(wanted));
    assert!(fit, "wanted {wanted:#?}, got {lines:#?}");
}

const GONE: &str = "ERROR no backend is usable: new requests are answered with 503";
const BACK: &str = "INFO a backend is usable again usable=1 members=2";

#[test]
fn the_last_usable_backend_gone_is_an_error_whatever_took_it() {
    let takes: [fn(&Pool); 4] = [
        |pool| drop(pool.measure(&member(pool, "b"), down())),
        |pool| drop(pool.drain("b", Duration::from_secs(60)).unwrap()),
        |pool| pool.start_maintenance("b").unwrap(),
        |pool| pool.upsert(backend("b").weight(0).unwrap()),
    ];
    let gives: [fn(&Pool); 4] = [
        |pool| drop(pool.measure(&member(pool, "b"), up())),
        |pool| pool.mark_ready("b").unwrap(),
        |pool| pool.mark_ready("b").unwrap(),
        |pool| pool.upsert(backend("b")),
    ];
    for (take, give) in takes.into_iter().zip(gives) {
        let pool = pool(&["a", "b"]);
        let of_supply = |run: &dyn Fn()| {
            let mut lines = logged(run);
            lines.retain(|line| line.contains("usable"));
            lines
        };
        assert_lines(&of_supply(&|| drop(pool.start_maintenance("a"))), &[]);
        assert_lines(&of_supply(&|| take(&pool)), &[GONE]);
        assert_lines(&of_supply(&|| take(&pool)), &[]);
        assert_lines(&of_supply(&|| give(&pool)), &[BACK]);
        assert_lines(&of_supply(&|| take(&pool)), &[GONE]);
    }
}

#[test]
fn backends_that_wait_for_their_first_check_are_no_outage_until_it_fails() {
    let pool = pool(&["a", "b"]);
    let prober = pool.attach_prober();
    let lines = logged(|| drop(pool.measure(&member(&pool, "a"), down())));
    assert_lines(&lines, &[]);
    let lines = logged(|| drop(pool.measure(&member(&pool, "b"), down())));
    assert_lines(&lines, &[GONE]);
    drop(prober);
    // One that was empty from the start has lost nothing.
    let empty = Pool::new([]).unwrap();
    let lines = logged(|| empty.update_routing(Routing::new()));
    assert_lines(&lines, &[]);
    let lines = logged(|| empty.upsert(backend("a")));
    assert_lines(&lines, &["INFO the backend joined backend=\"a\""]);
    let lines = logged(|| empty.remove("a").unwrap());
    assert_lines(&lines, &["INFO the backend left backend=\"a\"", GONE]);
}

#[test]
fn orders_and_membership_are_logged_once() {
    let pool = pool(&["a", "b", "c"]);
    let lines = logged(|| {
        for _ in 0..2 {
            pool.start_maintenance("a").unwrap();
        }
        pool.mark_ready("a").unwrap();
        drop(pool.drain("b", Duration::from_secs(60)).unwrap());
        let locality = Locality::new("eu").unwrap();
        for _ in 0..2 {
            pool.evacuate(&locality);
        }
        for _ in 0..2 {
            pool.restore(&locality);
        }
        let changed = backend("a").weight(3).unwrap().max_in_flight(9).unwrap();
        for _ in 0..2 {
            let all = [changed.clone(), backend("b"), backend("d")];
            pool.replace(all).unwrap();
        }
    });
    assert_lines(
        &lines,
        &[
            "INFO the backend is in maintenance backend=\"a\" from=\"ready\" in_flight=0",
            "INFO the backend takes traffic again, as its health allows backend=\"a\"",
            "INFO the backend drains backend=\"b\" from=\"ready\" in_flight=0 deadline=",
            "INFO the locality is evacuated locality=eu backends=0",
            "INFO the locality is restored locality=eu backends=0",
            "INFO the backend changed backend=\"a\" settings=weight, max_in_flight",
            "INFO the backend joined backend=\"d\" host=\"127.0.0.1\" port=9001 members=3",
            "INFO the backend left backend=\"c\" in_flight=0 members=3",
        ],
    );
    let many: Vec<_> = (0..500).map(|i| backend(&format!("n{i}"))).collect();
    let lines = logged(|| pool.replace(many).unwrap());
    assert_lines(
        &lines,
        &["INFO backends joined, left or changed joined=500 left=3 changed=0 members=500"],
    );
}

#[test]
fn unchanged_settings_cause_no_event() {
    let pool = pool(&["a", "b"]);
    let mut events = pool.subscribe();
    let b = backend("b").weight(2).unwrap();
    pool.replace([backend("a"), b.clone()]).unwrap();
    pool.upsert(b);
    let event = events.try_next().unwrap();
    assert!(matches!(event.kind, EventKind::Updated));
    assert_eq!(event.backend.id(), "b");
    assert!(events.try_next().is_none());
}

#[test]
fn degradation_and_wishes_to_drain_are_logged_when_they_begin_and_end() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    let lines = logged(|| {
        for capacity in [0.5, 0.6, 0.7] {
            pool.measure(&a, up().capacity(capacity));
        }
        pool.measure(&a, up().draining(true));
        pool.measure(&a, up());
    });
    assert_lines(
        &lines,
        &[
            "INFO the backend is degraded backend=\"a\" capacity=0.5",
            "INFO the backend asks to be drained backend=\"a\"",
            "INFO the backend is not degraded any more backend=\"a\"",
            "INFO the backend does not ask to be drained any more backend=\"a\"",
        ],
    );
}

#[test]
fn a_line_is_written_before_anything_follows_from_what_it_says() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    let (seen, at_each) = (Arc::new(Mutex::new(Vec::new())), a.clone());
    let noted = seen.clone();
    let at_each = move |line: &str| {
        let word = ["ejected", "tried", "failed", "readmitted"]
            .into_iter()
            .find(|word| line.contains(word));
        noted.lock().unwrap().push((word, at_each.circuit()));
    };
    logged_at(at_each, || {
        assert_eq!(pool.eject(&a, reason(), 5, 1.0), Ejection::Ejected);
        assert!(pool.begin_trial_and(&a, || tracing::info!("tried")));
        assert!(pool.end_trial_and(&a, || tracing::info!("failed")));
        assert!(!pool.end_trial_and(&a, || tracing::info!("failed")));
        assert!(pool.readmit(&a, reason()));
    });
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (Some("ejected"), Circuit::Closed),
            (Some("tried"), Circuit::Open),
            (Some("failed"), Circuit::HalfOpen),
            (Some("readmitted"), Circuit::Open),
        ],
        "another task must not see the change first, and log what it does about it"
    );
}

#[test]
fn checks_that_stop_are_one_line_and_at_the_end_none() {
    let looked_after = |pool: &Pool| {
        let prober = pool.attach_prober();
        let judge = pool.attach_roles(&[Role::OutlierDetector, Role::Ticker]);
        for id in ["a", "b", "c"] {
            pool.measure(&member(pool, id), up());
        }
        let a = member(pool, "a");
        assert_eq!(pool.eject(&a, reason(), 5, 1.0), Ejection::Ejected);
        (prober, judge)
    };
    let reloaded = pool(&["a", "b", "c"]);
    let (prober, judge) = looked_after(&reloaded);
    let lines = logged(|| drop((prober, judge)));
    assert_lines(
        &lines,
        &[
            "INFO health is unknown: active checks stopped backends=3",
            "INFO ejections end: outlier detection stopped backends=1",
        ],
    );
    let ends = pool(&["a", "b", "c"]);
    let guards = looked_after(&ends);
    ends.close();
    let mut events = ends.subscribe();
    let lines = logged(|| drop(guards));
    assert_lines(&lines, &[]);
    assert!(events.try_next().is_none(), "an alert may hang on it");
    assert_eq!(member(&ends, "b").health(), HealthStatus::Healthy);
    // What happens until the last request has ended is news still.
    let lines = logged(|| drop(ends.measure(&member(&ends, "b"), down())));
    assert_lines(&lines, &[]);
    let lines = logged(|| drop(ends.measure(&member(&ends, "c"), down())));
    let readmitted = "WARN the backend is readmitted: no other one is usable backend=\"a\"";
    assert_lines(&lines, &[readmitted]);
}
