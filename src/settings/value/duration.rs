//! Durations as texts of a number and a unit.
//!
//! Two vocabularies, because they are for two things. Time-outs need milliseconds and never years;
//! HSTS and the rotation of a file need days and years and no milliseconds. One list of both would
//! accept `"1y"` as a connect time-out. A bare number is refused in both: half of its readers would
//! take it for milliseconds.

use std::time::Duration;

/// Reads a number and one of the units ms, s, m and h.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    read(text, &units).map(Duration::from_millis).ok_or_else(|| {
        format!(
            "{text:?}: a number with a unit is accepted, as in \"250ms\", \"5s\", \"1m\" or \"12h\""
        )
    })
}

/// Reads whole seconds, up to 100 years: a number and one of the units s, m, h, d and y, which is
/// 365 days.
pub(super) fn parse_long(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", DAY), ("y", YEAR)];
    let seconds = read(text, &units).filter(|&seconds| seconds <= 100 * YEAR);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        format!(
            "{text:?}: \"0s\" to \"100y\" is accepted, as in \"5m\", \"12h\", \"30d\" or \"1y\""
        )
    })
}

/// Returns the number of the smallest unit.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    // The unit must be the whole rest: `"5 s"`, `"1h30m"` and `"-5s"` have none. An empty number is no
    // number.
    let (_, each) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*each)
}

const DAY: u64 = 24 * 3_600;
const YEAR: u64 = 365 * DAY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_known() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m", 60_000),
            ("12h", 43_200_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
        }
        for bad in [
            "",
            "5",
            "5 s",
            "5sec",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_ones_have_days_and_years() {
        for (text, seconds) in [
            ("0s", 0),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("1y", 31_536_000),
            ("100y", 3_153_600_000),
        ] {
            assert_eq!(parse_long(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in [
            "",
            "1",
            "y",
            "1Y",
            "250ms",
            "-1y",
            "1.5y",
            "101y",
            "18446744073709551615y",
        ] {
            assert!(parse_long(bad).is_err(), "{bad}");
        }
    }
}
