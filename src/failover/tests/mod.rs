mod budgets;
mod replays;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock::{self, Handle};

use super::{layer::*, *};
use crate::{Backend, Error, ErrorKind, context::Exchange, default_table};

type Sent<B> = Request<ReplayBody<B>>;
type Mock<B> = mock::Mock<Sent<B>, Response<&'static str>>;

fn mocked<B>(
    layer: &FailoverLayer,
) -> (Failover<Mock<B>>, Handle<Sent<B>, Response<&'static str>>) {
    let (service, handle) = mock::pair();
    (layer.layer(service), handle)
}

fn request<B>(method: Method, body: B) -> Request<B> {
    Request::builder()
        .method(method)
        .uri("/here?q")
        .header("x-mine", "1")
        .body(body)
        .unwrap()
}

/// What a proxy that gives the head back answers with.
fn failure<B>(kind: ErrorKind, sent: bool, request: Sent<B>) -> Error {
    let (head, _) = request.into_parts();
    let error = Error::new(kind).with_unsent(head);
    if sent { error.after_sending() } else { error }
}

#[tokio::test(start_paused = true)]
async fn the_same_request_is_sent_again_without_a_copy() {
    let (mut service, mut handle) = mocked(&FailoverLayer::new());
    let mut original = request(Method::POST, Empty::<Bytes>::new());
    Exchange::of(original.extensions_mut());
    let mut answer = task::spawn(service.ready().await.unwrap().call(original));
    assert_pending!(answer.poll());
    let (first, send) = handle.next_request().await.unwrap();
    send.send_error(failure(ErrorKind::Connect, false, first));
    assert_pending!(answer.poll());
    let (second, send) = handle.next_request().await.unwrap();
    assert_eq!(second.method(), Method::POST, "the method must be the same");
    assert_eq!(second.uri(), "/here?q", "the target must be the same");
    assert_eq!(second.headers()["x-mine"], "1", "the fields must be there");
    assert!(
        second.extensions().get::<Exchange>().is_some(),
        "the record must go along, or a tried backend is tried again"
    );
    send.send_response(Response::new("b"));
    assert_eq!(assert_ready!(answer.poll()).unwrap().into_body(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_until_the_service_is_ready() {
    let (mut service, mut handle) = mocked(&FailoverLayer::new());
    handle.allow(1);
    let original = request(Method::GET, Empty::<Bytes>::new());
    let mut answer = task::spawn(service.ready().await.unwrap().call(original));
    assert_pending!(answer.poll());
    let (first, send) = handle.next_request().await.unwrap();
    send.send_error(failure(ErrorKind::ResponseClosed, true, first));
    assert_pending!(
        answer.poll(),
        "a clone that is not ready must not be called"
    );
    handle.allow(1);
    assert!(answer.is_woken(), "readiness must wake the retry");
    assert_pending!(answer.poll());
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(Response::new("b"));
    assert!(assert_ready!(answer.poll()).is_ok());
}

/// Sends a request to a service whose calls end as in `ends`; returns how often the service was
/// called, and the result.
async fn run<B>(
    layer: &FailoverLayer,
    method: Method,
    body: B,
    ends: &[Ending],
) -> (usize, Result<(), Error>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::BoxError>,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, ends) = (calls.clone(), ends.to_vec());
    let inner = tower::service_fn(move |sent: Sent<B>| {
        let ending = ends[counted.fetch_add(1, Relaxed)];
        async move {
            if ending.reads {
                let (head, body) = sent.into_parts();
                let mut body = pin!(body);
                let _ = body.frame().await;
                return Err(failure(
                    ending.kind,
                    ending.sent,
                    Request::from_parts(head, ReplayBody::<B>::default()),
                ));
            }
            Err::<Response<()>, _>(failure(ending.kind, ending.sent, sent))
        }
    });
    let answer = layer.layer(inner).oneshot(request(method, body)).await;
    (calls.load(Relaxed), answer.map(drop))
}

#[derive(Clone, Copy)]
struct Ending {
    kind: ErrorKind,
    sent: bool,
    reads: bool,
}

const REFUSED: Ending = Ending {
    kind: ErrorKind::Connect,
    sent: false,
    reads: false,
};
const CLOSED: Ending = Ending {
    kind: ErrorKind::ResponseClosed,
    sent: true,
    reads: true,
};
const NONE_LEFT: Ending = Ending {
    kind: ErrorKind::NoBackend,
    sent: false,
    reads: false,
};

fn full() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"some bytes"))
}

#[tokio::test(start_paused = true)]
async fn one_more_attempt_and_no_more() {
    let layer = FailoverLayer::new();
    let (calls, end) = run(&layer, Method::GET, full(), &[REFUSED, CLOSED, CLOSED]).await;
    assert_eq!(calls, 2);
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::ResponseClosed,
        "the last error stands"
    );

    let layer = layer.max_attempts(3).unwrap();
    let (calls, _) = run(
        &layer,
        Method::GET,
        full(),
        &[REFUSED, REFUSED, CLOSED, CLOSED],
    )
    .await;
    assert_eq!(calls, 3);

    let layer = layer.max_attempts(1).unwrap();
    let (calls, _) = run(&layer, Method::GET, full(), &[REFUSED]).await;
    assert_eq!(calls, 1, "a layer that is off passes through");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_unsafe_to_repeat_is_sent_once() {
    let layer = FailoverLayer::new();
    let (calls, _) = run(&layer, Method::POST, full(), &[REFUSED, REFUSED]).await;
    assert_eq!(calls, 2, "nothing was sent: any method");
    let (calls, _) = run(&layer, Method::POST, full(), &[CLOSED]).await;
    assert_eq!(
        calls, 1,
        "a POST that may have been processed is never repeated"
    );
    let read = Ending {
        reads: true,
        ..REFUSED
    };
    let (calls, _) = run(&layer, Method::POST, full(), &[read]).await;
    assert_eq!(calls, 1, "nor one of which a byte was read");
    let (calls, _) = run(&layer, Method::PUT, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 2, "a PUT may be, with what was read of it");
    let small = layer.clone().replay_limit(9);
    let (calls, _) = run(&small, Method::PUT, full(), &[CLOSED]).await;
    assert_eq!(calls, 1, "more was read than is kept");
    let client = Ending {
        kind: ErrorKind::ClientBody,
        ..CLOSED
    };
    let (calls, _) = run(&layer, Method::PUT, full(), &[client]).await;
    assert_eq!(calls, 1, "the client's own failure");
}

#[tokio::test(start_paused = true)]
async fn the_first_error_stands_where_there_is_no_other_backend() {
    let layer = FailoverLayer::new();
    let (calls, end) = run(&layer, Method::GET, full(), &[REFUSED, NONE_LEFT]).await;
    assert_eq!(calls, 2);
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::Connect,
        "not that none is left"
    );
    let (calls, end) = run(&layer, Method::GET, full(), &[NONE_LEFT]).await;
    assert_eq!(calls, 1, "asking again at once is pointless");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::NoBackend);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_keeps_the_head_is_not_called_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let inner = tower::service_fn(move |_: Sent<Empty<Bytes>>| {
        counted.fetch_add(1, Relaxed);
        async { Err::<Response<()>, _>(crate::BoxError::from("boom")) }
    });
    let layered = FailoverLayer::new().layer(inner);
    let error = layered
        .oneshot(request(Method::GET, Empty::new()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Service);
    assert_eq!(calls.load(Relaxed), 1);
}

#[derive(Debug)]
struct Never;

impl Policy for Never {
    fn decide(&self, _: &Failed<'_>) -> Decision {
        Decision::Keep
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_policy_decides() {
    let layer = FailoverLayer::new().with_policy(Never);
    let (calls, _) = run(&layer, Method::GET, full(), &[REFUSED]).await;
    assert_eq!(calls, 1);
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let settings = &FailoverLayer::new().settings;
    assert!(settings.hedge.is_none() && settings.retry_statuses.is_none());
    assert!(settings.timeout.is_none() && settings.per_try_timeout.is_none());
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    let text = str::to_owned;
    let compared = [
        ("attempts", settings.max_attempts.to_string()),
        ("retried before", text("any method")),
        ("retried where", text("any method")),
        ("retried after", text("idempotent methods")),
        (
            "replay buffer",
            format!("{} KiB", settings.replay_limit / 1_024),
        ),
        ("budget", format!("{} %", budget::SHARE / 10)),
        ("budget", format!("{} a second", budget::PER_SECOND / 1_000)),
        ("budget", seconds(budget::SAVED_UP)),
        ("paid from it", text("every retry and hedge")),
        ("hedging", text("off")),
        ("hedging", format!("{}th percentile", hedge::PERCENTILE)),
        ("hedging", format!("{} at least", millis(hedge::AT_LEAST))),
        ("hedging", format!("{} at most", millis(hedge::AT_MOST))),
        (
            "the delay of a hedge",
            percentile_history::FACTOR.to_string(),
        ),
        ("timeout of one attempt", text("none")),
        ("statuses that are retried", text("none")),
        ("wait before the second", text("none")),
        ("wait before the third", millis(Backoff::BASE)),
        ("wait before the third", millis(Backoff::MAX)),
        ("`Retry-After`", seconds(backoff::RETRY_AFTER)),
    ];
    default_table::compare(include_str!("../mod.rs"), &compared);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    for attempts in [0, 11] {
        let error = FailoverLayer::new().max_attempts(attempts).unwrap_err();
        assert_eq!(error.field(), "max_attempts");
    }
    for bad in [Duration::ZERO, Duration::from_secs(3_601)] {
        let error = FailoverLayer::new().per_try_timeout(bad).unwrap_err();
        assert_eq!(error.field(), "per_try_timeout");
        let error = FailoverLayer::new().timeout(bad).unwrap_err();
        assert_eq!(error.field(), "timeout");
    }
    for bad in [200, 399, 600, 1_000] {
        let error = FailoverLayer::new().retry_statuses([503, bad]).unwrap_err();
        assert_eq!(error.field(), "retry_statuses");
    }
}

#[test]
fn services_can_be_shared_by_threads() {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    let (service, _handle) = mocked::<Full<Bytes>>(&FailoverLayer::new());
    check(&service);
    let _ = Backend::new("a", "http://127.0.0.1:1");
}
