//! How a value stands in Redis: a version, its length, and its bytes.
//!
//! The head shows a value that another program wrote, or that was cut: it is refused, rather than taken
//! for a certificate or an order.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Puts the head before a value.
pub(super) fn encode(value: &[u8]) -> Vec<u8> {
    let mut framed = BytesMut::with_capacity(HEAD + value.len());
    framed.put_u8(VERSION);
    // `MAX_VALUE` is far below 4 GiB.
    framed.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    framed.put_slice(value);
    framed.into()
}

/// Returns the value behind the head.
pub(super) fn decode(framed: Vec<u8>) -> Result<Bytes, Unreadable> {
    let framed = Bytes::from(framed);
    let Some(head) = framed.first_chunk::<HEAD>() else {
        return Err(Unreadable::Short(framed.len()));
    };
    let [version, length @ ..] = *head;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let (length, found) = (u32::from_be_bytes(length), framed.len() - HEAD);
    if u32::try_from(found) != Ok(length) {
        return Err(Unreadable::Length(found, length));
    }
    Ok(framed.slice(HEAD..))
}

/// Why a value was refused. The message does not show the value, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has fewer bytes than a head.
    Short(usize),
    /// The first byte is another version.
    Version(u8),
    /// It has this many bytes, and the head says that many.
    Length(usize, u32),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(found) => write!(f, "{found} bytes are no value of this program"),
            Self::Version(found) => write!(
                f,
                "the format has the version {found}, and {VERSION} is accepted: another program or \
                 a later version of this one wrote it"
            ),
            Self::Length(found, said) => write!(f, "{found} bytes, of {said} that were written"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// The format of the values.
pub(super) const VERSION: u8 = 1;
/// The version and the length.
pub(super) const HEAD: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_all_else_is_refused() {
        for value in [&b""[..], b"a", &[0; 1000]] {
            let framed = encode(value);
            assert_eq!(decode(framed.clone()).unwrap(), value);
            for cut in 0..framed.len() {
                assert!(decode(framed[..cut].to_vec()).is_err(), "cut at {cut}");
            }
            assert!(decode([framed.as_slice(), b"x"].concat()).is_err());
            for other in [0, 2, b'-', b'{', 255] {
                let mut changed = framed.clone();
                changed[0] = other;
                assert_eq!(decode(changed), Err(Unreadable::Version(other)));
            }
        }
    }
}
