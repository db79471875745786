//! Cookie fields, read as browsers send them (RFC 6265 §5.4) and taken apart byte by byte.

use http::{
    HeaderMap, HeaderValue,
    header::{self, Entry},
};

use crate::wire::cookie::pairs;

/// Takes every cookie with this name out of the fields and shows `see` its value, in order:
/// quotes taken off, bytes as they came. The other cookies stay byte for byte. Returns true if
/// there was one; touches nothing where there was none.
pub(super) fn take(headers: &mut HeaderMap, name: &str, mut see: impl FnMut(&[u8])) -> bool {
    let Entry::Occupied(mut entry) = headers.entry(header::COOKIE) else {
        return false;
    };
    // HTTP/2 may send each cookie in a field of its own (RFC 9113 §8.2.3).
    if entry.iter().nth(1).is_some() {
        return take_of_many(headers, name, &mut see);
    }
    let field = entry.get();
    match cut(field.as_bytes(), name, &mut see) {
        Cut::Nothing => return false,
        Cut::All => _ = entry.remove(),
        Cut::Some => match without(field, name) {
            Some(rest) => _ = entry.insert(rest),
            None => _ = entry.remove(),
        },
    }
    true
}

#[cold]
#[inline(never)]
fn take_of_many(headers: &mut HeaderMap, name: &str, see: &mut dyn FnMut(&[u8])) -> bool {
    let mut there = false;
    let mut kept = Vec::new();
    for field in headers.get_all(header::COOKIE) {
        match cut(field.as_bytes(), name, see) {
            Cut::Nothing => kept.push(field.clone()),
            Cut::All => there = true,
            Cut::Some => {
                there = true;
                kept.extend(without(field, name));
            }
        }
    }
    if there {
        headers.remove(header::COOKIE);
        for field in kept {
            headers.append(header::COOKIE, field);
        }
    }
    there
}

/// What of a field is ours.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    All,
    Nothing,
    Some,
}

/// Shows the values of ours, in one pass.
fn cut(field: &[u8], name: &str, see: &mut dyn FnMut(&[u8])) -> Cut {
    let (mut ours, mut others) = (false, false);
    for pair in pairs(field) {
        match pair.value_of(name) {
            Some(value) => {
                ours = true;
                see(value);
            }
            None => others |= !pair.raw.trim_ascii().is_empty(),
        }
    }
    match (ours, others) {
        (false, _) => Cut::Nothing,
        (true, false) => Cut::All,
        (true, true) => Cut::Some,
    }
}

#[inline(never)]
fn without(field: &HeaderValue, name: &str) -> Option<HeaderValue> {
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
    // What was valid stays valid with a piece cut out.
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

    fn taken(headers: &mut HeaderMap) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let there = take(headers, "S", |value| found.push(value.to_vec()));
        assert_eq!(there, !found.is_empty());
        found
    }

    #[test]
    fn cookies_are_found_however_they_come() {
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
            assert_eq!(taken(&mut headers), wanted, "{given:?}");
        }
    }

    #[test]
    fn only_ours_is_taken_out() {
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
            taken(&mut headers);
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
        fn nothing_of_ours_is_left_and_nothing_else_is_lost(
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
            let ours: Vec<_> = headers.get_all(header::COOKIE).iter()
                .flat_map(|f| pairs(f.as_bytes()))
                .filter_map(|p| p.value_of("S").map(<[u8]>::to_vec))
                .collect();
            prop_assert_eq!(taken(&mut headers), ours);
            prop_assert_eq!(taken(&mut headers).len(), 0);
            prop_assert_eq!(others(&headers), before);
        }
    }
}
