//! The phases of an exchange and their deadlines.
//!
//! | phase | begins | limit | error |
//! |---|---|---|---|
//! | `Write` | the socket takes no more of the request | idle | `RequestWriteTimeout` |
//! | `ClientBody` | the request body has no frame | idle | `ClientBodyTimeout` |
//! | `Continue` | the head is sent, the body waits for 100 | 1 s | none: the body is sent |
//! | `Head` | the request is sent | response | `ResponseHeadTimeout` |
//! | `Body` | the response body waits for the backend | idle | `ResponseBodyTimeout`, or the client's |
//! | `Idle` | the exchange is over | idle | `is_stale` |
//!
//! One deadline of the sweep serves them all: to enter a phase is one atomic store. Progress sets
//! `Idle`, so that the next wait enters its phase and has the whole time again.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::Conn;
use crate::{
    error::{Error, ErrorKind},
    timer::sweep::Deadline,
};

/// The phase of an exchange, which selects the time-out.
///
/// `Idle` stands for "no wait is timed" within an exchange as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Body,
    ClientBody,
    Continue,
    Head,
    Idle,
    Write,
}

/// The side that a request waits for while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitingFor {
    Backend,
    Client,
}

/// The time-outs of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
}

impl Timeouts {
    fn of(self, phase: Phase) -> Duration {
        match phase {
            Phase::Head => self.response,
            Phase::Continue => CONTINUE,
            Phase::Body | Phase::ClientBody | Phase::Idle | Phase::Write => self.idle,
        }
    }
}

/// The deadline of the current phase.
pub(super) struct PhaseTimer {
    deadline: Deadline,
    timeouts: Timeouts,
}

impl PhaseTimer {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            deadline: Deadline::new(),
            timeouts,
        }
    }
}

impl<A> Conn<A> {
    /// Arms the time-out of a wait while the request is sent. The response body has one time-out for both
    /// directions.
    ///
    /// A phase that goes on keeps its deadline.
    pub(super) fn wait(&mut self, waiting: WaitingFor) {
        let phase = match waiting {
            WaitingFor::Backend => Phase::Write,
            WaitingFor::Client => Phase::ClientBody,
        };
        if self.phase != phase && self.phase != Phase::Body {
            self.enter(phase);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let Some(timer) = &self.timer else { return };
        timer.deadline.arm(timer.timeouts.of(phase));
    }

    /// Is ready once the deadline has passed; never, if the caller has a deadline of its own.
    pub(super) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.timer {
            Some(timer) => timer.deadline.poll_expired(cx),
            None => Poll::Pending,
        }
    }

    /// Returns true if an idle connection is no longer usable: its time is up, the backend has closed it,
    /// or the backend has sent data that no request asked for.
    pub(crate) fn is_stale(&mut self) -> bool {
        self.timer.as_ref().is_some_and(|c| c.deadline.is_expired()) || self.stream.is_stale()
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
        self.over_limit(kind).after_sending()
    }

    /// Returns the error of the current phase's time-out.
    #[cold]
    pub(super) fn over_limit(&self, kind: ErrorKind) -> Error {
        match &self.timer {
            Some(timer) => Error::timed_out(kind, timer.timeouts.of(self.phase)),
            None => Error::new(kind),
        }
    }
}

/// How long a body waits for 100 (Continue); curl waits as long.
const CONTINUE: Duration = Duration::from_secs(1);
