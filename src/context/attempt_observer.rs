//! `AttemptObserver`: what follows the attempts of a request while they run, such as a tracer.
//!
//! A layer per attempt would wrap the future and the body of every attempt, those that are not traced
//! included. An observer in the record costs a load for each step of an attempt instead, and sees the
//! same ends as the access log: of hedges, time-outs, bodies and tunnels.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{Attempt, Exchange};
use crate::pool::Backend;

/// Follows the attempts of one request. The methods are called without a lock.
pub(crate) trait AttemptObserver: Send + Sync {
    /// An attempt begins. `headers` are those that the backend gets; they may be those of an earlier
    /// attempt.
    fn begun(&self, number: usize, backend: &Backend, headers: &mut HeaderMap);

    /// The response's head has come.
    fn answered(&self, number: usize, status: StatusCode);

    /// The attempt has ended; called once for each.
    fn ended(&self, number: usize, attempt: &Attempt);
}

impl Exchange {
    /// Lets `observer` follow the attempts that begin from now on. The first observer counts. It must
    /// hold no handle of this record, which would never be freed.
    pub(crate) fn observe_attempts(&self, observer: Arc<dyn AttemptObserver>) {
        let _ = self.inner.observer.set(observer);
    }

    /// Announces an attempt that has begun to the observer. Costs a load without one.
    #[inline]
    pub(crate) fn attempt_begun(&self, number: usize, backend: &Backend, headers: &mut HeaderMap) {
        if let Some(observer) = self.inner.observer.get() {
            observer.begun(number, backend, headers);
        }
    }

    /// Passes the status of an attempt's response to the observer. Costs a load without one.
    #[inline]
    pub(crate) fn attempt_answered(&self, number: usize, status: StatusCode) {
        if let Some(observer) = self.inner.observer.get() {
            observer.answered(number, status);
        }
    }

    /// Announces the end of an attempt to the observer. Costs a load without one.
    #[inline]
    pub(super) fn attempt_ended(&self, number: usize) {
        if let Some(observer) = self.inner.observer.get() {
            // A copy, so that the observer is called without the lock.
            let attempt = self.attempts(|all| all.get(number).cloned());
            if let Some(attempt) = attempt {
                observer.ended(number, &attempt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        context::Outcome,
        error::{Error, ErrorKind},
    };

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl AttemptObserver for Seen {
        fn begun(&self, number: usize, backend: &Backend, headers: &mut HeaderMap) {
            headers.insert("x-attempt", number.into());
            self.push(format!("{number} begins at {}", backend.id()));
        }

        fn answered(&self, number: usize, status: StatusCode) {
            self.push(format!("{number} is {}", status.as_u16()));
        }

        fn ended(&self, number: usize, attempt: &Attempt) {
            let outcome = attempt.outcome.unwrap().as_str();
            self.push(format!("{number} ends as {outcome}"));
        }
    }

    impl Seen {
        fn push(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn an_observer_sees_each_step_of_an_attempt_once() {
        let (exchange, seen) = (Exchange::new(), Arc::new(Seen::default()));
        let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
        let begin = |headers: &mut HeaderMap| {
            let number = exchange.begin_attempt(backend.clone());
            exchange.attempt_begun(number, &backend, headers);
            number
        };
        let mut headers = HeaderMap::new();
        let unseen = begin(&mut headers);
        exchange.end_attempt(unseen, Outcome::Ok);
        exchange.observe_attempts(seen.clone());
        let (failed, held, whole) = (
            begin(&mut headers),
            begin(&mut headers),
            begin(&mut headers),
        );
        assert_eq!(headers["x-attempt"], "3");
        exchange.fail_attempt(failed, &Error::new(ErrorKind::Connect));
        exchange.end_attempt(failed, Outcome::Cancelled);
        exchange.attempt_answered(held, StatusCode::BAD_GATEWAY);
        exchange.end_attempt(held, Outcome::Ok);
        exchange.end_attempt(held, Outcome::Discarded);
        exchange.end_attempt_at_head(whole);
        exchange.end_attempt_at_head(whole);
        let lines = seen.0.lock().unwrap().clone();
        assert_eq!(
            lines,
            [
                "1 begins at a",
                "2 begins at a",
                "3 begins at a",
                "1 ends as connect",
                "2 is 502",
                "2 ends as ok",
                "3 ends as ok",
            ]
        );
    }
}
