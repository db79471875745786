//! JSON strings, numbers, ids and addresses.
//!
//! Most of a line is text that clients chose, and nearly none of it needs an escape. So each value is
//! copied and tested in the same pass, 16 or 8 bytes at a time; a value with one odd byte is written
//! again from its beginning, in the slow way. The result of the test alone decides, so that the copy
//! must not be believed before: `escaped` writes over it.
//!
//! | bytes | as |
//! |---|---|
//! | `"`, `\`, newline, carriage return, tab | two characters |
//! | other control characters, DEL, U+2028, U+2029 | `\uXXXX` |
//! | not UTF-8 | `\ufffd` for each broken sequence |
//! | other UTF-8 | as they are |

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::cursor::Cursor;

impl Cursor<'_> {
    /// Writes `value` as the content of a JSON string (RFC 8259 §7). Bytes that are not UTF-8 become
    /// U+FFFD. One pass copies the bytes and looks for any that need an escape; most values have
    /// none, and are done.
    #[inline(never)]
    pub(super) fn text(self, value: &[u8]) -> Option<Self> {
        match value.len() {
            8..WIDE => self.text_by(value, copy_few),
            WIDE.. => self.text_by(value, copy_many),
            _ => self.text_by(value, copy_each),
        }
    }

    #[inline(always)]
    fn text_by(mut self, value: &[u8], copy: impl Fn(&mut [u8], &[u8]) -> bool) -> Option<Self> {
        match copy(self.free(value.len())?, value) {
            true => self.skip(value.len()),
            false => self.escaped(value),
        }
    }

    #[cold]
    #[inline(never)]
    fn escaped(self, value: &[u8]) -> Option<Self> {
        value.utf8_chunks().try_fold(self, |cursor, chunk| {
            let cursor = chunk.valid().chars().try_fold(cursor, Self::escaped_char)?;
            match chunk.invalid() {
                [] => Some(cursor),
                _ => cursor.put(b"\\ufffd"),
            }
        })
    }

    fn escaped_char(self, c: char) -> Option<Self> {
        match c {
            '"' => self.put(b"\\\""),
            '\\' => self.put(b"\\\\"),
            '\n' => self.put(b"\\n"),
            '\r' => self.put(b"\\r"),
            '\t' => self.put(b"\\t"),
            // Control characters, and U+2028 and U+2029, which JavaScript reads as ends of a line.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                self.display(format_args!("\\u{:04x}", u32::from(c)))
            }
            c => self.put_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    /// Writes a number. Most are small and need no loop.
    #[inline(always)]
    pub(super) fn number(self, value: u64) -> Option<Self> {
        match value {
            0..10 => self.put(&[digit(value as u32)]),
            _ => self.digits(value),
        }
    }

    /// Writes a number of ten or more.
    #[inline(never)]
    fn digits(self, value: u64) -> Option<Self> {
        match value {
            // Every status has three digits, so that they are tested first.
            100..1_000 => self.put_each(three_digits(value as u32)),
            0..10_000 => {
                let (high, low) = (value as u32 / 100, value as u32 % 100);
                let low = [digit(low / 10), digit(low % 10)];
                match high {
                    0 => self.put_each(low),
                    _ => self.put_each([digit(high / 10), digit(high % 10), low[0], low[1]]),
                }
            }
            _ => self.many_digits(value),
        }
    }

    #[inline(never)]
    fn many_digits(self, value: u64) -> Option<Self> {
        self.put_slice(itoa::Buffer::new().format(value).as_bytes())
    }

    /// Writes milliseconds with three decimals.
    #[inline(never)]
    pub(super) fn millis(self, value: Duration) -> Option<Self> {
        let micros = value.as_secs().saturating_mul(1_000_000);
        self.micros(micros.saturating_add(value.subsec_micros().into()))
    }

    /// Writes microseconds as milliseconds with three decimals.
    #[inline]
    pub(super) fn micros(self, value: u64) -> Option<Self> {
        match u32::try_from(value) {
            Ok(micros) if micros < 10_000 => {
                let [a, b, c] = three_digits(micros % 1_000);
                self.put_each([digit(micros / 1_000), b'.', a, b, c])
            }
            _ => self.many_micros(value),
        }
    }

    #[inline(never)]
    fn many_micros(self, value: u64) -> Option<Self> {
        // The remainder is below a thousand.
        let [a, b, c] = three_digits((value % 1_000) as u32);
        self.number(value / 1_000)?.put_each([b'.', a, b, c])
    }

    /// Writes 32 hexadecimal digits.
    #[inline]
    pub(super) fn id(self, id: u128) -> Option<Self> {
        let [a, b, c, d] = parts_of(id);
        self.put(&a)?.put(&b)?.put(&c)?.put(&d)
    }

    /// Writes 16 hexadecimal digits.
    #[inline]
    pub(super) fn half_id(self, id: u64) -> Option<Self> {
        let [_, _, c, d] = parts_of(id.into());
        self.put(&c)?.put(&d)
    }

    /// Writes an IP address and a port; an IPv6 address in brackets.
    pub(super) fn address(self, address: SocketAddr) -> Option<Self> {
        let cursor = match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => self.ip(ip)?,
            ip @ IpAddr::V6(_) => self.put(b"[")?.ip(ip)?.put(b"]")?,
        };
        cursor.put(b":")?.number(address.port().into())
    }

    pub(super) fn ip(self, ip: IpAddr) -> Option<Self> {
        self.display(ip.to_canonical())
    }
}

/// Returns the 32 hexadecimal digits of an id.
pub(in crate::access_log) fn hexadecimal(id: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (target, part) in digits.chunks_exact_mut(8).zip(parts_of(id)) {
        target.copy_from_slice(&part);
    }
    digits
}

#[inline(always)]
fn parts_of(id: u128) -> [[u8; 8]; 4] {
    let digits = [96, 64, 32, 0].map(|shift| eight_digits((id >> shift) as u32));
    digits.map(u64::to_be_bytes)
}

/// Copies `value` of 16 bytes or more to `target` of the same length; true if no byte needs an
/// escape. Works on 16 bytes at once; the last 16 may overlap others, which are copied twice.
#[inline(never)]
fn copy_many(target: &mut [u8], value: &[u8]) -> bool {
    let (Some(end), Some(last)) = (target.last_chunk_mut(), value.last_chunk()) else {
        return false;
    };
    let mut odd = [0; WIDE];
    *end = *last;
    mark(&mut odd, last);
    let (mut target, mut value) = (target, value);
    while let (Some((to, targets)), Some((from, values))) =
        (target.split_first_chunk_mut(), value.split_first_chunk())
    {
        *to = *from;
        mark(&mut odd, from);
        (target, value) = (targets, values);
    }
    u128::from_ne_bytes(odd) == 0
}

/// As [`copy_many`], for 8 to 15 bytes: two words of eight, which may overlap.
#[inline]
fn copy_few(target: &mut [u8], value: &[u8]) -> bool {
    let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) else {
        return false;
    };
    if let Some(target) = target.first_chunk_mut() {
        *target = *first;
    }
    if let Some(target) = target.last_chunk_mut() {
        *target = *last;
    }
    odd_bytes(*first) | odd_bytes(*last) == 0
}

/// As [`copy_many`], for fewer than 8 bytes.
#[inline]
fn copy_each(target: &mut [u8], value: &[u8]) -> bool {
    let mut plain = true;
    for (target, &b) in target.iter_mut().zip(value) {
        *target = b;
        plain &= is_plain(b);
    }
    plain
}

/// Sets `odd` at the index of each byte that is not plain. The loop compiles to a few vector
/// instructions.
#[inline(always)]
fn mark(odd: &mut [u8; WIDE], chunk: &[u8; WIDE]) {
    for (odd, &b) in odd.iter_mut().zip(chunk) {
        *odd |= u8::from(!is_plain(b));
    }
}

/// Returns 0 if all eight bytes are plain: no control character, quote, backslash, DEL or byte above
/// 0x7e. Each test leaves the high bit of a byte set where it finds one; a borrow or a carry into a
/// neighbour comes only from a byte that is not plain itself, so that the sum stays right.
#[inline]
fn odd_bytes(word: [u8; 8]) -> u64 {
    let all = |byte: u8| ONES * u64::from(byte);
    let word = u64::from_ne_bytes(word);
    // Bytes below the space, and the quote, which has the space's value after its one differing bit
    // is turned.
    let below = (word ^ all(b'"' - b' ')).wrapping_sub(all(b' ' + 1));
    let backslash = (word ^ all(b'\\')).wrapping_sub(ONES);
    let above = word.wrapping_add(ONES);
    (word | below | backslash | above) & (ONES << 7)
}

#[inline]
fn is_plain(b: u8) -> bool {
    (b.wrapping_sub(b' ') <= b'~' - b' ') & (b != b'"') & (b != b'\\')
}

/// Returns the digits of a number below a thousand.
#[inline]
pub(super) fn three_digits(value: u32) -> [u8; 3] {
    let (high, low) = (value / 100, value % 100);
    [digit(high), digit(low / 10), digit(low % 10)]
}

/// Returns the digit of a number below ten.
#[inline]
fn digit(value: u32) -> u8 {
    b'0' + value as u8
}

/// Returns the hexadecimal digits of a number, the first in the highest byte.
fn eight_digits(four: u32) -> u64 {
    let four = u64::from(four);
    let pairs = (four | four << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (bytes | bytes << 4) & (ONES * 0x0f);
    // A nibble of ten or more carries into its high half when six are added.
    let letters = ((nibbles + ONES * 6) >> 4) & ONES;
    nibbles + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)
}

/// The bytes in a vector register of every x86-64 and arm64 processor.
const WIDE: usize = 16;
const ONES: u64 = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::access_log::json::Buffer;

    fn written(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> Vec<u8> {
        Buffer::of(write).written().to_vec()
    }

    proptest! {
        #[test]
        fn numbers_are_written_in_full(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let out = written(|cursor| cursor.number(value));
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn an_id_is_32_digits(value: u128, shift in 0_u32..128) {
            let value = value >> shift;
            let text = written(|cursor| cursor.id(value));
            prop_assert_eq!(std::str::from_utf8(&text).unwrap(), format!("{value:032x}"));
        }

        #[test]
        fn any_bytes_make_a_json_string(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let out = written(|cursor| cursor.put(b"\"")?.text(&value)?.put(b"\""));
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
            let plain = value.iter().all(|&b| is_plain(b));
            let copy = written(|cursor| cursor.text(&value));
            prop_assert_eq!(copy == value, plain);
        }

        #[test]
        fn durations_are_numbers(micros in 0_u64..u64::MAX, shift in 0_u32..60) {
            let micros = micros >> shift;
            let value = Duration::from_micros(micros);
            let out = written(|cursor| cursor.put(b"{\"x\":1,\"d\":")?.millis(value)?.put(b"}"));
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let wanted = micros as f64 / 1_000.0;
            prop_assert!((value["d"].as_f64().unwrap() - wanted).abs() <= wanted * 1e-12);
        }
    }
}
