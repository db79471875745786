//! Removes one cookie from the `Cookie` fields of a request and keeps the others byte for byte.
//!
//! The backend must not see the cookie: it could be logged there, or be sent back as the application's
//! own. All other cookies stay as they came, spaces and odd bytes included, since applications have
//! parsers of their own. A request without the cookie is not touched.

use http::{
    HeaderMap, HeaderValue,
    header::{self, Entry},
};

use crate::wire::cookie::pairs;

/// Removes every cookie with this name from the fields and calls `on_value` with each value, in
/// order. The quotes around a value are removed. The other cookies stay byte for byte. Returns true
/// if there was a cookie with this name; otherwise `headers` are unchanged.
pub(super) fn remove(headers: &mut HeaderMap, name: &str, mut on_value: impl FnMut(&[u8])) -> bool {
    let Entry::Occupied(mut entry) = headers.entry(header::COOKIE) else {
        return false;
    };
    // An HTTP/2 client may send each cookie in a field of its own (RFC 9113 §8.2.3).
    if entry.iter().nth(1).is_some() {
        return remove_from_many_fields(headers, name, &mut on_value);
    }
    let field = entry.get();
    // One pass finds out whether a new field must be made at all.
    match match_pairs(field.as_bytes(), name, &mut on_value) {
        Matched::Nothing => return false,
        Matched::All => _ = entry.remove(),
        Matched::Some => match without_cookie(field, name) {
            Some(rest) => _ = entry.insert(rest),
            None => _ = entry.remove(),
        },
    }
    true
}

#[cold]
#[inline(never)]
fn remove_from_many_fields(
    headers: &mut HeaderMap,
    name: &str,
    on_value: &mut dyn FnMut(&[u8]),
) -> bool {
    let mut is_present = false;
    let mut kept = Vec::new();
    for field in headers.get_all(header::COOKIE) {
        match match_pairs(field.as_bytes(), name, on_value) {
            Matched::Nothing => kept.push(field.clone()),
            Matched::All => is_present = true,
            Matched::Some => {
                is_present = true;
                kept.extend(without_cookie(field, name));
            }
        }
    }
    if is_present {
        headers.remove(header::COOKIE);
        for field in kept {
            headers.append(header::COOKIE, field);
        }
    }
    is_present
}

/// How many pairs of a field have the name.
#[derive(Clone, Copy, PartialEq)]
enum Matched {
    All,
    Nothing,
    Some,
}

/// Calls `on_value` with the values of the cookies with this name, in one pass.
fn match_pairs(field: &[u8], name: &str, on_value: &mut dyn FnMut(&[u8])) -> Matched {
    let (mut has_match, mut has_others) = (false, false);
    for pair in pairs(field) {
        match pair.value_of(name) {
            Some(value) => {
                has_match = true;
                on_value(value);
            }
            None => has_others |= !pair.raw.trim_ascii().is_empty(),
        }
    }
    match (has_match, has_others) {
        (false, _) => Matched::Nothing,
        (true, false) => Matched::All,
        (true, true) => Matched::Some,
    }
}

/// Returns the field without the cookies of this name; `None` if nothing is left.
#[inline(never)]
fn without_cookie(field: &HeaderValue, name: &str) -> Option<HeaderValue> {
    let mut rest = Vec::with_capacity(field.len());
    for pair in pairs(field.as_bytes()) {
        if pair.value_of(name).is_some() || (rest.is_empty() && pair.raw.trim_ascii().is_empty()) {
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(pair.raw.trim_ascii_start());
        } else {
            rest.push(b';');
            rest.extend_from_slice(pair.raw);
        }
    }
    // A valid value stays valid with a part removed.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(rest)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(list: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in list {
            headers.append(header::COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        headers
    }

    fn removed(headers: &mut HeaderMap) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let is_present = remove(headers, "S", |value| found.push(value.to_vec()));
        assert_eq!(is_present, !found.is_empty());
        found
    }

    #[test]
    fn cookies_are_found_in_every_form() {
        let table: [(&[&[u8]], &[&[u8]]); 9] = [
            (&[b"S=1"], &[b"1"]),
            (&[b"a=b; S=1; c=d"], &[b"1"]),
            (&[b"a=b;S=1;c=d"], &[b"1"]),
            (&[b"a=b", b"S=1", b"S=2"], &[b"1", b"2"]),
            (&[b"S=\"1\""], &[b"1"]),
            (&[b"XS=1; S2=1; s=1"], &[]),
            (&[b"S"], &[]),
            (&[b"S="], &[b""]),
            (&[b"a=\xff\xfe; S=\xff"], &[b"\xff"]),
        ];
        for (given, wanted) in table {
            let mut headers = fields(given);
            assert_eq!(removed(&mut headers), wanted, "{given:?}");
        }
    }

    #[test]
    fn only_the_named_cookie_is_removed() {
        let table: [(&[&[u8]], &[&[u8]]); 9] = [
            (&[b"S=1"], &[]),
            (&[b"a=b; S=1; c=d"], &[b"a=b; c=d"]),
            (&[b"S=1; a=b"], &[b"a=b"]),
            (&[b"a=b; S=1"], &[b"a=b"]),
            (&[b"a=b;S=1;c=d"], &[b"a=b;c=d"]),
            (&[b"a=b", b"S=1", b"c=d"], &[b"a=b", b"c=d"]),
            (&[b"S=1; S=2;a=\"x;\""], &[b"a=\"x;\""]),
            (&[b"a=b;; x"], &[b"a=b;; x"]),
            (&[b"a=\xff; S=1"], &[b"a=\xff"]),
        ];
        for (given, wanted) in table {
            let mut headers = fields(given);
            removed(&mut headers);
            let left: Vec<_> = headers
                .get_all(header::COOKIE)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            assert_eq!(left, wanted, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn the_named_cookie_is_removed_and_no_other_is_lost(
            field in proptest::collection::vec(prop_oneof![
                Just(b'S'), Just(b'='), Just(b';'), Just(b' '), Just(b'a'), Just(b'"'), 0x80_u8..,
            ], 0..40),
        ) {
            let Ok(value) = HeaderValue::from_bytes(&field) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, value);
            let others = |headers: &HeaderMap| -> Vec<Vec<u8>> {
                headers.get_all(header::COOKIE).iter()
                    .flat_map(|f| pairs(f.as_bytes()))
                    .filter(|p| p.value_of("S").is_none())
                    .map(|p| p.raw.trim_ascii().to_vec())
                    .filter(|p| !p.is_empty())
                    .collect()
            };
            let before = others(&headers);
            let matching: Vec<_> = headers.get_all(header::COOKIE).iter()
                .flat_map(|f| pairs(f.as_bytes()))
                .filter_map(|p| p.value_of("S").map(<[u8]>::to_vec))
                .collect();
            prop_assert_eq!(removed(&mut headers), matching);
            prop_assert_eq!(removed(&mut headers).len(), 0);
            prop_assert_eq!(others(&headers), before);
        }
    }
}
