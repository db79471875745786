//! Deadlines for one try and for all, tries by status, and the waits between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Error, ErrorKind, Pool,
    context::{Exchange, Outcome},
    failover::{Backoff, FailoverLayer, Hedge},
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use tower::{Layer, ServiceExt, service_fn};

use super::scripted_stack::{
    Act,
    End::{Dials, Fails, Hangs, Later, LaterAtPoll, Status},
    ScriptedStack, Sent, act, get, outcomes, request,
};

const HEAD: ErrorKind = ErrorKind::ResponseHeadTimeout;
const DIAL: ErrorKind = ErrorKind::ConnectTimeout;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn each_try(layer: FailoverLayer) -> FailoverLayer {
    layer.per_try_timeout(ms(200)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_is_charged_and_retried_where_that_is_safe() {
    use Outcome::{Failed, Ok as Whole};
    let good = act(5, Status(200));
    let (get, post) = (Method::GET, Method::POST);
    for (method, body, first, end, ends) in [
        (&get, "", Hangs, Ok(200), vec![Failed(HEAD), Whole]),
        (
            &Method::PUT,
            "body",
            Hangs,
            Ok(200),
            vec![Failed(HEAD), Whole],
        ),
        (&post, "", Hangs, Err(HEAD), vec![Failed(HEAD)]),
        (&post, "body", Hangs, Err(HEAD), vec![Failed(HEAD)]),
        // Nothing went out: any method.
        (&get, "", Dials, Ok(200), vec![Failed(DIAL), Whole]),
        (&post, "body", Dials, Ok(200), vec![Failed(DIAL), Whole]),
    ] {
        let stage = ScriptedStack::new(&[act(0, first), good], each_try);
        let run = stage.run(request(method.clone(), body)).await;
        assert_eq!(run.end, end, "{method} {body:?}, {first:?}");
        assert_eq!(run.outcomes, ends, "{method} {body:?}, {first:?}");
        assert!((200..230).contains(&run.took.as_millis()), "{:?}", run.took);
        assert_eq!(stage.leases(), 0, "{method} {body:?}, {first:?}");
        assert_eq!(
            stage.spent(),
            ends.len() - 1,
            "{method} {body:?}, {first:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_request_ends_all_its_attempts() {
    use Outcome::{Cancelled, Failed};
    let whole = |layer: FailoverLayer| layer.timeout(ms(500)).unwrap();
    // Hung from the start: charged. Begun late: not charged.
    let stage = ScriptedStack::new(&[act(0, Hangs)], whole);
    let run = stage.run(get()).await;
    assert_eq!((run.end, run.outcomes), (Err(HEAD), vec![Failed(HEAD)]));
    assert!((500..530).contains(&run.took.as_millis()), "{:?}", run.took);
    let closed = ErrorKind::ResponseClosed;
    let stage = ScriptedStack::new(&[act(400, Fails(closed)), act(0, Hangs)], whole);
    let run = stage.run(get()).await;
    assert_eq!(
        (run.end, run.outcomes),
        (Err(HEAD), vec![Failed(closed), Cancelled])
    );
    assert!((500..530).contains(&run.took.as_millis()), "{:?}", run.took);
    assert_eq!(stage.leases(), 0);

    // A layer that makes no second try keeps its deadlines.
    let stage = ScriptedStack::new(&[act(0, Hangs)], |l| whole(l).max_attempts(1).unwrap());
    assert_eq!(stage.run(get()).await.end, Err(HEAD));
    let stage = ScriptedStack::new(&[act(0, Hangs)], |l| each_try(l).max_attempts(1).unwrap());
    assert_eq!(stage.run(get()).await.end, Err(HEAD));

    // Within the time, nothing happens.
    let stage = ScriptedStack::new(&[act(490, Status(200))], whole);
    assert_eq!(stage.run(get()).await.end, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn a_status_is_retried_only_where_that_is_safe_and_possible() {
    use Outcome::{Discarded, Ok as Whole};
    let layer = |layer: FailoverLayer| layer.retry_statuses([502, 503, 504]).unwrap();
    let (bad, good) = (act(5, Status(503)), act(5, Status(200)));
    let (get, post) = (Method::GET, Method::POST);
    for (method, body, acts, end, ends) in [
        (&get, "", [bad, good], 200, vec![Discarded, Whole]),
        (
            &Method::PUT,
            "body",
            [bad, good],
            200,
            vec![Discarded, Whole],
        ),
        (&post, "", [bad, good], 503, vec![Whole]),
        (
            &get,
            "",
            [bad, act(5, Status(504))],
            504,
            vec![Discarded, Whole],
        ),
        // One that was not asked for.
        (&get, "", [act(5, Status(500)), good], 500, vec![Whole]),
    ] {
        let stage = ScriptedStack::new(&acts, layer);
        let run = stage.run(request(method.clone(), body)).await;
        assert_eq!(
            (run.end, &run.outcomes),
            (Ok(end), &ends),
            "{method} {acts:?}"
        );
        assert_eq!(stage.begun.load(Relaxed), ends.len(), "{method} {acts:?}");
        assert_eq!(
            (stage.leases(), stage.spent()),
            (0, ends.len() - 1),
            "{method} {acts:?}"
        );
    }
    // There is no other backend: the answer that there is goes to the client.
    let one = evenkeel::Backend::new("a", "http://127.0.0.1:1").unwrap();
    let stage = ScriptedStack::over(Pool::new([one]).unwrap(), &[bad, good], layer);
    let run = stage.run(request(Method::GET, "")).await;
    assert_eq!((run.end, run.outcomes), (Ok(503), vec![Whole]));
    assert_eq!(stage.leases(), 0);
    // Without being asked for, no status is tried again.
    let stage = ScriptedStack::new(&[bad, good], |layer| layer);
    assert_eq!(stage.run(request(Method::GET, "")).await.end, Ok(503));
    // Nor where the budget is used up.
    let stage = ScriptedStack::new(&[bad, good], layer);
    assert_eq!(stage.spent(), 0);
    assert_eq!(stage.run(request(Method::GET, "")).await.end, Ok(503));
}

#[tokio::test(start_paused = true)]
async fn a_held_response_without_an_attempt_does_not_end_the_attempt_after_it() {
    let stage = ScriptedStack::new(&[act(5, Status(200))], |layer| layer);
    // A layer between failover and the balancer answers the first time: no attempt is recorded.
    let (calls, balance) = (Arc::new(AtomicUsize::new(0)), stage.balance.clone());
    let counted = calls.clone();
    let refuses_first = service_fn(move |request: Sent| {
        let (is_first, balance) = (counted.fetch_add(1, Relaxed) == 0, balance.clone());
        async move {
            if is_first {
                let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Ok::<_, Error>(response);
            }
            Ok(balance.oneshot(request).await?.map(Either::Right))
        }
    });
    let layer = FailoverLayer::new().retry_statuses([503]).unwrap();
    let mut request = get();
    let exchange = Exchange::of(request.extensions_mut());
    let response = layer.layer(refuses_first).oneshot(request).await.unwrap();
    assert_eq!(
        (response.status(), calls.load(Relaxed)),
        (StatusCode::OK, 2)
    );
    response.into_body().collect().await.unwrap();
    assert_eq!(outcomes(&exchange), [Outcome::Ok]);
    assert_eq!(exchange.answered_by().unwrap().id(), "a");
}

#[tokio::test(start_paused = true)]
async fn waits_come_before_the_third_attempt_and_follow_retry_after() {
    let layer = |layer: FailoverLayer| {
        let layer = layer
            .max_attempts(3)
            .unwrap()
            .retry_statuses([503])
            .unwrap();
        layer.backoff(Backoff::new().exponential(ms(0), ms(0)).unwrap())
    };
    // What the first two answer; the end, and how long it takes.
    for (acts, end, took) in [
        ([act(5, Later("60")), act(5, Status(200))], 200, 10),
        ([act(5, Status(503)), act(5, Later("1"))], 200, 1_015),
        ([act(5, Status(503)), act(5, Later("2"))], 503, 10),
        ([act(5, Status(503)), act(5, Status(503))], 200, 15),
    ] {
        let stage = ScriptedStack::new(&[acts[0], acts[1], act(5, Status(200))], layer);
        let run = stage.run(get()).await;
        assert_eq!(run.end, Ok(end), "{acts:?}");
        let millis = run.took.as_millis();
        assert!((took..took + 5).contains(&millis), "{acts:?}: {millis} ms");
    }
    // Full jitter: the waits before a third try spread up to the bound.
    let refused = Fails(ErrorKind::Connect);
    let mut waits = Vec::new();
    for _ in 0..20 {
        let acts = [act(0, refused), act(0, refused), act(0, Status(200))];
        let stage = ScriptedStack::new(&acts, |l| {
            let backoff = Backoff::new().exponential(ms(400), ms(400)).unwrap();
            l.max_attempts(3).unwrap().backoff(backoff)
        });
        let run = stage.run(get()).await;
        assert_eq!(run.end, Ok(200));
        waits.push(run.took);
    }
    assert!(waits.iter().all(|wait| *wait <= ms(405)), "{waits:?}");
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*most - *least > ms(100), "{waits:?}");
}

/// A hedge after 50 ms, 200 ms for each try, 503 tried again, three tries.
fn all_at_once(layer: FailoverLayer) -> FailoverLayer {
    let layer = layer.hedge(Hedge::new().after(ms(50)).unwrap());
    let layer = each_try(layer).retry_statuses([503]).unwrap();
    let layer = layer.backoff(Backoff::new().exponential(ms(0), ms(0)).unwrap());
    layer.max_attempts(3).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_keeps_its_own_timeout_whatever_became_of_a_hedge() {
    use Outcome::{Cancelled, Discarded, Failed, Ok as Whole};
    let refused = ErrorKind::Connect;
    let two = |layer| all_at_once(layer).max_attempts(2).unwrap();
    let whole = |layer| {
        all_at_once(layer)
            .max_attempts(2)
            .unwrap()
            .timeout(ms(190))
            .unwrap()
    };
    type Layer = fn(FailoverLayer) -> FailoverLayer;
    let table: &[(
        &str,
        &[Act],
        Layer,
        Result<u16, ErrorKind>,
        u128,
        &[Outcome],
    )] = &[
        (
            "the hedge failed, the first hangs on",
            &[act(0, Hangs), act(5, Fails(refused))],
            two,
            Err(HEAD),
            200,
            &[Failed(HEAD), Failed(refused)],
        ),
        (
            "the hedge's answer is kept, the first hangs on",
            &[act(0, Hangs), act(5, Status(503))],
            two,
            Ok(503),
            200,
            &[Failed(HEAD), Whole],
        ),
        (
            "an answer is kept while a backend's wait is kept to",
            &[act(5, Status(503)), act(5, Later("1")), act(5, Status(200))],
            all_at_once,
            Ok(200),
            1_015,
            &[Discarded, Discarded, Whole],
        ),
        (
            "the time for all is up while an answer is kept",
            &[act(70, Status(503)), act(0, Hangs)],
            whole,
            Ok(503),
            190,
            &[Whole, Failed(HEAD)],
        ),
        (
            "the time for all is up, and the hedge came late",
            &[act(0, Hangs), act(0, Hangs)],
            |l| all_at_once(l).timeout(ms(75)).unwrap(),
            Err(HEAD),
            75,
            &[Failed(HEAD), Cancelled],
        ),
    ];
    for (what, acts, layer, end, took, ends) in table {
        let stage = ScriptedStack::new(acts, layer);
        let run = tokio::time::timeout(ms(5_000), stage.run(get())).await;
        let run = run.unwrap_or_else(|_| panic!("{what}: it hangs"));
        assert_eq!((run.end, &*run.outcomes), (*end, *ends), "{what}");
        let millis = run.took.as_millis();
        assert!((*took..took + 12).contains(&millis), "{what}: {millis} ms");
        assert_eq!(stage.leases(), 0, "{what}");
        let by = ends.iter().position(|end| *end == Whole);
        let by = by.map(|number| ["a", "b", "c"][number]);
        assert_eq!(run.by.as_deref(), by, "{what}: whose answer it was");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_the_moment_of_its_timeout_is_tried_again() {
    use Outcome::{Discarded, Failed, Ok as Whole};
    // The second attempt answers at this poll, and the third waits for a second then. The fourth poll
    // is the last one before the time-out ends the attempt: a copy of the head is asked for.
    for (poll, second) in [
        (2, Discarded),
        (3, Discarded),
        (4, Discarded),
        (5, Failed(HEAD)),
    ] {
        let acts = [
            act(0, Status(503)),
            act(0, LaterAtPoll(poll)),
            act(5, Status(200)),
        ];
        let stage = ScriptedStack::new(&acts, |layer| {
            let layer = layer.per_try_timeout(ms(50)).unwrap();
            let layer = layer.max_attempts(3).unwrap();
            layer.retry_statuses([503]).unwrap()
        });
        let run = stage.run(get()).await;
        assert_eq!(run.end, Ok(200), "at poll {poll}");
        assert_eq!(run.outcomes, [Discarded, second, Whole], "at poll {poll}");
        let waited = run.took >= ms(1_000);
        assert_eq!(
            waited,
            second == Discarded,
            "at poll {poll}: {:?}",
            run.took
        );
        assert_eq!(stage.leases(), 0, "at poll {poll}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_the_queue_is_a_queue_timeout() {
    let one = evenkeel::Backend::new("a", "http://127.0.0.1:1").unwrap();
    let pool = Pool::new([one.max_in_flight(1).unwrap()]).unwrap();
    let stage = ScriptedStack::over(pool, &[act(0, Status(200))], |l| {
        l.timeout(ms(300)).unwrap()
    });
    // Its body is not read: it keeps the only place.
    let _first = stage.call(get()).await.unwrap();
    let second = stage.call(request(Method::POST, "body"));
    let error = second.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueTimeout);
    assert!(!error.is_after_sending());
}
