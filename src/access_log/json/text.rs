//! What a line is made of: strings, numbers, each written where the line stands.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::cursor::Cursor;

impl Cursor<'_> {
    /// Writes what a JSON string may hold (RFC 8259 §7), whatever bytes come; what is not UTF-8
    /// becomes U+FFFD. Copied and looked at in one go.
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
        match copy(self.place(value.len())?, value) {
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
            // Control characters, and the line ends that some readers know besides.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                self.display(format_args!("\\u{:04x}", u32::from(c)))
            }
            c => self.put_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    /// Writes a number: small ones, as most are, without a loop.
    #[inline(always)]
    pub(super) fn number(self, value: u64) -> Option<Self> {
        match value {
            0..10 => self.put(&[digit(value as u32)]),
            _ => self.digits(value),
        }
    }

    /// Ten and more.
    #[inline(never)]
    fn digits(self, value: u64) -> Option<Self> {
        match value {
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

    /// Milliseconds with three decimals.
    #[inline(never)]
    pub(super) fn millis(self, value: Duration) -> Option<Self> {
        let micros = value.subsec_micros();
        if value.as_secs() > 0 || micros >= 10_000 {
            return self.many_millis(value);
        }
        let [a, b, c] = three_digits(micros % 1_000);
        self.put_each([digit(micros / 1_000), b'.', a, b, c])
    }

    #[inline(never)]
    fn many_millis(self, value: Duration) -> Option<Self> {
        let micros = value.subsec_micros();
        let [a, b, c] = three_digits(micros % 1_000);
        let seconds = value.as_secs().saturating_mul(1_000);
        self.number(seconds.saturating_add((micros / 1_000).into()))?
            .put_each([b'.', a, b, c])
    }

    /// Writes 32 hexadecimal digits.
    #[inline]
    pub(super) fn id(self, id: u128) -> Option<Self> {
        let [a, b, c, d] = parts_of(id);
        self.put(&a)?.put(&b)?.put(&c)?.put(&d)
    }

    /// Writes an IP address and a port.
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

/// Returns 32 hexadecimal digits.
pub(in crate::access_log) fn hexadecimal(id: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (place, part) in digits.chunks_exact_mut(8).zip(parts_of(id)) {
        place.copy_from_slice(&part);
    }
    digits
}

#[inline(always)]
fn parts_of(id: u128) -> [[u8; 8]; 4] {
    let digits = [96, 64, 32, 0].map(|shift| eight_digits((id >> shift) as u32));
    digits.map(u64::to_be_bytes)
}

/// Copies what is as long; true where nothing of it needs an escape. Sixteen bytes at once and
/// more, the last ones perhaps twice.
#[inline(never)]
fn copy_many(place: &mut [u8], value: &[u8]) -> bool {
    let (Some(end), Some(last)) = (place.last_chunk_mut(), value.last_chunk()) else {
        return false;
    };
    let mut odd = [0; WIDE];
    *end = *last;
    mark(&mut odd, last);
    let (mut place, mut value) = (place, value);
    while let (Some((to, places)), Some((from, values))) =
        (place.split_first_chunk_mut(), value.split_first_chunk())
    {
        *to = *from;
        mark(&mut odd, from);
        (place, value) = (places, values);
    }
    u128::from_ne_bytes(odd) == 0
}

/// Of eight to fifteen bytes: eight at once, the last eight perhaps twice.
#[inline]
fn copy_few(place: &mut [u8], value: &[u8]) -> bool {
    let (Some(first), Some(last)) = (value.first_chunk(), value.last_chunk()) else {
        return false;
    };
    if let Some(place) = place.first_chunk_mut() {
        *place = *first;
    }
    if let Some(place) = place.last_chunk_mut() {
        *place = *last;
    }
    odd_bytes(*first) | odd_bytes(*last) == 0
}

/// Of fewer.
#[inline]
fn copy_each(place: &mut [u8], value: &[u8]) -> bool {
    let mut plain = true;
    for (place, &b) in place.iter_mut().zip(value) {
        *place = b;
        plain &= is_plain(b);
    }
    plain
}

/// Marks the places of bytes that are not plain; a few instructions for all of them.
#[inline(always)]
fn mark(odd: &mut [u8; WIDE], chunk: &[u8; WIDE]) {
    for (odd, &b) in odd.iter_mut().zip(chunk) {
        *odd |= u8::from(!is_plain(b));
    }
}

/// Returns 0 if all eight bytes are plain. Only what is not plain itself, or has the high bit,
/// borrows from its neighbour.
#[inline]
fn odd_bytes(word: [u8; 8]) -> u64 {
    let all = |byte: u8| ONES * u64::from(byte);
    let word = u64::from_ne_bytes(word);
    // What is below a space, and the quote: with that bit turned, it is where the space was.
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

/// Of a number below ten.
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
    let letters = ((nibbles + ONES * 6) >> 4) & ONES;
    nibbles + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)
}

/// As many bytes as the vectors of every x86-64 and arm64 hold.
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
        fn durations_are_numbers(micros in 0_u64..u64::MAX / 2, shift in 0_u32..60) {
            let micros = micros >> shift;
            let value = Duration::from_micros(micros);
            let out = written(|cursor| cursor.put(b"{\"x\":1,\"d\":")?.millis(value)?.put(b"}"));
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let wanted = micros as f64 / 1_000.0;
            prop_assert!((value["d"].as_f64().unwrap() - wanted).abs() <= wanted * 1e-12);
        }
    }
}
