//! How the rest of a request goes out.

use std::task::{Context, Poll};

use super::{
    super::send::{Out, SendError, Waiting},
    Conn, Phase,
};
use crate::error::Error;

impl Conn {
    /// Goes on writing the request.
    #[inline(never)]
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.poll_send(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(SendError::Client(error))) => return Err(error),
            Poll::Ready(Err(SendError::Backend(error))) => self.send_failed = Some(error),
            Poll::Pending => return Ok(()),
        }
        if self.phase != Phase::Head {
            self.enter(Phase::Head);
        }
        Ok(())
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let left = self.out.left();
            let wrote = self.out.poll_write(&mut self.stream, cx);
            if self.out.left() < left {
                // Progress: the next wait is a new one.
                self.phase = Phase::Idle;
            }
            match wrote {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.keep = false;
                    return Poll::Ready(Err(SendError::Backend(error)));
                }
                Poll::Pending => {
                    self.wait(Waiting::Backend);
                    return Poll::Pending;
                }
            }
            let Some(sending) = &mut self.sending else {
                return Poll::Ready(Ok(()));
            };
            if self.expecting {
                if self.phase != Phase::Continue {
                    self.enter(Phase::Continue);
                }
                return Poll::Pending;
            }
            match sending.poll_fill(&mut self.out, cx) {
                Poll::Ready(Ok(ended)) => {
                    self.phase = Phase::Idle;
                    if ended {
                        self.sending = None;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.keep = false;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.wait(Waiting::Client);
                    return Poll::Pending;
                }
            }
        }
    }

    #[cold]
    pub(super) fn abandon_request(&mut self) {
        self.keep = false;
        self.sending = None;
        self.out = Out::default();
    }
}
