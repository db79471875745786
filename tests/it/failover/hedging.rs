//! Two attempts side by side: which one answers, which is cancelled, which backend is charged.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use evenkeel::{
    Backend, ErrorKind, Pool,
    balance::BalanceLayer,
    context::{Exchange, Outcome},
    failover::{FailoverLayer, Hedge},
};
use http::Method;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimit};

use super::scripted_stack::{
    Act,
    End::{AtPoll, Fails, Hangs, Keeps, Status},
    ScriptedStack, act, get, outcomes, request,
};

const CLOSED: ErrorKind = ErrorKind::ResponseClosed;
const REFUSED: ErrorKind = ErrorKind::Connect;
const DELAY: Duration = Duration::from_millis(50);

fn hedging(layer: FailoverLayer) -> FailoverLayer {
    layer.hedge(Hedge::new().after(DELAY).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_wins_and_the_loser_is_charged_only_if_it_hung() {
    use Outcome::{Cancelled, Discarded, Failed, Hedged, Ok as Whole};
    // What each attempt does, then: the end, after how many milliseconds at least, how each
    // attempt ended, and what it cost of the budget: nothing where a backend was not reached.
    let table: &[(
        &[Act],
        usize,
        Result<u16, ErrorKind>,
        u64,
        &[Outcome],
        usize,
    )] = &[
        // The first answers before the hedge begins, and after that.
        (&[act(10, Status(200))], 2, Ok(200), 10, &[Whole], 0),
        (
            &[act(80, Status(200)), act(0, Hangs)],
            2,
            Ok(200),
            80,
            &[Whole, Cancelled],
            1,
        ),
        // It hangs: the hedge wins. So it does where the first is only slower.
        (
            &[act(0, Hangs), act(5, Status(200))],
            2,
            Ok(200),
            55,
            &[Hedged, Whole],
            1,
        ),
        (
            &[act(500, Status(200)), act(5, Status(201))],
            2,
            Ok(201),
            55,
            &[Hedged, Whole],
            1,
        ),
        // One of them fails: the other may take its time.
        (
            &[act(70, Fails(CLOSED)), act(40, Status(200))],
            2,
            Ok(200),
            90,
            &[Failed(CLOSED), Whole],
            1,
        ),
        (
            &[act(300, Status(200)), act(5, Fails(REFUSED))],
            2,
            Ok(200),
            300,
            &[Whole, Failed(REFUSED)],
            0,
        ),
        // Both fail: no third attempt unless there may be one.
        (
            &[act(70, Fails(CLOSED)), act(40, Fails(REFUSED))],
            2,
            Err(REFUSED),
            90,
            &[Failed(CLOSED), Failed(REFUSED)],
            0,
        ),
        (
            &[
                act(70, Fails(CLOSED)),
                act(40, Fails(REFUSED)),
                act(5, Status(200)),
            ],
            3,
            Ok(200),
            95,
            &[Failed(CLOSED), Failed(REFUSED), Whole],
            1,
        ),
        // A retry of a status is refused: the third has its place.
        (
            &[
                act(10, Status(503)),
                act(5, Fails(REFUSED)),
                act(5, Status(200)),
            ],
            3,
            Ok(200),
            20,
            &[Discarded, Failed(REFUSED), Whole],
            1,
        ),
        (
            &[act(10, Status(503)), act(5, Fails(REFUSED))],
            2,
            Err(REFUSED),
            15,
            &[Discarded, Failed(REFUSED)],
            0,
        ),
        // The first is refused late: the hedge has taken its place.
        (
            &[act(70, Fails(REFUSED)), act(40, Status(200))],
            2,
            Ok(200),
            90,
            &[Failed(REFUSED), Whole],
            0,
        ),
        // A status that is tried again does not win against an attempt that runs.
        (
            &[act(70, Status(503)), act(40, Status(200))],
            2,
            Ok(200),
            90,
            &[Discarded, Whole],
            1,
        ),
        (
            &[act(200, Status(200)), act(5, Status(503))],
            2,
            Ok(200),
            200,
            &[Whole, Discarded],
            1,
        ),
        // Where nothing better comes, it is the answer.
        (
            &[act(200, Fails(CLOSED)), act(5, Status(503))],
            2,
            Ok(503),
            200,
            &[Failed(CLOSED), Whole],
            1,
        ),
        (
            &[act(70, Status(503)), act(40, Fails(CLOSED))],
            2,
            Ok(503),
            90,
            &[Whole, Failed(CLOSED)],
            1,
        ),
        (
            &[act(70, Status(503)), act(40, Status(502))],
            2,
            Ok(502),
            90,
            &[Discarded, Whole],
            1,
        ),
        (
            &[
                act(70, Status(503)),
                act(40, Status(502)),
                act(5, Status(200)),
            ],
            3,
            Ok(200),
            95,
            &[Discarded, Discarded, Whole],
            2,
        ),
        // A second hedge runs beside the first attempt: of two held answers, the older goes.
        (
            &[
                act(400, Status(200)),
                act(5, Status(503)),
                act(5, Status(502)),
            ],
            3,
            Ok(200),
            400,
            &[Whole, Discarded, Discarded],
            2,
        ),
        (
            &[
                act(200, Status(503)),
                act(5, Status(502)),
                act(300, Status(200)),
            ],
            3,
            Ok(200),
            455,
            &[Discarded, Discarded, Whole],
            2,
        ),
    ];
    for (acts, most, end, at_least, ends, spent) in table {
        let stage = ScriptedStack::new(acts, |layer| {
            let layer = hedging(layer).max_attempts(*most as u32).unwrap();
            layer.retry_statuses([502, 503]).unwrap()
        });
        let run = stage.run(get()).await;
        assert_eq!(run.end, *end, "{acts:?}");
        assert_eq!(run.outcomes, *ends, "{acts:?}");
        let at_least = Duration::from_millis(*at_least);
        assert!(run.took >= at_least, "{acts:?}: {:?} is too soon", run.took);
        // A timer is late by 11 ms at most, a wait before a third attempt is 25 ms at most.
        let most = at_least + Duration::from_millis(40);
        assert!(run.took <= most, "{acts:?}: {:?} is too late", run.took);
        let by = ends
            .iter()
            .position(|end| *end == Whole)
            .map(|n| ["a", "b", "c"][n]);
        assert_eq!(run.by.as_deref(), by, "{acts:?}: whose answer it was");
        assert_eq!(stage.begun.load(Relaxed), ends.len(), "{acts:?}");
        assert_eq!(stage.leases(), 0, "{acts:?}: every lease comes back");
        assert_eq!(stage.spent(), *spent, "{acts:?}: of the budget");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_copy_of_its_own_a_hedge_needs_one_of_the_service() {
    let stage = ScriptedStack::new(&[act(0, Hangs), act(5, Status(200))], hedging);
    let run = stage.run(get()).await;
    assert_eq!(run.end, Ok(200));
    assert_eq!(run.outcomes, [Outcome::Hedged, Outcome::Ok]);
    assert_eq!(run.by.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_moment_every_lease_comes_back_and_no_backend_is_charged() {
    let acts = [act(0, Hangs), act(500, Status(200))];
    for millis in (0..120).chain([499, 540, 545]) {
        let stage = ScriptedStack::new(&acts, hedging);
        let mut request = get();
        let exchange = Exchange::of(request.extensions_mut());
        let within = timeout(Duration::from_millis(millis), stage.call(request)).await;
        assert!(within.is_err(), "nothing answers before 550 ms");
        let begun = stage.begun.load(Relaxed);
        assert_eq!(begun, if millis < 50 { 1 } else { begun.max(1) });
        assert!(
            millis < 65 || begun == 2,
            "the hedge must have begun after {millis} ms"
        );
        let ends = outcomes(&exchange);
        assert_eq!(ends, vec![Outcome::Cancelled; begun], "after {millis} ms");
        assert_eq!(stage.leases(), 0, "after {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_belong_to_a_connection_are_not_hedged() {
    let slow = [act(300, Status(200)), act(0, Status(201))];
    let with = |name: &'static str, value: &'static str| {
        let mut request = get();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    for (what, request, acts) in [
        ("a POST", request(Method::POST, ""), slow),
        ("a PUT, by default", request(Method::PUT, ""), slow),
        ("one with a body", request(Method::GET, "body"), slow),
        ("an upgrade", with("upgrade", "websocket"), slow),
        (
            "what belongs to a connection",
            with("authorization", "NTLM abc"),
            slow,
        ),
    ] {
        let stage = ScriptedStack::new(&acts, hedging);
        let run = stage.run(request).await;
        assert_eq!((run.end, stage.begun.load(Relaxed)), (Ok(200), 1), "{what}");
        assert_eq!(stage.spent(), 0, "{what}: nothing is paid for it");
    }
    let stage = ScriptedStack::new(&[act(0, Keeps), act(0, Status(201))], hedging);
    let run = timeout(Duration::from_secs(9), stage.call(get())).await;
    assert!(
        run.is_err(),
        "a service that offers no head gets no second request"
    );
    assert_eq!((stage.begun.load(Relaxed), stage.spent()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_backend_with_room_no_hedge_begins() {
    let acts = [act(300, Status(200)), act(0, Status(201))];
    let one = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let stage = ScriptedStack::over(one, &acts, hedging);
    let run = stage.run(get()).await;
    assert_eq!(
        (run.end, run.outcomes),
        (Ok(200), vec![Outcome::Ok]),
        "the only one"
    );
    assert_eq!(stage.spent(), 0, "what was not sent is not paid for");

    let capped = ["a", "b"].map(|id| {
        let backend = Backend::new(id, "http://127.0.0.1:1").unwrap();
        backend.max_in_flight(1).unwrap()
    });
    let stage = ScriptedStack::over(
        Pool::new(capped).unwrap(),
        &[act(300, Status(200))],
        hedging,
    );
    let (one, two) = tokio::join!(stage.run(get()), stage.run(get()));
    for run in [one, two] {
        assert_eq!(
            (run.end, run.outcomes),
            (Ok(200), vec![Outcome::Ok]),
            "all are full"
        );
        assert!(run.took < Duration::from_millis(310), "{:?}", run.took);
    }
    assert_eq!((stage.spent(), stage.leases()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_paid_attempt_that_is_not_sent_is_refunded() {
    // The first answers at the very moment when the hedge is due.
    let stage = ScriptedStack::new(&[act(0, AtPoll(3)), act(5, Status(201))], hedging);
    let run = stage.run(get()).await;
    assert_eq!((run.end, stage.begun.load(Relaxed)), (Ok(200), 1));
    assert!(run.took >= DELAY, "{:?}", run.took);
    assert_eq!(stage.spent(), 0, "there was no hedge");

    // A retry finds no other backend.
    let one = || Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
    let stage = ScriptedStack::over(one(), &[act(5, Fails(REFUSED))], |layer| layer);
    assert_eq!(stage.run(get()).await.end, Err(REFUSED));
    assert_eq!(stage.spent(), 0, "there was no retry");

    // All are full, and so is the queue: the try is left for when the first fails.
    let capped = ["a", "b"].map(|id| {
        let backend = Backend::new(id, "http://127.0.0.1:1").unwrap();
        backend.max_in_flight(1).unwrap()
    });
    let pool = Pool::new(capped).unwrap();
    let balance = BalanceLayer::new(pool.clone()).queue_size(0);
    let acts = [
        act(200, Fails(CLOSED)),
        act(100, Status(200)),
        act(5, Status(201)),
    ];
    let stage = ScriptedStack::balanced(pool, &balance, &acts, hedging);
    let (one, two) = tokio::join!(stage.run(get()), stage.run(get()));
    assert_eq!((one.end, two.end), (Ok(201), Ok(200)));
    assert_eq!(one.outcomes, [Outcome::Failed(CLOSED), Outcome::Ok]);
    assert_eq!((stage.spent(), stage.leases()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_is_alone_waits_for_a_backend_with_room() {
    let capped = ["a", "b"].map(|id| {
        let backend = Backend::new(id, "http://127.0.0.1:1").unwrap();
        backend.max_in_flight(1).unwrap()
    });
    // A request that keeps its backend busy, the first attempt on the other one, and its hedge.
    let acts = [
        act(300, Status(200)),
        act(100, Fails(CLOSED)),
        act(5, Status(201)),
    ];
    let stage = ScriptedStack::over(Pool::new(capped).unwrap(), &acts, hedging);
    // The hedge becomes ready when the first attempt has ended, and only then finds all full.
    let one_at_a_time = ConcurrencyLimit::new(stage.balance.clone(), 1);
    let service = hedging(FailoverLayer::new()).layer(one_at_a_time);
    let busy = stage.call(get());
    let busy = tokio::spawn(async { drop(busy.await) });
    tokio::task::yield_now().await;
    assert_eq!(stage.leases(), 1, "the backend is busy");
    let (began, mut request) = (Instant::now(), get());
    let exchange = Exchange::of(request.extensions_mut());
    let answered = timeout(Duration::from_secs(1), service.oneshot(request)).await;
    let response = answered.expect("the request must not hang").unwrap();
    assert_eq!(response.status(), 201);
    let took = began.elapsed().as_millis();
    assert!((300..350).contains(&took), "{took} ms: when there was room");
    drop(response);
    busy.await.unwrap();
    assert_eq!(
        outcomes(&exchange),
        [Outcome::Failed(CLOSED), Outcome::Cancelled],
        "the body of the answer was not read"
    );
    assert_eq!(stage.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_delays_hedges_until_it_has_earned_one() {
    let stage = ScriptedStack::new(&[act(5_000, Status(200)), act(5, Status(201))], hedging);
    assert_eq!(stage.spent(), 0);
    let run = stage.run(get()).await;
    assert_eq!(run.end, Ok(201));
    let took = run.took.as_millis();
    assert!(
        (900..1_300).contains(&took),
        "one a second is earned: {took} ms"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_hedged_only_once_its_backend_is_out() {
    let acts = [act(2_000, Status(200)), act(5, Status(201))];
    let stage = ScriptedStack::new(&acts, hedging);
    let session = || {
        let mut request = get();
        let exchange = Exchange::of(request.extensions_mut());
        exchange.set_affinity(stage.pool.snapshot().get("a").unwrap().clone());
        request
    };
    let run = stage.run(session()).await;
    assert_eq!(
        (run.end, run.outcomes),
        (Ok(200), vec![Outcome::Ok]),
        "slow, but its own"
    );

    stage.begun.store(0, Relaxed);
    let leaves = async {
        sleep(Duration::from_secs(1)).await;
        stage.pool.start_maintenance("a").unwrap();
    };
    let (run, ()) = tokio::join!(stage.run(session()), leaves);
    assert_eq!(run.end, Ok(201));
    assert_eq!(run.outcomes, [Outcome::Hedged, Outcome::Ok]);
    assert!(run.took < Duration::from_millis(1_130), "{:?}", run.took);
}

#[tokio::test(start_paused = true)]
async fn the_delay_follows_the_latency_of_the_pool() {
    let stage = ScriptedStack::new(&[act(100, Status(200))], |layer| {
        layer.hedge(Hedge::new()).max_attempts(2).unwrap()
    });
    // Nothing is known: the floor, and each request is hedged while the budget lasts.
    for _ in 0..40 {
        assert_eq!(stage.run(get()).await.end, Ok(200));
    }
    let begun = stage.begun.load(Relaxed);
    for _ in 0..200 {
        stage.run(get()).await;
    }
    let hedges = stage.begun.load(Relaxed) - begun - 200;
    assert!(
        hedges <= 2,
        "{hedges} of 200 were hedged, though all took the same time"
    );

    let hung = ScriptedStack::new(&[act(0, Hangs), act(1, Status(200))], |layer| {
        layer.hedge(Hedge::new())
    });
    let began = Instant::now();
    assert_eq!(hung.run(get()).await.end, Ok(200));
    assert!(
        began.elapsed() < Duration::from_millis(70),
        "{:?}",
        began.elapsed()
    );
}
