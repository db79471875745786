//! Policies of a user's own: they are asked about failures, statuses and hedges.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use evenkeel::{
    ErrorKind,
    context::Outcome,
    failover::{Answered, Decision, Failed, FailoverLayer, Hedge, Policy, Standard},
};
use http::{Method, request::Parts};

use super::scripted_stack::{
    End::{Fails, Hangs, Status},
    ScriptedStack, act, get, request,
};

const CLOSED: ErrorKind = ErrorKind::ResponseClosed;

/// Sends a payment once: a request whose path begins with `/pay`.
#[derive(Debug, Default)]
pub(super) struct NoPayments {
    standard: Standard,
    statuses_asked: Arc<AtomicUsize>,
}

fn is_payment(head: &Parts) -> bool {
    head.uri.path().starts_with("/pay")
}

impl Policy for NoPayments {
    fn decide(&self, failed: &Failed<'_>) -> Decision {
        match is_payment(failed.head()) {
            true => Decision::Keep,
            false => self.standard.decide(failed),
        }
    }

    fn decide_status(&self, answered: &Answered<'_>) -> Decision {
        self.statuses_asked.fetch_add(1, Relaxed);
        assert_eq!(answered.headers().get("retry-after"), None);
        match is_payment(answered.head()) {
            true => {
                assert_eq!(answered.status(), 503);
                Decision::Keep
            }
            false => self.standard.decide_status(answered),
        }
    }

    fn may_hedge(&self, head: &Parts) -> bool {
        !is_payment(head) && self.standard.may_hedge(head)
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_policy_keeps_is_sent_once_whatever_happens() {
    use Outcome::{Discarded, Failed, Hedged, Ok as Whole};
    // What the first attempt does; what becomes of a payment, and of any other request.
    for (first, paid, pay_ends, end, ends) in [
        (
            act(5, Fails(CLOSED)),
            Err(CLOSED),
            [Failed(CLOSED)],
            Ok(200),
            [Failed(CLOSED), Whole],
        ),
        (
            act(5, Status(503)),
            Ok(503),
            [Whole],
            Ok(200),
            [Discarded, Whole],
        ),
        (
            act(200, Status(201)),
            Ok(201),
            [Whole],
            Ok(200),
            [Hedged, Whole],
        ),
    ] {
        for (path, end, ends) in [("/pay/1", paid, &pay_ends[..]), ("/order/1", end, &ends)] {
            let stage = ScriptedStack::new(&[first, act(5, Status(200))], |layer| {
                let hedge = Hedge::new().methods([Method::PUT]).unwrap();
                let hedge = hedge.after(Duration::from_millis(50)).unwrap();
                let layer = layer.hedge(hedge).retry_statuses([503]).unwrap();
                layer.with_policy(NoPayments::default())
            });
            let mut request = request(Method::PUT, "");
            *request.uri_mut() = path.parse().unwrap();
            let run = stage.run(request).await;
            assert_eq!((run.end, &*run.outcomes), (end, ends), "{path}: {first:?}");
            assert_eq!(stage.begun.load(Relaxed), ends.len(), "{path}: {first:?}");
            assert_eq!(stage.leases(), 0, "{path}: {first:?}");
            assert_eq!(
                stage.spent(),
                ends.len() - 1,
                "{path}: {first:?}: of the budget"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_asked_once_for_each_status_that_is_retried() {
    let asked = Arc::new(AtomicUsize::new(0));
    for (method, status, count) in [
        (Method::GET, 503, 1),
        (Method::GET, 500, 0),
        (Method::GET, 200, 0),
        (Method::POST, 503, 0),
    ] {
        let policy = NoPayments {
            statuses_asked: asked.clone(),
            ..NoPayments::default()
        };
        let acts = [act(5, Status(status)), act(5, Status(200))];
        let stage = ScriptedStack::new(&acts, |layer| {
            layer.retry_statuses([503]).unwrap().with_policy(policy)
        });
        stage.run(request(method.clone(), "")).await.end.unwrap();
        assert_eq!(asked.swap(0, Relaxed), count, "{method} {status}");
    }
}

/// Hedges everything, and keeps each response.
#[derive(Debug)]
struct KeepsResponses;

impl Policy for KeepsResponses {
    fn decide(&self, failed: &Failed<'_>) -> Decision {
        Standard::default().decide(failed)
    }

    fn decide_status(&self, _: &Answered<'_>) -> Decision {
        Decision::Keep
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_the_policy_keeps_wins_while_another_attempt_runs() {
    let acts = [act(0, Hangs), act(5, Status(503))];
    let layer = |layer: FailoverLayer| {
        let layer = layer.hedge(Hedge::new().after(Duration::from_millis(50)).unwrap());
        layer
            .retry_statuses([503])
            .unwrap()
            .with_policy(KeepsResponses)
    };
    let stage = ScriptedStack::new(&acts, layer);
    let run = stage.run(get()).await;
    assert_eq!(run.end, Ok(503));
    assert_eq!(run.outcomes, [Outcome::Hedged, Outcome::Ok]);
    assert_eq!(stage.leases(), 0);
}
