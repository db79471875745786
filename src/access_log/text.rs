//! What a line is made of: strings, numbers, times, each written where the line stands.

use std::{
    cell::Cell,
    io::Write,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Writes what a JSON string may hold (RFC 8259 §7), whatever bytes come; what is not UTF-8
/// becomes U+FFFD.
pub(super) fn escaped(out: &mut Vec<u8>, value: &[u8]) {
    if are_plain(value) {
        out.extend_from_slice(value);
    } else {
        escape(out, value);
    }
}

#[cold]
#[inline(never)]
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // Control characters, and the line ends that some readers know besides.
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Returns true where nothing needs an escape: looks at sixteen bytes at once, the last ones
/// perhaps twice.
fn are_plain(value: &[u8]) -> bool {
    let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) else {
        return are_plain_few(value);
    };
    let mut odd = [0; WIDE];
    mark(&mut odd, first);
    let mut rest = &value[WIDE..];
    while let Some((chunk, after)) = rest.split_first_chunk() {
        mark(&mut odd, chunk);
        rest = after;
    }
    mark(&mut odd, last);
    u128::from_ne_bytes(odd) == 0
}

/// Marks the places of bytes that are not plain; a few instructions for all of them.
#[inline]
fn mark(odd: &mut [u8; WIDE], chunk: &[u8; WIDE]) {
    for (odd, &b) in odd.iter_mut().zip(chunk) {
        *odd |= u8::from(!is_plain(b));
    }
}

/// Fewer than sixteen bytes: eight at once, the last eight perhaps twice.
fn are_plain_few(value: &[u8]) -> bool {
    match (value.first_chunk(), value.last_chunk()) {
        (Some(first), Some(last)) => odd_bytes(*first) | odd_bytes(*last) == 0,
        _ => value.iter().all(|&b| is_plain(b)),
    }
}

/// Returns 0 if all eight bytes are plain.
fn odd_bytes(word: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(word);
    let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |byte: u8| {
        let differs = word ^ (ONES * u64::from(byte));
        differs.wrapping_sub(ONES) & !differs
    };
    (word | below(b' ') | is(b'"') | is(b'\\') | is(0x7f)) & (ONES << 7)
}

#[inline]
fn is_plain(b: u8) -> bool {
    (b.wrapping_sub(b' ') <= b'~' - b' ') & (b != b'"') & (b != b'\\')
}

/// Writes a number: small ones, as most are, without a loop.
pub(super) fn digits(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(digit(value));
        return;
    }
    let Ok(small @ ..=9_999) = u32::try_from(value) else {
        return many_digits(out, value);
    };
    let skipped = usize::from(small < 1_000) + usize::from(small < 100);
    // All four places; the leading zeros are shifted out.
    let (high, low) = (small / 100, small % 100);
    let places = (high / 10) | (high % 10) << 8 | (low / 10) << 16 | (low % 10) << 24;
    let places = (places | ZEROS) >> (8 * skipped);
    let end = out.len() + 4 - skipped;
    out.extend_from_slice(&places.to_le_bytes());
    out.truncate(end);
}

#[inline(never)]
fn many_digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, value: Duration) {
    let whole = value.as_secs().saturating_mul(1_000);
    digits(out, whole.saturating_add(value.subsec_millis().into()));
    let rest = u64::from(value.subsec_micros() % 1_000);
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

fn digit(value: u64) -> u8 {
    // The remainder is below ten.
    b'0' + (value % 10) as u8
}

/// Returns 32 hexadecimal digits.
pub(super) fn hex(value: u128) -> [u8; 32] {
    let mut text = [0; 32];
    for (text, four) in text.chunks_exact_mut(8).zip(value.to_be_bytes().chunks(4)) {
        let four = four.iter().fold(0, |all, &b| all << 8 | u64::from(b));
        text.copy_from_slice(&eight_digits(four).to_be_bytes());
    }
    text
}

/// Spreads the 32 low bits to a digit a byte.
fn eight_digits(four: u64) -> u64 {
    let pairs = (four | four << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (bytes | bytes << 4) & (ONES * 0x0f);
    let letters = ((nibbles + ONES * 6) >> 4) & ONES;
    nibbles + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)
}

pub(super) fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => write_ip(out, ip),
        ip @ IpAddr::V6(_) => {
            out.push(b'[');
            write_ip(out, ip);
            out.push(b']');
        }
    }
    out.push(b':');
    digits(out, address.port().into());
}

pub(super) fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{}", ip.to_canonical());
}

/// Writes RFC 3339 in UTC with milliseconds, of a time since 1970; the second is formatted once.
pub(super) fn write_time(out: &mut Vec<u8>, since: Duration) {
    let second = since.as_secs();
    let (known, mut text) = SECOND.get();
    if known != second {
        text = format_second(second);
        SECOND.set((second, text));
    }
    let millis = u64::from(since.subsec_millis());
    let millis = [digit(millis / 100), digit(millis / 10), digit(millis)];
    out.extend_from_slice(&text);
    out.extend_from_slice(&[b'.', millis[0], millis[1], millis[2], b'Z']);
}

#[cold]
fn format_second(second: u64) -> [u8; 19] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (0..width).rev() {
            text[at + i] = digit(value);
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, rest / 3_600);
    put(14, 2, rest / 60 % 60);
    put(17, 2, rest % 60);
    text
}

/// Days since 1970 as a date of the Gregorian calendar: eras of 400 years, years from March on,
/// so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

thread_local! {
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

/// As many bytes as the vectors of every x86-64 and arm64 hold.
const WIDE: usize = 16;
/// The digit of nothing, four times.
const ZEROS: u32 = u32::from_ne_bytes(*b"0000");
const ONES: u64 = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (second, wanted) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_164_799, "2024-02-28T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(std::str::from_utf8(&format_second(second)).unwrap(), wanted);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_written_in_full(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            digits(&mut out, value);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn an_id_is_32_digits(value: u128, shift in 0_u32..128) {
            let value = value >> shift;
            let text = hex(value);
            prop_assert_eq!(std::str::from_utf8(&text).unwrap(), format!("{value:032x}"));
        }

        #[test]
        fn any_bytes_make_a_json_string(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut out = vec![b'"'];
            escaped(&mut out, &value);
            out.push(b'"');
            let back: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&value));
        }

        #[test]
        fn many_bytes_at_once_are_judged_as_one_by_one(
            mut value in prop::collection::vec(b' '..=b'~', 0..70),
            odd in prop::option::of((any::<u8>(), any::<prop::sample::Index>())),
        ) {
            if let (Some((byte, at)), false) = (odd, value.is_empty()) {
                let at = at.index(value.len());
                value[at] = byte;
            }
            prop_assert_eq!(are_plain(&value), value.iter().all(|&b| is_plain(b)));
        }

        #[test]
        fn durations_are_numbers(micros in 0_u64..u64::MAX / 2) {
            let mut out = b"{\"x\":1".to_vec();
            out.extend_from_slice(b",\"d\":");
            millis(&mut out, Duration::from_micros(micros));
            out.push(b'}');
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let wanted = micros as f64 / 1_000.0;
            prop_assert!((value["d"].as_f64().unwrap() - wanted).abs() <= wanted * 1e-12);
        }
    }
}
