//! The Gregorian calendar, for times as text.
//!
//! The lines of the access log, the heads of syslog messages and the admin API write times as text.
//! Only UTC is needed, which has no leap seconds in Unix time; the range is any number of days since
//! 1970.

/// Returns year, month and day of a number of days since 1970, in the Gregorian calendar. It counts in
/// eras of 400 years, and in years that begin in March, so that the leap day is the last of a year
/// (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn date(days: u64) -> (u64, u64, u64) {
    // From 1 March of the year 0, where an era begins.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 153 days in each five: 31, 30, 31, 30, 31.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    // January and February belong to the next year of the calendar.
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, wanted) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (20_453, (2025, 12, 31)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), wanted, "{days}");
        }
    }
}
