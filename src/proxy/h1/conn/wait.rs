//! What an exchange waits for, and how long.

use std::time::Duration;

use super::{super::send::Waiting, Conn, Phase};
use crate::error::{Error, ErrorKind};

impl Conn {
    /// Arms the time-out of a wait while sending, once a wait. While the answer is read, too,
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
        self.watch.arm(match phase {
            Phase::Head => self.timeouts.response,
            Phase::Continue => CONTINUE,
            Phase::Body | Phase::ClientBody | Phase::Idle | Phase::Write => self.timeouts.idle,
        });
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

/// How long a body waits for `100 (Continue)`: what curl waits, too.
const CONTINUE: Duration = Duration::from_secs(1);
