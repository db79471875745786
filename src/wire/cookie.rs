//! The pairs of a `Cookie` field (RFC 6265 §5.4), byte for byte as browsers send them.
//!
//! Browsers and servers do not keep to the grammar of RFC 6265, so nothing is validated: a pair is
//! what stands between two semicolons. What is not understood is passed on byte for byte, and
//! `sticky` removes its own pair without touching another.
//!
//! A name is compared byte for byte, and the first pair with a name counts: browsers send the more
//! specific one first (RFC 6265 §5.4), and a second one may have been planted by another host of
//! the domain.

/// One name-value pair: the bytes between two semicolons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair<'a> {
    /// The bytes, including the blanks around them.
    pub(crate) raw: &'a [u8],
}

impl<'a> Pair<'a> {
    /// Returns the value if the pair has this name, else `None`. Removes the blanks around the
    /// value and one pair of quotes; leaves the bytes between them as they are.
    pub(crate) fn value_of(self, name: &str) -> Option<&'a [u8]> {
        let rest = self.raw.trim_ascii_start().strip_prefix(name.as_bytes())?;
        let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
        let inner = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        Some(inner.unwrap_or(value))
    }
}

/// Splits the value of a `Cookie` field at its semicolons.
///
/// Never empty: an empty field yields one empty pair.
pub(crate) fn pairs(field: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let left = rest?;
        let raw = match memchr::memchr(b';', left) {
            Some(end) => {
                rest = Some(&left[end + 1..]);
                &left[..end]
            }
            None => {
                rest = None;
                left
            }
        };
        Some(Pair { raw })
    })
}

/// Returns the value of the first cookie with this name.
pub(crate) fn value<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(field).find_map(|pair| pair.value_of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        for (field, found) in [
            ("a=1", Some("1")),
            ("b=2; a=1", Some("1")),
            ("aa=2; a = 1 ", Some("1")),
            ("a=\"1\"", Some("1")),
            ("a=\"1", Some("\"1")),
            ("a=", Some("")),
            ("a=1=2", Some("1=2")),
            ("a=1; a=2", Some("1")),
            ("b=a=1", None),
            ("A=1", None),
            ("a", None),
            ("", None),
            (";;", None),
        ] {
            let value = value(field.as_bytes(), "a");
            assert_eq!(value, found.map(str::as_bytes), "{field:?}");
        }
    }
}
