//! Sizes as texts of a number and a unit.
//!
//! Powers of two alone, spelt as IEC 80000-13 spells them: `"1MB"` is refused rather than taken for
//! one of its two meanings. A number too large for 64 bits is refused with the same message.

/// Reads a whole number and one of the units B, KiB, MiB and GiB.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let units = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let found = units.iter().find(|(name, _)| *name == unit);
    let bytes = found.and_then(|(_, bits)| number.parse::<u64>().ok()?.checked_mul(1 << bits));
    bytes.ok_or_else(|| {
        format!(
            "{text:?}: a number with a unit is accepted, as in \"512KiB\", \"100MiB\" or \"1GiB\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_known() {
        for (text, bytes) in [
            ("0B", 0),
            ("7B", 7),
            ("512KiB", 524_288),
            ("100MiB", 104_857_600),
            ("1GiB", 1_073_741_824),
        ] {
            assert_eq!(parse(text), Ok(bytes));
        }
        for bad in [
            "",
            "5",
            "MiB",
            "1MB",
            "1mib",
            "1 MiB",
            "-1B",
            "1.5GiB",
            "99999999999999GiB",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
