//! Deadlines on the request path that cost less than a tokio timer.
//!
//! A tokio timer costs 100 to 200 ns for each request: it locks a shared wheel when it is armed and
//! again when it is dropped. Nearly every deadline of a load balancer is dropped unused. The two
//! types here make the unused case cheap and fire a little late in exchange:
//!
//! | type | resolution | fires late by | arming costs | used for |
//! |---|---|---|---|---|
//! | [`sweep::Deadline`] | 100 ms | 201 ms at most | one atomic store | time-outs of a connection, from a second up |
//! | [`wheel::Timer`] | 5 ms | 11 ms at most | a lock that no other thread takes, once in a while | deadlines of one attempt, hedges |
//!
//! Both run one task per thread, on the runtime that first uses them. Both read tokio's clock, so
//! tests with a paused clock see the same times.
//!
//! # Which one to take
//!
//! A connection that lives for many requests takes a [`sweep::Deadline`]: it is registered once. A
//! future that lives for one attempt takes a [`wheel::Timer`]: it costs nothing until it waits.
//! Below 100 ms only the wheel is fine enough. Neither is exact: where a step must not happen
//! early, compare the clock.
//!
//! Both are per thread, so that threads share no lock. The price is one task a thread for each,
//! which sleeps while nothing is armed.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod sweep;
pub(crate) mod wheel;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hundred years, in milliseconds. Longer delays are cut to this, so that additions cannot
/// overflow.
const MAX_DELAY_MS: u64 = 100 * 365 * 86_400 * 1_000;
