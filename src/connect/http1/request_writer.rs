//! Writing of the request while its response is awaited.
//!
//! Writes as long as socket and body are ready; stops at whichever waits, and arms the time-out of
//! that side. A full socket stops the polls of the body: one frame at most is held.
//!
//! | waits for | phase | which task wakes |
//! |---|---|---|
//! | the socket | `Write` | the one that polls the exchange |
//! | the body | `ClientBody` | whatever the body registers it with |
//! | 100 (Continue) | `Continue` | the read of the response head |

use std::{
    io,
    task::{Context, Poll},
};

use super::{
    Conn,
    phases::{Phase, WaitingFor},
    write_queue::WriteQueue,
};
use crate::error::Error;

impl<A> Conn<A> {
    /// Writes more of the request. An error of the socket is kept for later, as a response may come.
    #[inline(never)]
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.poll_write_request(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(WriteError::Backend(error))) => self.write_error = Some(error),
            Poll::Ready(Err(WriteError::Client(error))) => return Err(error),
            Poll::Pending => return Ok(()),
        }
        // The request is sent: the time of the response begins.
        if self.phase != Phase::Head {
            self.enter(Phase::Head);
        }
        Ok(())
    }

    /// Ready once the request is written and flushed, or with an error that names the side. Also
    /// called while the response body is read.
    pub(super) fn poll_write_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            let left = self.out.left();
            let wrote = self.out.poll_write(&mut self.stream, cx);
            if self.out.left() < left {
                // Bytes were written: the next wait has a time-out of its own.
                self.phase = Phase::Idle;
            }
            match wrote {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.reusable = false;
                    return Poll::Ready(Err(WriteError::Backend(error)));
                }
                Poll::Pending => {
                    self.wait(WaitingFor::Backend);
                    return Poll::Pending;
                }
            }
            match self.poll_body(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes the next frame of the body into `out`. Returns false at the end of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, WriteError>> {
        let Some(body_writer) = &mut self.body_writer else {
            return Poll::Ready(Ok(false));
        };
        // The head is sent by now: `out` is empty.
        if self.awaits_continue {
            if self.phase != Phase::Continue {
                self.enter(Phase::Continue);
            }
            return Poll::Pending;
        }
        match body_writer.poll_read(&mut self.out, cx) {
            Poll::Ready(Ok(ended)) => {
                self.phase = Phase::Idle;
                if ended {
                    self.end_body();
                }
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => {
                self.reusable = false;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.wait(WaitingFor::Client);
                Poll::Pending
            }
        }
    }

    /// The box of the body goes to the thread's next one.
    fn end_body(&mut self) {
        if let Some(body_writer) = self.body_writer.take() {
            body_writer.recycle();
        }
    }

    /// The connection cannot be used again: the backend has a part of a message.
    #[cold]
    pub(super) fn abandon_request(&mut self) {
        self.reusable = false;
        self.end_body();
        self.out = WriteQueue::default();
    }
}

/// Why the request was not written to its end.
///
/// The side that the error is charged to; see `judge_error` in `health`.
pub(super) enum WriteError {
    Backend(io::Error),
    Client(Error),
}
