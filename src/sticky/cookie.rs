//! Cookie fields, read as browsers send them (RFC 6265 §5.4) and taken apart byte by byte.

use http::{HeaderMap, HeaderValue, header};

/// Returns the values of every cookie with this name: over several fields (HTTP/2 sends each
/// cookie in one of its own), quotes taken off, bytes as they came.
pub(super) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|&b| b == b';'))
        .filter_map(|pair| value_of(pair, name))
}

/// Takes every cookie with this name out of the fields; the others stay byte for byte. Touches
/// nothing where there is none.
pub(super) fn strip(headers: &mut HeaderMap, name: &str) {
    let is_ours = |pair: &[u8]| value_of(pair, name).is_some();
    let mut fields = headers.get_all(header::COOKIE).iter();
    if let (Some(only), None) = (fields.next(), fields.next()) {
        // As nearly every client sends them.
        match cut(only, is_ours) {
            Cut::Nothing => {}
            Cut::Rest(rest) => _ = headers.insert(header::COOKIE, rest),
            Cut::All => _ = headers.remove(header::COOKIE),
        }
        return;
    }
    let has_ours = |field: &HeaderValue| field.as_bytes().split(|&b| b == b';').any(is_ours);
    if !headers.get_all(header::COOKIE).iter().any(has_ours) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|field| {
            if has_ours(field) {
                without(field, is_ours)
            } else {
                Some(field.clone())
            }
        })
        .collect();
    headers.remove(header::COOKIE);
    for field in kept {
        headers.append(header::COOKIE, field);
    }
}

/// What is left of a field.
enum Cut {
    All,
    Nothing,
    Rest(HeaderValue),
}

fn cut(field: &HeaderValue, is_ours: impl Fn(&[u8]) -> bool) -> Cut {
    let bytes = field.as_bytes();
    if !bytes.contains(&b';') {
        // One pair, so nothing would be left.
        return if is_ours(bytes) {
            Cut::All
        } else {
            Cut::Nothing
        };
    }
    if !bytes.split(|&b| b == b';').any(&is_ours) {
        return Cut::Nothing;
    }
    without(field, is_ours).map_or(Cut::All, Cut::Rest)
}

fn without(field: &HeaderValue, is_ours: impl Fn(&[u8]) -> bool) -> Option<HeaderValue> {
    let mut rest = Vec::new();
    for pair in field.as_bytes().split(|&b| b == b';') {
        if is_ours(pair) || (rest.is_empty() && pair.trim_ascii().is_empty()) {
            continue;
        }
        if rest.is_empty() {
            // Only where something is left is there something to pay for.
            rest.reserve(field.len());
            rest.extend_from_slice(pair.trim_ascii_start());
        } else {
            rest.push(b';');
            rest.extend_from_slice(pair);
        }
    }
    // What was valid stays valid with a piece cut out.
    (!rest.is_empty()).then(|| HeaderValue::from_maybe_shared(bytes::Bytes::from(rest)).ok())?
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii();
    let rest = pair.strip_prefix(name.as_bytes())?;
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let unquoted = value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value))
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
            let headers = fields(given);
            let found: Vec<_> = values(&headers, "S").collect();
            assert_eq!(found, wanted, "{given:?}");
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
            strip(&mut headers, "S");
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
                    .flat_map(|f| f.as_bytes().split(|&b| b == b';'))
                    .filter(|p| value_of(p, "S").is_none())
                    .map(|p| p.trim_ascii().to_vec())
                    .filter(|p| !p.is_empty())
                    .collect()
            };
            let before = others(&headers);
            strip(&mut headers, "S");
            prop_assert_eq!(values(&headers, "S").count(), 0);
            prop_assert_eq!(others(&headers), before);
        }
    }
}
