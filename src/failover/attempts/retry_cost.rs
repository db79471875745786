//! How much the attempts of a request cost of the budget.
//!
//! An example with three attempts: the first is refused (no load, waived), the second is free in its
//! place, and is reset after the request was sent; the third is paid. In numbers (`loads`, `paid`):
//!
//! ```text
//! begin 1,0 ─ refused ─▶ 0,0 ─ retry ─▶ 1,0 ─ reset ─▶ 1,0 ─ retry ─▶ 2,1
//! ```
//!
//! `only_attempts_that_may_have_reached_a_backend_are_paid_for` has the table of cases.

use crate::error::{Error, ErrorKind};

/// What a request owes and has paid: one retry for each attempt beyond the first that may put load
/// on a backend. Pure: the account itself is the [`Budget`].
///
/// [`Budget`]: crate::failover::Budget
#[derive(Debug)]
pub(super) struct RetryCost {
    /// Attempts that put load on a backend, or may yet.
    loads: u8,
    paid: u8,
}

impl RetryCost {
    /// Pays for another attempt, if all others put load on a backend; returns false if `withdraw`
    /// refuses. An attempt that replaces one without load is free.
    pub(super) fn pay(&mut self, withdraw: impl FnOnce() -> bool) -> bool {
        if self.paid < self.loads {
            if !withdraw() {
                return false;
            }
            self.paid += 1;
        }
        self.loads += 1;
        true
    }

    /// Records that one attempt put no load on a backend. The payment for it stays for the next.
    pub(super) fn waive(&mut self) {
        self.loads = self.loads.saturating_sub(1);
    }

    /// Takes out what is paid and not owed, when no attempt follows now.
    pub(super) fn take_surplus(&mut self) -> u8 {
        // The first attempt with load is the request itself, which earned and does not pay.
        let owed = self.loads.saturating_sub(1);
        let surplus = self.paid.saturating_sub(owed);
        self.paid -= surplus;
        surplus
    }
}

impl Default for RetryCost {
    /// The first attempt is under way.
    fn default() -> Self {
        Self { loads: 1, paid: 0 }
    }
}

/// Returns true if an attempt that failed this way certainly reached no backend. A timeout is no
/// proof (see the docs of the module), and a TLS handshake costs more than most requests.
pub(super) fn puts_no_load(error: &Error) -> bool {
    let reached_none = matches!(error.kind(), ErrorKind::Connect | ErrorKind::Local);
    found_no_backend(error) || (reached_none && !error.is_after_sending())
}

/// Returns true if no backend was asked.
pub(super) fn found_no_backend(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NoBackend | ErrorKind::Overloaded | ErrorKind::QueueTimeout
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_provably_reached_no_backend_is_free() {
        use ErrorKind::*;
        // Kind, whether a byte may have gone out, and whether it put no load on a backend.
        let table = [
            (Connect, false, true),
            // A connection that was there before took the request, and broke.
            (Connect, true, false),
            // The SYN may have arrived, and a full queue of them is overload.
            (ConnectTimeout, false, false),
            (ConnectTls, false, false),
            (Local, false, true),
            (Local, true, false),
            (NoBackend, false, true),
            (Overloaded, false, true),
            (QueueTimeout, false, true),
            (RequestWrite, false, false),
            (RequestWrite, true, false),
            (ResponseClosed, false, false),
            (ResponseClosed, true, false),
            (ResponseHead, true, false),
            (ResponseHeadTimeout, true, false),
            (Service, false, false),
        ];
        for (kind, sent, free) in table {
            let mut error = Error::new(kind);
            if sent {
                error = error.after_sending();
            }
            assert_eq!(puts_no_load(&error), free, "{kind}, sent: {sent}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin,
        Waive,
    }

    #[test]
    fn each_attempt_that_adds_load_is_paid_and_no_other() {
        use Step::{Begin, Waive};
        // What happens, what was withdrawn then, and what comes back in the end.
        let table: &[(&[Step], u8, u8)] = &[
            (&[], 0, 0),
            (&[Begin], 1, 0),
            (&[Begin, Begin], 2, 0),
            // Refused, and then answered: no backend had more than this one.
            (&[Waive, Begin], 0, 0),
            (&[Waive, Begin, Waive, Begin], 0, 0),
            (&[Waive, Begin, Waive], 0, 0),
            // Closed after sending, then refused: what was paid is for the third.
            (&[Begin, Waive, Begin], 1, 0),
            (&[Begin, Waive], 1, 1),
            // Refused, then closed after sending.
            (&[Waive, Begin, Begin], 1, 0),
            // Side by side, and both are refused.
            (&[Begin, Waive, Waive], 1, 1),
            (&[Begin, Waive, Waive, Begin], 1, 1),
        ];
        for (steps, withdrawn, back) in table {
            let (mut cost, mut paid) = (RetryCost::default(), 0);
            for step in *steps {
                match step {
                    Begin => assert!(cost.pay(|| {
                        paid += 1;
                        true
                    })),
                    Waive => cost.waive(),
                }
            }
            assert_eq!(
                (paid, cost.take_surplus()),
                (*withdrawn, *back),
                "{steps:?}"
            );
            assert_eq!(cost.take_surplus(), 0, "{steps:?}: once");
        }
    }

    #[test]
    fn an_attempt_that_the_budget_refuses_is_not_owed() {
        let mut cost = RetryCost::default();
        assert!(!cost.pay(|| false));
        assert_eq!(cost.take_surplus(), 0);
        cost.waive();
        assert!(cost.pay(|| false), "what is free need not be granted");
        assert!(!cost.pay(|| false), "and is so once");
    }

    proptest! {
        #[test]
        fn a_request_puts_no_more_load_on_backends_than_one_and_what_it_paid(
            steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..60)
        ) {
            let (mut cost, mut running, mut loads, mut paid) = (RetryCost::default(), 1_u32, 0_u32, 0_u32);
            for (what, granted) in steps {
                match what {
                    0 if cost.pay(|| { paid += u32::from(granted); granted }) => running += 1,
                    // One ends, and had reached a backend.
                    1 if running > 0 => (running, loads) = (running - 1, loads + 1),
                    2 if running > 0 => {
                        running -= 1;
                        cost.waive();
                    }
                    3 => paid -= u32::from(cost.take_surplus()),
                    _ => {}
                }
                prop_assert!(running + loads <= 1 + paid, "{running} + {loads}, {paid} were paid");
            }
        }
    }
}
