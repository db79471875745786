//! What layers tell an [`Exchange`] for logs, metrics and traces.
//!
//! Few requests have notes, so they are boxed and absent for the others. Causes are turned into text
//! at the moment of the failure, since errors are not `Clone` and go up the stack; they are kept only
//! if a layer above said that it shows them ([`Exchange::want_details`]).

use std::{any::Any, borrow::Cow, io, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    Exchange, LogFields, LogValue, Outcome,
    cause::{cause_of, cause_of_foreign},
    exchange::Record,
};
use crate::{
    error::{BoxError, Error},
    pool::{Backend, Excluded},
};

/// What few requests have.
#[derive(Default)]
pub(crate) struct Notes {
    /// Why the request as a whole failed.
    pub(crate) detail: Option<Box<str>>,
    pub(crate) user: Option<Box<str>>,
    pub(crate) fields: LogFields,
}

impl Record {
    fn notes(&mut self) -> &mut Notes {
        self.notes.get_or_insert_default()
    }
}

/// # For logs, metrics and traces
impl Exchange {
    /// Returns how long the request waited inside this process: the time from its arrival to the
    /// beginning of its first attempt. It holds all that happened in between: the layers above the
    /// balancer, such as a `ConcurrencyLimit` or a buffer, and the balancer's own queue. `None` before
    /// an attempt.
    #[must_use]
    pub fn queued(&self) -> Option<Duration> {
        self.attempts(|all| {
            let first = all.first()?;
            Some(first.began.saturating_duration_since(self.began()))
        })
    }

    /// Returns the time at which the response's head passed the first layer that
    /// [recorded](Self::set_head_at) it; `None` before that.
    #[must_use]
    pub fn head_at(&self) -> Option<Instant> {
        match self.inner.head_at.load(Relaxed) {
            0 => None,
            nanos => Some(self.began() + Duration::from_nanos(nanos)),
        }
    }

    /// Records the time at which the response's head passed. The first call counts. A layer that reads
    /// the clock at that moment, such as a log or metrics, passes it on: [`Attempt::phases`] has its
    /// times by it, and other layers need not read the clock again. Costs a relaxed load and a store.
    ///
    /// [`Attempt::phases`]: super::Attempt::phases
    pub fn set_head_at(&self, at: Instant) {
        if self.inner.head_at.load(Relaxed) == 0 {
            self.set_time_to_head(at.saturating_duration_since(self.began()));
        }
    }

    /// As [`set_head_at`](Self::set_head_at), with the time since the record's beginning.
    #[inline]
    pub(crate) fn set_time_to_head(&self, time: Duration) {
        if self.inner.head_at.load(Relaxed) == 0 {
            // 0 means that it is not known.
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
            self.inner.head_at.store(nanos, Relaxed);
        }
    }

    /// Returns the time from this beginning of an attempt to the response's head; `None` if the head is
    /// not known, or is earlier.
    #[inline]
    pub(super) fn head_after(&self, attempt_began: Instant) -> Option<Duration> {
        let head = self.head_nanos()?;
        let before = attempt_began.saturating_duration_since(self.began());
        let before = u64::try_from(before.as_nanos()).ok()?;
        head.checked_sub(before).map(Duration::from_nanos)
    }

    /// Returns the nanoseconds from the record's beginning to the response's head; `None` until a
    /// layer [recorded](Self::set_head_at) it.
    #[inline]
    pub(crate) fn head_nanos(&self) -> Option<u64> {
        Some(self.inner.head_at.load(Relaxed)).filter(|nanos| *nanos > 0)
    }

    /// Returns how many attempts have ended. A body that sees another number after the poll which
    /// returned its end knows that an attempt has read the clock in that poll, and need not read it
    /// again: [`ExchangeSummary::last_end`] is its end. Costs a relaxed load.
    ///
    /// [`ExchangeSummary::last_end`]: super::ExchangeSummary::last_end
    #[inline]
    pub(crate) fn ends(&self) -> u32 {
        self.inner.ends.load(Relaxed)
    }

    /// Counts the end of an attempt. The caller holds the lock of the record.
    #[inline]
    pub(super) fn count_end(&self) {
        let ends = self.inner.ends.load(Relaxed);
        self.inner.ends.store(ends.wrapping_add(1), Relaxed);
    }

    /// Records how long a new connection took for the attempt at this backend that runs. The service
    /// that connects calls it.
    pub fn set_connect_time(&self, backend: &Backend, connect: Duration, tls: Option<Duration>) {
        let mut record = self.record();
        let attempts = record.attempts.as_mut_slice().iter_mut();
        let mut running = attempts.filter(|a| a.outcome.is_none() && a.backend.is_same(backend));
        // The one that began last, should two run at one backend.
        if let Some(attempt) = running.next_back() {
            attempt.marks.set_dial(connect, tls);
        }
    }

    /// Asks the layers below to keep the causes of failures as text. Without it they keep only the kinds.
    /// Costs a relaxed store.
    pub fn want_details(&self) {
        self.inner.details_wanted.store(true, Relaxed);
    }

    fn detail(&self, error: &Error) -> Option<Box<str>> {
        // Without a log or a tracer, a failure costs no text.
        let is_wanted = self.inner.details_wanted.load(Relaxed);
        is_wanted.then(|| cause_of(error))
    }

    /// Ends an attempt as failed, as [`end_attempt`](Self::end_attempt) does, and keeps the cause if a
    /// layer [asked](Self::want_details) for it.
    pub fn fail_attempt(&self, number: usize, error: &Error) {
        let detail = self.detail(error);
        if let Some(attempt) = self.record().attempts.get_mut(number) {
            if attempt.outcome.is_some() {
                return;
            }
            attempt.end(
                Outcome::Failed(error.kind()),
                self.head_after(attempt.began),
            );
            self.count_end();
            attempt.detail = detail;
        }
        self.attempt_ended(number);
    }

    /// Records why the request as a whole failed, as [`fail`](Self::fail) does, and keeps the cause if a
    /// layer [asked](Self::want_details) for it.
    pub fn fail_with(&self, error: &Error) {
        let detail = self.detail(error);
        let mut record = self.record();
        record.failure = Some(error.kind());
        if detail.is_some() {
            record.notes().detail = detail;
        }
    }

    /// Keeps the cause of an error of any type that no layer [recorded](Self::fail_with), unless a cause
    /// is known already.
    pub(crate) fn set_cause<E: 'static>(&self, error: &E) {
        let detail = match Error::of(error) {
            Some(error) => cause_of(error),
            // Bodies of hyper, axum and this crate fail with a box or an `io::Error`; of another type
            // nothing is known, as this is called without a bound on it.
            None => match (error as &dyn Any).downcast_ref::<BoxError>() {
                Some(error) => cause_of_foreign(&**error),
                None => match (error as &dyn Any).downcast_ref::<io::Error>() {
                    Some(error) => cause_of_foreign(error),
                    None => return,
                },
            },
        };
        let mut record = self.record();
        // A cause at the last attempt says more than the error that came of it.
        let known = record
            .attempts
            .as_slice()
            .last()
            .is_some_and(|a| a.detail.is_some());
        let notes = record.notes();
        if notes.detail.is_none() && !known {
            notes.detail = Some(detail);
        }
    }

    /// Records how many backends the last pick left out, and why.
    pub fn set_excluded(&self, excluded: Excluded) {
        self.record().excluded = excluded;
    }

    /// Records that a layer below the balancer answered without asking the backend.
    pub(crate) fn set_local_reply(&self) {
        self.record().is_local_reply = true;
    }

    /// Returns how many backends the last pick left out, and why.
    #[must_use]
    pub fn excluded(&self) -> Excluded {
        self.record().excluded
    }

    /// Records the user that the request belongs to, for the access log. A later call replaces it.
    /// Credentials must not stand in it. Allocates.
    pub fn set_user(&self, user: impl Into<Box<str>>) {
        let user = user.into();
        self.record().notes().user = Some(user);
    }

    /// Adds a field to the request's line in the access log; see [`LogFields`] for its bounds. Returns
    /// false if the field is left out. A field with the same name is replaced.
    ///
    /// ```
    /// use evenkeel::context::Exchange;
    ///
    /// let mut request = http::Request::new(());
    /// let exchange = Exchange::of(request.extensions_mut());
    /// assert!(exchange.add_log_field("tenant", "acme"));
    /// assert!(exchange.add_log_field("items", 3));
    /// assert!(!exchange.add_log_field("not a name", 3));
    /// ```
    pub fn add_log_field(
        &self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<LogValue>,
    ) -> bool {
        let (name, value) = (name.into(), value.into());
        self.record().notes().fields.add(name, value)
    }

    /// Adds the fields of a note to the request's line.
    pub(crate) fn add_log_fields(&self, fields: &LogFields) {
        self.record().notes().fields.extend(fields);
    }
}
