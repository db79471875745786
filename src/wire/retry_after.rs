//! `Retry-After` in seconds (RFC 9110 §10.2.3).
//!
//! Seconds only. `health` reads it of failing checks; a value of any size is accepted here, and the
//! caller bounds it.
//!
//! A date would need the clock of the sender; RFC 9110 §10.2.3 allows both forms, and balancers
//! send seconds.

use std::time::Duration;

use http::{HeaderMap, header};

/// Returns the delay of `Retry-After`, or `None` if there is none or it is a date: a date is of use
/// only where the clocks of both sides agree.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.as_bytes().trim_ascii();
    super::framing::content_length(value).map(Duration::from_secs)
}

/// Returns the field's text if it is no delay, and so may be a date: for a caller whose own clock is right.
pub(crate) fn date(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    read(headers).is_none().then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_and_dates_are_not() {
        for (value, seconds) in [
            ("30", Some(30)),
            (" 0 ", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(
                read(&headers),
                seconds.map(Duration::from_secs),
                "{value:?}"
            );
            let other = seconds.is_none().then_some(value);
            assert_eq!(date(&headers), other, "{value:?}");
        }
    }
}
