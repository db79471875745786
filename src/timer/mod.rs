//! Deadlines that cost less than a tokio timer a request.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) mod sweep;
pub(crate) mod wheel;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hundred years, in milliseconds: what a longer time-out comes to.
const MAX_DELAY_MS: u64 = 100 * 365 * 86_400 * 1_000;
