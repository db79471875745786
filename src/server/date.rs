//! The `Date` field (RFC 9110 §6.6.1), formatted once a second for each thread.
//!
//! RFC 9110 §6.6.1 asks for a date in nearly every response. To format it costs more than the rest
//! of a small head, and it changes once a second, so each thread keeps the text of its last second.
//! A clock that is set back is noticed as well: any other second formats a new date.
//!
//! HTTP/1.1 borrows the value and copies its bytes; HTTP/2 clones it, which counts a reference, as
//! the codec wants a value of its own.
//!
//! A thread that answers nothing for an hour has an old text, which the next response replaces
//! before it is used.

use std::{cell::RefCell, time::SystemTime};

use http::HeaderValue;

/// A second of the Unix time, and its formatted date.
struct Date {
    second: u64,
    text: HeaderValue,
}

/// Returns the current date as a field value.
///
/// For the codec of HTTP/2, which keeps the value until it encodes the head.
#[cfg(feature = "http2")]
pub(super) fn now() -> HeaderValue {
    with(HeaderValue::clone)
}

/// Calls `look` with the current date as a field value.
///
/// `look` must not ask for the date itself: the cell is borrowed while it runs.
///
/// # Panics
///
/// If `look` calls this function. No caller does; both write the value and return.
pub(super) fn with<T>(look: impl FnOnce(&HeaderValue) -> T) -> T {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|date| {
        if date.second != second {
            date.second = second;
            date.text = write(now);
        }
        look(&date.text)
    })
}

/// Once a second for each thread that serves.
#[cold]
fn write(now: SystemTime) -> HeaderValue {
    let text = HeaderValue::from_maybe_shared(httpdate::fmt_http_date(now));
    // A formatted date is ASCII, so it is a valid value.
    text.unwrap_or(EPOCH)
}

thread_local! {
    static DATE: RefCell<Date> = const {
        RefCell::new(Date {
            second: 0,
            text: EPOCH,
        })
    };
}

const EPOCH: HeaderValue = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_this_second_s() {
        let read = || httpdate::parse_http_date(with(HeaderValue::clone).to_str().unwrap());
        for _ in 0..2 {
            let age = SystemTime::now().duration_since(read().unwrap());
            assert!(
                age.unwrap().as_secs() < 60,
                "a cached date is not left behind"
            );
        }
    }
}
