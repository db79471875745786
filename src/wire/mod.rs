//! What is written of HTTP/1.1 in front and behind.

/// Writes a field's line.
// One copy of the code for all that is written of a request and its answer.
#[inline(never)]
pub(crate) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number to this base, 16 at most.
pub(crate) fn number(mut number: u64, base: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_fmt_does() {
        for value in [0, 7, 10, 1_024, u64::MAX] {
            let (mut decimal, mut hex) = (Vec::new(), Vec::new());
            number(value, 10, &mut decimal);
            number(value, 16, &mut hex);
            assert_eq!(String::from_utf8(decimal).unwrap(), value.to_string());
            assert_eq!(String::from_utf8(hex).unwrap(), format!("{value:X}"));
        }
    }
}
