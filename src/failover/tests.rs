use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use proptest::prelude::*;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock::{self, Handle};

use super::{layer::*, replay::Replay, *};
use crate::{Backend, Error, ErrorKind, context::Exchange};

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

/// Fails as told, `attempts` times at most; returns how often it was called, and the end.
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
async fn what_may_not_be_sent_twice_is_not() {
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
async fn an_empty_budget_ends_retries_for_all_services_of_a_layer() {
    let layer = FailoverLayer::new().budget(Budget::new(0.0, 0.1).unwrap());
    let (calls, _) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 2, "one retry was saved up");
    let (calls, end) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 1, "and it is used up");
    assert!(
        end.unwrap_err().take_unsent().is_some(),
        "an error that stands must give back what it had"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    let (calls, _) = run(&layer, Method::GET, full(), &[CLOSED, CLOSED]).await;
    assert_eq!(calls, 2, "time earns the next");
}

#[tokio::test(start_paused = true)]
async fn only_attempts_that_may_have_reached_a_backend_are_paid_for() {
    const LATE: Ending = Ending {
        kind: ErrorKind::ConnectTimeout,
        ..REFUSED
    };
    const NO_TLS: Ending = Ending {
        kind: ErrorKind::ConnectTls,
        ..REFUSED
    };
    // An idle connection broke under the request, and a new one was refused.
    const REDIALLED: Ending = Ending {
        sent: true,
        ..REFUSED
    };
    const SAVED: usize = 5;
    // How the attempts end, how many are made, what is paid of it, and how many are made where
    // there is nothing to pay from.
    let table: &[(&[Ending], usize, usize, usize)] = &[
        (&[REFUSED, REFUSED, REFUSED], 3, 0, 3),
        (&[CLOSED, CLOSED, CLOSED], 3, 2, 1),
        (&[REFUSED, CLOSED, CLOSED], 3, 1, 2),
        (&[REFUSED, REFUSED, CLOSED], 3, 0, 3),
        // What was paid for the second is for the third, or comes back.
        (&[CLOSED, REFUSED, CLOSED], 3, 1, 1),
        (&[CLOSED, REFUSED, REFUSED], 3, 0, 1),
        (&[CLOSED, NONE_LEFT], 2, 0, 1),
        (&[REFUSED, NONE_LEFT], 2, 0, 2),
        (&[NONE_LEFT], 1, 0, 1),
        (&[LATE, REFUSED, REFUSED], 3, 0, 1),
        (&[LATE, LATE, LATE], 3, 2, 1),
        (&[NO_TLS, NO_TLS, NO_TLS], 3, 2, 1),
        (&[REDIALLED, REDIALLED, REDIALLED], 3, 2, 1),
    ];
    for (ends, made, paid, free) in table {
        let what: Vec<_> = ends.iter().map(|end| (end.kind, end.sent)).collect();
        let budget = Budget::new(0.0, SAVED as f64 / 10.0).unwrap();
        let layer = FailoverLayer::new().max_attempts(3).unwrap();
        let rich = layer.clone().budget(budget.clone());
        let (calls, _) = run(&rich, Method::GET, full(), ends).await;
        assert_eq!(calls, *made, "{what:?}");
        let now = tokio::time::Instant::now();
        let left = (0..SAVED).take_while(|_| budget.withdraw(now)).count();
        assert_eq!(SAVED - left, *paid, "{what:?}: of the budget");

        let poor = layer.budget(Budget::new(0.0, 0.0).unwrap());
        let (calls, end) = run(&poor, Method::GET, full(), ends).await;
        assert_eq!(calls, *free, "{what:?}: with an empty budget");
        assert!(end.unwrap_err().kind() != ErrorKind::Service);
    }
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
async fn a_policy_of_ones_own_decides() {
    let layer = FailoverLayer::new().with_policy(Never);
    let (calls, _) = run(&layer, Method::GET, full(), &[REFUSED]).await;
    assert_eq!(calls, 1);
}

#[test]
fn a_cancelled_attempt_reads_nothing_any_more() {
    let (first, replay) = ReplayBody::new(full(), 1_024);
    let mut second = task::spawn(replay.next(true));
    let mut first = task::spawn(first);
    let stolen = assert_ready!(first.enter(|cx, body| body.poll_frame(cx)));
    assert!(
        stolen.unwrap().is_err(),
        "the old attempt must not get a frame"
    );
    let frame = assert_ready!(second.enter(|cx, body| body.poll_frame(cx)));
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "some bytes");
}

#[test]
fn an_ended_body_costs_nothing_and_is_always_there_again() {
    let (body, replay) = ReplayBody::new(Empty::<Bytes>::new(), 0);
    assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
    assert!(matches!(replay, Replay::Empty));
    assert!(replay.is_untouched() && replay.is_possible());
}

#[test]
fn lengths_are_known_at_each_attempt() {
    let (body, replay) = ReplayBody::new(full(), 1_024);
    assert_eq!(body.size_hint().exact(), Some(10));
    let mut body = task::spawn(body);
    let _ = assert_ready!(body.enter(|cx, body| body.poll_frame(cx)));
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
    let next = replay.next(true);
    assert_eq!(
        next.size_hint().exact(),
        Some(10),
        "Content-Length must be the same"
    );
    assert!(!next.is_end_stream());
}

#[test]
fn nothing_is_kept_once_the_response_is_there() {
    let kept = Bytes::from(vec![7; 100]);
    let (body, replay) = ReplayBody::new(Full::new(kept.clone()), 1_024);
    replay.give_up();
    let mut body = task::spawn(body);
    let frame = assert_ready!(body.enter(|cx, body| body.poll_frame(cx)));
    drop(frame);
    assert!(kept.is_unique(), "no handle may be left behind");
}

fn chunks(
    chunks: &[Vec<u8>],
    trailers: bool,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + use<> {
    let mut frames: Vec<_> = chunks
        .iter()
        .map(|chunk| Ok(Frame::data(Bytes::from(chunk.clone()))))
        .collect();
    if trailers {
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "1".parse().unwrap());
        frames.push(Ok(Frame::trailers(fields)));
    }
    StreamBody::new(Stream(frames.into_iter()))
}

struct Stream<I>(I);

impl<I: Iterator + Unpin> futures_core::Stream for Stream<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

proptest! {
    #[test]
    fn a_replay_is_the_same_bytes(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..12),
        cuts in prop::collection::vec(0_usize..14, 0..4),
        trailers in any::<bool>(),
        room in 0_usize..600,
    ) {
        let wanted = sent.concat();
        let (body, replay) = ReplayBody::new(chunks(&sent, trailers), room);
        let mut body = body;
        for cut in cuts {
            let mut cancelled = task::spawn(body);
            let mut read = 0;
            for _ in 0..cut {
                let frame = assert_ready!(cancelled.enter(|cx, body| body.poll_frame(cx)));
                let Some(frame) = frame else { break };
                read += match frame.unwrap().into_data() {
                    Ok(data) => data.len(),
                    Err(_) => 6,
                };
            }
            prop_assert!(read <= room || !replay.is_possible(), "{read} were read, {room} kept");
            if !replay.is_possible() {
                return Ok(());
            }
            body = replay.next(false);
        }
        let all = tokio_test::block_on(body.collect()).unwrap();
        prop_assert_eq!(all.trailers().is_some(), trailers, "trailers must be sent again");
        prop_assert_eq!(all.to_bytes(), wanted, "each attempt must send the same bytes");
    }
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let docs = include_str!("mod.rs");
    let rows = [
        format!("| attempts, the first included | {MAX_ATTEMPTS} |"),
        format!("| replay buffer | {} KiB a request |", REPLAY_LIMIT / 1_024),
        format!(
            "| budget | {} % of the requests and {} a second, saved up for {} s |",
            budget::SHARE / 10,
            budget::PER_SECOND / 1_000,
            budget::SAVED_UP.as_secs()
        ),
        format!(
            "GET and HEAD after the {}th percentile, {} ms at least, {} ms at most |",
            hedge::PERCENTILE,
            hedge::AT_LEAST.as_millis(),
            hedge::AT_MOST.as_millis()
        ),
        format!(
            "| wait before the third, and doubling | up to {} ms, up to {} ms |",
            Backoff::BASE.as_millis(),
            Backoff::MAX.as_millis()
        ),
        format!(
            "| `Retry-After` honoured | up to {} s;",
            backoff::RETRY_AFTER.as_secs()
        ),
    ];
    for row in rows {
        assert!(docs.contains(&row), "the table must say: {row}");
    }
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
