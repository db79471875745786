//! The date of this second (RFC 9110 §6.6.1), written once a thread.

use std::{cell::RefCell, time::SystemTime};

use http::HeaderValue;

#[derive(Default)]
struct Date {
    second: u64,
    text: Option<HeaderValue>,
}

/// Returns the date as a field's value.
pub(super) fn now() -> HeaderValue {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|date| match &date.text {
        Some(text) if date.second == second => text.clone(),
        _ => date.write(now, second),
    })
}

impl Date {
    #[cold]
    fn write(&mut self, now: SystemTime, second: u64) -> HeaderValue {
        self.second = second;
        let text = HeaderValue::from_maybe_shared(httpdate::fmt_http_date(now));
        // It is ASCII; an empty one would be left out by nobody.
        self.text
            .insert(text.unwrap_or_else(|_| HeaderValue::from_static("")))
            .clone()
    }
}

thread_local! {
    static DATE: RefCell<Date> = const {
        RefCell::new(Date {
            second: 0,
            text: None,
        })
    };
}
