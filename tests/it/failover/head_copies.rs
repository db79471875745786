//! Copies of heads: that of an attempt that has ended is not used for another.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, Error, ErrorKind,
    context::{Exchange, Outcome},
    failover::{Budget, FailoverLayer, Hedge, ReplayBody},
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::scripted_stack::get;

const DELAY: Duration = Duration::from_millis(50);
const MARK: &str = "x-head-of";

/// What an attempt does beside noting whose head it was given.
#[derive(Clone, Copy)]
enum Part {
    Answers,
    /// Answers late, and offers nothing, as a foreign service.
    AnswersLate,
    /// Lends its head when that is asked for, and fails in the same moment.
    FailsAsItLends,
    /// Lends its head, and hangs.
    Hangs,
}

/// Plays one attempt after the other; returns of which attempt each one's head is, if of any.
async fn play(parts: &'static [Part], layer: FailoverLayer) -> Vec<Option<usize>> {
    let given = Arc::new(Mutex::new(Vec::new()));
    let (heads, nth) = (given.clone(), Arc::new(AtomicUsize::new(0)));
    let inner = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let nth = nth.fetch_add(1, SeqCst);
        let (mut head, _) = request.into_parts();
        let mark = head.headers.insert(MARK, nth.into());
        let of = mark.map(|mark| mark.to_str().unwrap().parse().unwrap());
        heads.lock().unwrap().push(of);
        let exchange = head.extensions.get::<Exchange>().cloned().unwrap();
        let backend = Backend::new(format!("b{nth}"), "http://127.0.0.1:1").unwrap();
        let number = exchange.begin_attempt(backend);
        let attempt: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            match parts.get(nth).copied().unwrap_or(Part::Answers) {
                Part::Answers => {}
                Part::AnswersLate => sleep(4 * DELAY).await,
                Part::FailsAsItLends => {
                    let began = Instant::now();
                    let mut asked = false;
                    // Nothing but the layer's own clock wakes it: it is polled, then it is asked
                    // for its head, then it is polled again.
                    poll_fn(|_| {
                        if began.elapsed() < DELAY || !std::mem::replace(&mut asked, true) {
                            return Poll::Pending;
                        }
                        exchange.offer_head_copy(&head, true);
                        Poll::Ready(())
                    })
                    .await;
                    let kind = ErrorKind::ResponseClosed;
                    exchange.end_attempt(number, Outcome::Failed(kind));
                    return Err(Error::new(kind).after_sending().with_unsent(head));
                }
                Part::Hangs => {
                    poll_fn(|_| {
                        exchange.offer_head_copy(&head, true);
                        Poll::<()>::Pending
                    })
                    .await;
                }
            }
            exchange.end_attempt(number, Outcome::Ok);
            Ok(Response::new(Full::<Bytes>::default()))
        });
        attempt
    });
    let layer = layer
        .max_attempts(3)
        .unwrap()
        .budget(Budget::new(1.0, 100.0).unwrap());
    let mut request = get();
    Exchange::of(request.extensions_mut());
    let response = layer.layer(inner).oneshot(request).await;
    assert!(response.is_ok(), "{:?}", response.err());
    let given = given.lock().unwrap().clone();
    assert_eq!(given.len(), parts.len(), "{given:?}");
    given
}

#[tokio::test(start_paused = true)]
async fn a_hedge_sends_the_head_of_the_attempt_that_it_runs_beside() {
    use Part::{Answers, AnswersLate, FailsAsItLends, Hangs};
    let hedging = || FailoverLayer::new().hedge(Hedge::new().after(DELAY).unwrap());
    let beside_the_first = play(&[Hangs, Answers], hedging()).await;
    assert_eq!(beside_the_first, [None, Some(0)]);
    // The first attempt is asked for its head as it fails; the copy that it made is not used.
    let beside_the_second = play(&[FailsAsItLends, Hangs, Answers], hedging()).await;
    assert_eq!(beside_the_second, [None, Some(0), Some(1)]);
    // And not that of a hedge beside one that offers none: there is no such hedge.
    let alone = play(&[FailsAsItLends, AnswersLate], hedging()).await;
    assert_eq!(alone, [None, Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_a_timeout_sends_the_head_of_the_attempt_that_timed_out() {
    use Part::{Answers, FailsAsItLends, Hangs};
    let limited = || FailoverLayer::new().per_try_timeout(DELAY).unwrap();
    let given = play(&[FailsAsItLends, Hangs, Answers], limited()).await;
    assert_eq!(given, [None, Some(0), Some(1)]);
    let given = play(&[Hangs, Hangs, Answers], limited()).await;
    assert_eq!(given, [None, Some(0), Some(1)]);
}
