//! `Phases`: where the time of an attempt went.
//!
//! Two readings of the clock give four phases: the service that connects knows how long that took, the
//! layer that sees the head knows when it came, and the end knows the duration. `body` is what is
//! left. A phase that no layer recorded is `None` and not 0, so that a reader does not take it for
//! fast.

use std::time::Duration;

/// Where the time of one attempt went; see [`Attempt::phases`](super::Attempt::phases).
///
/// The phases follow one another: their sum is the duration of the attempt once all of them are known.
/// A phase is `None` if the attempt did not reach it, or if no layer recorded it.
///
/// ```text
///  attempt begins ─ connect ─▶ connected ─ tls ─▶ ready ─ head ─▶ response head ─ body ─▶ last byte
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phases {
    /// The time to connect to the backend, with the look-up of its name. `None` if the request went out
    /// on a connection that existed before, or if the connection failed.
    pub connect: Option<Duration>,
    /// The time of the TLS handshake with the backend. `None` as for `connect`, and over cleartext.
    pub tls: Option<Duration>,
    /// The time from the request's first byte to the response's head. `None` without a response, and
    /// in a stack in which neither an access log nor metrics read the time of the head.
    pub head: Option<Duration>,
    /// The time from the response's head to the last byte, or to the failure. `None` as for `head`.
    pub body: Option<Duration>,
}

/// The phases as an attempt stores them: in microseconds, so that three take the space of a pointer and
/// a half. [`UNKNOWN`] stands for a phase that is not known; longer ones count as 71 minutes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PhaseMarks {
    connect: u32,
    tls: u32,
    head: u32,
}

impl PhaseMarks {
    pub(super) const NONE: Self = Self {
        connect: UNKNOWN,
        tls: UNKNOWN,
        head: UNKNOWN,
    };

    pub(super) fn set_dial(&mut self, connect: Duration, tls: Option<Duration>) {
        self.connect = micros(connect);
        self.tls = tls.map_or(UNKNOWN, micros);
    }

    /// Records that the head came `after` the beginning of the attempt. Only the first call counts.
    pub(super) fn set_head(&mut self, after: Duration) {
        if self.head == UNKNOWN {
            // The head counts from the request's first byte, which goes out behind the handshake.
            self.head = micros(after).saturating_sub(self.dial());
        }
    }

    /// Returns the microseconds until the connection was ready.
    fn dial(self) -> u32 {
        let times = [self.connect, self.tls].map(|time| if time == UNKNOWN { 0 } else { time });
        times[0].saturating_add(times[1])
    }

    /// Returns the phases of an attempt that took `duration`; `None` while it runs.
    #[inline]
    pub(super) fn of(self, duration: Option<Duration>) -> PhaseMicros {
        let [connect, tls, head] = [self.connect, self.tls, self.head].map(known);
        PhaseMicros {
            connect,
            tls,
            head,
            body: match (duration, head) {
                (Some(all), Some(head)) => {
                    let all = all.as_secs() * 1_000_000 + u64::from(all.subsec_micros());
                    let dial = connect.unwrap_or(0) + tls.unwrap_or(0);
                    Some(all.saturating_sub(dial + head))
                }
                _ => None,
            },
        }
    }
}

/// The phases in microseconds, as [`Phases`] has them.
pub(crate) struct PhaseMicros {
    pub(crate) connect: Option<u64>,
    pub(crate) tls: Option<u64>,
    pub(crate) head: Option<u64>,
    pub(crate) body: Option<u64>,
}

impl From<PhaseMicros> for Phases {
    fn from(micros: PhaseMicros) -> Self {
        Self {
            connect: micros.connect.map(Duration::from_micros),
            tls: micros.tls.map(Duration::from_micros),
            head: micros.head.map(Duration::from_micros),
            body: micros.body.map(Duration::from_micros),
        }
    }
}

fn micros(time: Duration) -> u32 {
    // At most one below the mark for "not known".
    u32::try_from(time.as_micros()).map_or(UNKNOWN - 1, |micros| micros.min(UNKNOWN - 1))
}

fn known(micros: u32) -> Option<u64> {
    (micros != UNKNOWN).then(|| micros.into())
}

const UNKNOWN: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn phases_add_up_to_the_duration() {
        let mut marks = PhaseMarks::NONE;
        assert_eq!(Phases::from(marks.of(Some(ms(9)))), Phases::default());
        marks.set_dial(ms(2), Some(ms(3)));
        marks.set_head(ms(11));
        marks.set_head(ms(12));
        let phases = Phases::from(marks.of(Some(ms(20))));
        let wanted = [ms(2), ms(3), ms(6), ms(9)].map(Some);
        assert_eq!(
            [phases.connect, phases.tls, phases.head, phases.body],
            wanted
        );
        assert_eq!(marks.of(None).body, None, "it runs");
    }

    #[test]
    fn a_reused_connection_has_neither_connect_nor_tls() {
        let mut marks = PhaseMarks::NONE;
        marks.set_head(ms(4));
        let phases = Phases::from(marks.of(Some(ms(4))));
        assert_eq!((phases.connect, phases.tls), (None, None));
        assert_eq!((phases.head, phases.body), (Some(ms(4)), Some(ms(0))));
    }

    #[test]
    fn a_long_phase_is_not_taken_for_an_unknown_one() {
        let mut marks = PhaseMarks::NONE;
        marks.set_head(Duration::from_secs(1_000_000));
        let head = marks.of(None).head.unwrap();
        assert_eq!(head, u64::from(u32::MAX) - 1);
    }
}
