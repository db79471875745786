//! logfmt, made from the lines of the JSON encoder.
//!
//! The escapes of a quoted value in logfmt are those of JSON, so a string is copied as it is, and
//! loses its quotes if it can do without.
//!
//! Reading the JSON again costs the writer's thread a pass over memory that is in its cache; a second
//! encoder would cost a request the choice between the two, and would have to be kept equal to the
//! first field by field. The parser trusts the encoder in what it skips (numbers, literals) and not in
//! its bounds: each index is checked, and a line that it cannot read becomes `line="…"`.

use memchr::{memchr_iter, memchr2};

/// Adds `lines`, each a JSON object, as logfmt.
pub(super) fn add_lines(lines: &[u8], out: &mut Vec<u8>) {
    let mut begin = 0;
    for end in memchr_iter(b'\n', lines) {
        let line = lines.get(begin..end).unwrap_or_default();
        begin = end + 1;
        let line_begin = out.len();
        if add_line(line, out).is_none() {
            // The encoder writes valid JSON; a line that is not is passed on whole.
            out.truncate(line_begin);
            out.extend_from_slice(b"line=");
            add_quoted(line, out);
        }
        out.push(b'\n');
    }
}

fn add_line(line: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = line.strip_prefix(b"{")?;
    if rest == b"}" {
        return Some(());
    }
    loop {
        let (name, after) = split_string(rest)?;
        let value_begin = after.strip_prefix(b":")?;
        let (value, after) = split_value(value_begin)?;
        // Names of an application's own fields are inside `fields`, which is one value here; this
        // guards against a vocabulary with odd names.
        out.extend(name.get(1..name.len() - 1)?.iter().map(|&b| match b {
            b if is_bare(b) => b,
            _ => b'_',
        }));
        out.push(b'=');
        match value.first()? {
            b'"' => add_string(value, out),
            b'[' | b'{' => add_quoted(value, out),
            _ => out.extend_from_slice(value),
        }
        match after.split_first()? {
            (b',', next) => {
                out.push(b' ');
                rest = next;
            }
            (b'}', []) => return Some(()),
            _ => return None,
        }
    }
}

/// Adds a JSON string, which includes its quotes.
fn add_string(string: &[u8], out: &mut Vec<u8>) {
    match string {
        [b'"', content @ .., b'"']
            if !content.is_empty() && content.iter().all(|&b| is_bare(b)) =>
        {
            out.extend_from_slice(content);
        }
        _ => out.extend_from_slice(string),
    }
}

/// Adds any text in quotes.
fn add_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &b in text {
        if b == b'"' || b == b'\\' {
            out.push(b'\\');
        }
        out.push(b);
    }
    out.push(b'"');
}

/// Returns true for a byte that may stand without quotes.
fn is_bare(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'=' | b'"' | b'\\')
}

/// Splits a JSON value from what follows it.
fn split_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text.first()? {
        b'"' => split_string(text),
        b'[' | b'{' => split_nested(text),
        _ => text.split_at_checked(memchr2(b',', b'}', text)?),
    }
}

/// Splits a JSON string, with its quotes, from what follows it.
fn split_string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 1;
    text.strip_prefix(b"\"")?;
    loop {
        let rest = text.get(at..)?;
        let found = memchr2(b'"', b'\\', rest)?;
        match rest.get(found)? {
            b'"' => return text.split_at_checked(at + found + 1),
            _ => at += found + 2,
        }
    }
}

/// Splits a list or an object from what follows it.
fn split_nested(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match text.get(at)? {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            // A bracket within a string is no bracket: the whole string is passed over.
            b'"' => at += split_string(text.get(at..)?)?.0.len() - 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return text.split_at_checked(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::access_log::{Entry, json::Buffer};

    fn logfmt(lines: &str) -> String {
        let mut out = Vec::new();
        add_lines(lines.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Reads a line as go-logfmt does: pairs of a key and a value, which stands bare or in quotes
    /// with the escapes of JSON.
    fn read(line: &str) -> Option<BTreeMap<String, String>> {
        let mut fields = BTreeMap::new();
        let mut rest = line;
        while !rest.is_empty() {
            let (key, value) = rest.split_once('=')?;
            assert!(key.bytes().all(|b| b > b' ' && b != b'"'), "{key:?}");
            let mut strings = serde_json::Deserializer::from_str(value).into_iter::<String>();
            let (value, after) = match value.starts_with('"') {
                true => {
                    let string = strings.next()?.ok()?;
                    (string, &value[strings.byte_offset()..])
                }
                false => {
                    let end = value.find(' ').unwrap_or(value.len());
                    (value[..end].to_owned(), &value[end..])
                }
            };
            assert!(
                fields.insert(key.to_owned(), value).is_none(),
                "{key} twice"
            );
            rest = match after {
                "" => "",
                _ => after.strip_prefix(' ')?,
            };
        }
        Some(fields)
    }

    #[test]
    fn values_lose_their_quotes_where_they_can() {
        for (json, wanted) in [
            (r#"{"a":"b","n":1.5,"t":true}"#, "a=b n=1.5 t=true"),
            (r#"{"a":"b c","e":"","q":"x=1"}"#, r#"a="b c" e="" q="x=1""#),
            (
                r#"{"a":"\"","b":"\\","c":"é","d":"\n"}"#,
                r#"a="\"" b="\\" c="é" d="\n""#,
            ),
            (
                r#"{"l":[{"a":"]}"},{"b":2}],"o":{}}"#,
                r#"l="[{\"a\":\"]}\"},{\"b\":2}]" o="{}""#,
            ),
            (r#"{"a b":1,"c=\"":2}"#, "a_b=1 c___=2"),
            ("{}", ""),
            (r#"{"a":"#, r#"line="{\"a\":""#),
            ("no \"json\"", r#"line="no \"json\"""#),
        ] {
            assert_eq!(
                logfmt(&format!("{json}\n{json}\n")),
                format!("{wanted}\n{wanted}\n")
            );
        }
    }

    proptest! {
        #[test]
        fn every_field_of_the_json_comes_back(
            node in any::<String>(),
            detail in "\\PC{0,20}|[ =\"\\\\\\n\\t]{0,9}",
            micros in 0_u64..10_000_000,
        ) {
            let entry = Entry {
                node: Some(&node),
                detail: Some(&detail),
                ..Entry::new(std::time::UNIX_EPOCH, Duration::from_micros(micros), "ok")
            };
            let mut buffer = Buffer::default();
            while !buffer.try_add_entry(&entry) {}
            let json = std::str::from_utf8(buffer.written()).unwrap();
            let json: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
            let line = logfmt(std::str::from_utf8(buffer.written()).unwrap());
            prop_assert_eq!(line.matches('\n').count(), 1);
            let fields = read(line.trim_end_matches('\n')).unwrap();
            let wanted: BTreeMap<_, _> = json.into_iter().map(|(key, value)| match value {
                Value::String(text) => (key, text),
                // Numbers are copied, so that `1.000` stays as it is.
                other => { let text = fields[&key].clone();
                    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), other);
                    (key, text) }
            }).collect();
            prop_assert_eq!(fields, wanted);
        }
    }
}
