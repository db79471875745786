//! `traceparent` (W3C Trace Context §3.2): reading and writing. Pure.
//!
//! ```text
//! 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//! 0  3                                36               53     where the parts begin
//! ```
//!
//! The length is fixed, so that a value is read by position. What is longer must be of a later
//! version, of which the first 55 bytes have the same meaning.

use crate::context::TraceContext;

/// Reads the value of a `traceparent` field; `None` if it is malformed. A later version counts as far
/// as version 00 goes (§4.3): its further parts are left out.
pub(super) fn parse(value: &[u8]) -> Option<TraceContext> {
    let (known, further) = value.split_at_checked(LENGTH)?;
    let version: [u8; 1] = hexadecimal(&known[..2])?;
    let has_dashes = [2, 35, 52].iter().all(|&at| known[at] == b'-');
    let ends_here = match version {
        [0] => further.is_empty(),
        // §3.2.2.1: ff is forbidden.
        [0xff] => false,
        _ => further.is_empty() || further[0] == b'-',
    };
    if !has_dashes || !ends_here {
        return None;
    }
    let trace_id: [u8; 16] = hexadecimal(&known[3..35])?;
    let span_id: [u8; 8] = hexadecimal(&known[36..52])?;
    let [flags] = hexadecimal(&known[53..])?;
    // §3.2.2.3 and §3.2.2.4: zero ids are invalid.
    let has_ids = trace_id != [0; 16] && span_id != [0; 8];
    has_ids.then(|| TraceContext::new(trace_id, span_id, flags & SAMPLED != 0))
}

/// Writes the value of a `traceparent` field, in version 00. Flags other than `sampled` are zero, as
/// version 00 asks (§3.2.2.5).
pub(super) fn write(context: &TraceContext) -> [u8; LENGTH] {
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hexadecimal(&context.trace_id, &mut value[3..35]);
    write_hexadecimal(&context.span_id, &mut value[36..52]);
    value[54] = if context.sampled { b'1' } else { b'0' };
    value
}

fn hexadecimal<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Reads a digit. Capital letters are refused (§3.2: lower case hexadecimal).
fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn write_hexadecimal(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// The length of a value of version 00.
pub(super) const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_value_is_read_strictly() {
        let zeros = "0".repeat(32);
        let upper = TRACE.to_uppercase();
        // The value, and the sampled flag if it is well formed.
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            // Flags that version 00 does not define are ignored.
            (format!("00-{TRACE}-{SPAN}-02"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-ff"), Some(true)),
            // A later version may be longer, after a dash.
            (format!("01-{TRACE}-{SPAN}-01"), Some(true)),
            (
                format!("cc-{TRACE}-{SPAN}-01-what-the-future-adds"),
                Some(true),
            ),
            (format!("fe-{TRACE}-{SPAN}-00-"), Some(false)),
            (format!("cc-{TRACE}-{SPAN}-01.what"), None),
            (format!("cc-{TRACE}-{SPAN}-010"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0g-{TRACE}-{SPAN}-01"), None),
            (format!("0-{TRACE}-{SPAN}-001"), None),
            (format!("00-{zeros}-{SPAN}-01"), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{upper}-{SPAN}-01"), None),
            (format!("00-{TRACE}-00F067AA0BA902B7-01"), None),
            (format!("00-{TRACE}-{SPAN}-0A"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-.0"), None),
            (format!("00_{TRACE}_{SPAN}_01"), None),
            (format!("00-{}-{SPAN}a-01", &TRACE[1..]), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-01 "), None),
            (String::new(), None),
            ("é".repeat(28), None),
        ] {
            let read = parse(value.as_bytes());
            assert_eq!(read.map(|context| context.sampled), sampled, "{value:?}");
            if let Some(context) = read {
                assert_eq!(context.trace_id_hex().to_string(), TRACE);
                assert_eq!(context.span_id_hex().to_string(), SPAN);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = TraceContext::new(trace.to_be_bytes(), span.to_be_bytes(), sampled);
            let value = write(&context);
            prop_assert_eq!(std::str::from_utf8(&value).unwrap(), context.to_string());
            prop_assert_eq!(parse(&value), Some(context));
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_they_stand(value in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Some(context) = parse(&value) {
                prop_assert_eq!(&write(&context)[3..52], &value[3..52]);
            }
        }

        #[test]
        fn one_wrong_byte_in_an_id_is_refused(at in 3usize..52, byte: u8) {
            let mut value = format!("00-{TRACE}-{SPAN}-01").into_bytes();
            let is_dash = at == 35;
            let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            value[at] = byte;
            let fits = if is_dash { byte == b'-' } else { is_digit };
            prop_assert_eq!(parse(&value).is_some(), fits);
        }
    }
}
