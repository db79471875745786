//! What the body of another attempt sends, and what is kept for it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;
use http_body::{Frame, SizeHint};
use proptest::{prelude::*, test_runner::TestCaseError};

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

/// A body of these chunks that is not ready before each frame where `pending` says so. It knows how
/// much is left, at least.
struct Chunks {
    left: VecDeque<Kind>,
    pending: VecDeque<bool>,
}

enum Kind {
    Data(Vec<u8>),
    Trailers,
}

impl Chunks {
    fn new(chunks: &[Vec<u8>], trailers: bool, pending: &[bool]) -> Self {
        let mut left: VecDeque<_> = chunks.iter().cloned().map(Kind::Data).collect();
        left.extend(trailers.then_some(Kind::Trailers));
        Self {
            left,
            pending: pending.iter().copied().collect(),
        }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pending.pop_front() == Some(true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.left.pop_front().map(|next| match next {
            Kind::Data(data) => Ok(Frame::data(Bytes::from(data))),
            Kind::Trailers => {
                let mut fields = HeaderMap::new();
                fields.insert("x-sum", "1".parse().unwrap());
                Ok(Frame::trailers(fields))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let each = self.left.iter().map(|next| match next {
            Kind::Data(data) => data.len() as u64,
            Kind::Trailers => 0,
        });
        // Exact: a wrong sum over what is kept and what is not shows at once.
        SizeHint::with_exact(each.sum())
    }
}

/// One attempt's frames: what it read, and what it has to read yet.
struct Reading {
    body: task::Spawn<ReplayBody<Chunks>>,
    data: Vec<u8>,
    trailers: usize,
    frames: usize,
}

impl Reading {
    fn new(body: ReplayBody<Chunks>) -> Self {
        Self {
            body: task::spawn(body),
            data: Vec::new(),
            trailers: 0,
            frames: 0,
        }
    }

    /// Reads a frame; returns false at the end.
    fn next(&mut self) -> bool {
        let frame = loop {
            match self.body.enter(|cx, body| body.poll_frame(cx)) {
                Poll::Ready(frame) => break frame,
                Poll::Pending => assert!(self.body.is_woken(), "a wait without an end"),
            }
        };
        let Some(frame) = frame else {
            return false;
        };
        self.frames += 1;
        match frame.unwrap().into_data() {
            Ok(data) => self.data.extend_from_slice(&data),
            Err(_) => self.trailers += 1,
        }
        true
    }

    /// What a client that frames the body relies on.
    fn check(&self, wanted: &[u8], frames: usize) -> Result<(), TestCaseError> {
        let unsent = (wanted.len() - self.data.len()) as u64;
        let hint = self.body.size_hint();
        prop_assert_eq!(&self.data, &wanted[..self.data.len()]);
        prop_assert!(hint.lower() <= unsent, "{hint:?}, {unsent} are unsent");
        prop_assert_eq!(hint.exact(), Some(unsent), "the length must be the same");
        let ends = self.body.is_end_stream();
        prop_assert!(
            !ends || self.frames == frames,
            "frame {} of {frames}",
            self.frames
        );
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_replay_is_the_same_bytes(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..12),
        cuts in prop::collection::vec(0_usize..14, 0..5),
        trailers in any::<bool>(),
        pending in prop::collection::vec(any::<bool>(), 0..30),
        room in 0_usize..600,
    ) {
        let wanted = sent.concat();
        let frames = sent.len() + usize::from(trailers);
        let (body, replay) = ReplayBody::new(Chunks::new(&sent, trailers, &pending), room);
        let mut reading = Reading::new(body);
        for cut in cuts {
            reading.check(&wanted, frames)?;
            while reading.frames < cut && reading.next() {
                reading.check(&wanted, frames)?;
            }
            // The trailers are 6 bytes.
            let read = reading.data.len() + 6 * reading.trailers;
            prop_assert!(read <= room || !replay.is_possible(), "{read} were read, {room} kept");
            if !replay.is_possible() {
                break;
            }
            reading = Reading::new(replay.next_body(false));
        }
        // An attempt without a successor sends all, whether another could follow or not.
        while reading.next() {
            reading.check(&wanted, frames)?;
        }
        prop_assert_eq!(reading.frames, frames);
        prop_assert!(reading.body.is_end_stream());
        prop_assert_eq!(reading.trailers, usize::from(trailers), "trailers must be sent again");
        prop_assert_eq!(reading.data, wanted, "each attempt must send the same bytes");
    }
}
