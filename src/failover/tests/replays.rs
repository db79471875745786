//! What the body of another attempt sends, and what is kept for it.

use std::convert::Infallible;

use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use proptest::prelude::*;

use super::*;
use crate::failover::replay::Replay;

#[test]
fn a_superseded_attempt_reads_no_more_of_the_body() {
    let (first, replay) = ReplayBody::new(full(), 1_024);
    let mut second = task::spawn(replay.next_body(true));
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
fn an_ended_body_is_not_shared_and_can_always_be_sent_again() {
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
    let next = replay.next_body(true);
    assert_eq!(
        next.size_hint().exact(),
        Some(10),
        "Content-Length must be the same"
    );
    assert!(!next.is_end_stream());
}

#[test]
fn no_body_is_kept_once_the_response_is_there() {
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
            body = replay.next_body(false);
        }
        let all = tokio_test::block_on(body.collect()).unwrap();
        prop_assert_eq!(all.trailers().is_some(), trailers, "trailers must be sent again");
        prop_assert_eq!(all.to_bytes(), wanted, "each attempt must send the same bytes");
    }
}
