//! The request on its way out.

use std::{
    io,
    task::{Context, Poll},
};

use super::{
    Conn,
    out::Out,
    wait::{Phase, Waiting},
};
use crate::error::Error;

impl<A> Conn<A> {
    /// Goes on writing the request.
    #[inline(never)]
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.poll_send(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(SendError::Backend(error))) => self.send_failed = Some(error),
            Poll::Ready(Err(SendError::Client(error))) => return Err(error),
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
            match self.poll_body(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes the next frame of the body into `out`; false if there is none to come.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, SendError>> {
        let Some(sending) = &mut self.sending else {
            return Poll::Ready(Ok(false));
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
                    self.end_body();
                }
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => {
                self.keep = false;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.wait(Waiting::Client);
                Poll::Pending
            }
        }
    }

    fn end_body(&mut self) {
        if let Some(sending) = self.sending.take() {
            sending.recycle();
        }
    }

    #[cold]
    pub(super) fn abandon_request(&mut self) {
        self.keep = false;
        self.end_body();
        self.out = Out::default();
    }
}

/// Why sending stopped.
pub(super) enum SendError {
    Backend(io::Error),
    Client(Error),
}
