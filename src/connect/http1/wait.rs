//! The phases of an exchange and their deadlines.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::Conn;
use crate::{
    error::{Error, ErrorKind},
    timer::sweep::Deadline,
};

/// What the exchange waits for, and so which time-out is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Body,
    ClientBody,
    Continue,
    Head,
    Idle,
    Write,
}

/// Which side the request waits for while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Backend,
    Client,
}

/// The time-outs of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
}

/// The deadline of the current phase.
pub(super) struct Clock {
    watch: Deadline,
    timeouts: Timeouts,
}

impl Clock {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            watch: Deadline::new(),
            timeouts,
        }
    }
}

impl<A> Conn<A> {
    /// Arms the time-out of a wait while sending, once a wait. While the response is read, too,
    /// there is one wait for both directions.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        let phase = match waiting {
            Waiting::Backend => Phase::Write,
            Waiting::Client => Phase::ClientBody,
        };
        if self.phase != phase && self.phase != Phase::Body {
            self.enter(phase);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let Some(clock) = &self.clock else { return };
        clock.watch.arm(match phase {
            Phase::Head => clock.timeouts.response,
            Phase::Continue => CONTINUE,
            Phase::Body | Phase::ClientBody | Phase::Idle | Phase::Write => clock.timeouts.idle,
        });
    }

    /// Is ready once the deadline passed; never, where the caller has a deadline of its own.
    pub(super) fn poll_late(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.clock {
            Some(clock) => clock.watch.poll_expired(cx),
            None => Poll::Pending,
        }
    }

    /// Returns true if an idle connection is of no more use: its time is over, or the backend
    /// closed it or sent what no request asked for.
    pub(crate) fn is_stale(&mut self) -> bool {
        self.clock.as_ref().is_some_and(|c| c.watch.is_expired()) || self.stream.is_stale()
    }

    #[cold]
    pub(super) fn timed_out(&self) -> Error {
        let kind = match self.phase {
            Phase::ClientBody => ErrorKind::ClientBodyTimeout,
            Phase::Write => ErrorKind::RequestWriteTimeout,
            Phase::Body | Phase::Continue | Phase::Head | Phase::Idle => {
                ErrorKind::ResponseHeadTimeout
            }
        };
        Error::new(kind).after_sending()
    }
}

/// How long a body waits for 100 (Continue); curl waits as long.
const CONTINUE: Duration = Duration::from_secs(1);
