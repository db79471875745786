//! Finds in a health answer which dependency failed, without a JSON library: the answer of a
//! check is a few hundred bytes, and all that matters is one name.
//!
//! A recursive reader of the whole text: it has to find the end of each value to find the next key,
//! and a text that is not JSON to its last byte names nothing. Depth is bounded, as the text comes
//! from another process. Property tests feed it what `serde_json` writes.
//!
//! | JSON | result |
//! |---|---|
//! | `"status":"fail"`, critical or not said | the dependency failed |
//! | `"critical":false` | it did not fail: the backend serves without it |
//! | other keys, other types | skipped |

/// Returns the first name, in their alphabetical order, of a dependency that failed and is
/// critical: `{"dependencies":{"postgres":{"status":"fail"}}}`. What is no such JSON names none.
///
/// In alphabetical order, so that backends which list them differently name the same one.
pub(super) fn find(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut json = Reader { rest: text };
    let mut found: Option<String> = None;
    json.object(0, |json, key| {
        if key != "dependencies" {
            return json.skip(1);
        }
        json.object(1, |json, name| {
            let failed = json.failed(2)?;
            if failed && found.as_ref().is_none_or(|first| name < *first) {
                found = Some(name);
            }
            Some(())
        })
    })?;
    json.space();
    // Text behind the object means that this is not JSON.
    found.filter(|name| json.rest.is_empty() && !name.is_empty())
}

/// What is left of the text. A method that returns `None` ends the whole reading.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        self.space();
        self.rest = self.rest.strip_prefix(wanted)?;
        Some(())
    }

    fn peek(&mut self) -> Option<char> {
        self.space();
        self.rest.chars().next()
    }

    /// Reads an object; `value` reads each value.
    fn object(
        &mut self,
        depth: usize,
        mut value: impl FnMut(&mut Self, String) -> Option<()>,
    ) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.take('{')?;
        if self.peek()? == '}' {
            return self.take('}');
        }
        loop {
            self.space();
            let key = self.string()?;
            self.take(':')?;
            value(self, key)?;
            match self.peek()? {
                ',' => self.take(',')?,
                _ => return self.take('}'),
            }
        }
    }

    /// Reads what is said of one dependency.
    fn failed(&mut self, depth: usize) -> Option<bool> {
        if self.peek()? != '{' {
            self.skip(depth)?;
            return Some(false);
        }
        let (mut failed, mut critical) = (false, true);
        self.object(depth, |json, key| match (key.as_str(), json.peek()?) {
            ("status", '"') => {
                failed = json.string()? == "fail";
                Some(())
            }
            ("critical", 'f') => {
                critical = false;
                json.skip(depth)
            }
            _ => json.skip(depth + 1),
        })?;
        Some(failed && critical)
    }

    /// Reads a value of any kind, and forgets it.
    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            '{' => self.object(depth, |json, _| json.skip(depth + 1)),
            '[' if depth > DEEPEST => None,
            '[' => {
                self.take('[')?;
                if self.peek()? == ']' {
                    return self.take(']');
                }
                loop {
                    self.skip(depth + 1)?;
                    match self.peek()? {
                        ',' => self.take(',')?,
                        _ => return self.take(']'),
                    }
                }
            }
            '"' => self.string().map(|_| ()),
            _ => {
                let end = self
                    .rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                let known =
                    matches!(word, "true" | "false" | "null") || word.parse::<f64>().is_ok();
                self.rest = rest;
                known.then_some(())
            }
        }
    }

    /// Allocates the text; the limit of the body bounds it.
    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.strip_prefix('"')?;
        let mut text = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'u' => {
                        let code = chars.as_str().get(..4)?;
                        chars = chars.as_str()[4..].chars();
                        let code = u32::from_str_radix(code, 16).ok()?;
                        // Half of a surrogate pair, which no name contains.
                        text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    c @ ('"' | '\\' | '/') => text.push(c),
                    _ => return None,
                },
                c if u32::from(c) < 0x20 => return None,
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }
}

/// A health answer is three deep; what is much deeper is meant to exhaust the stack.
const DEEPEST: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_critical_failure_by_name_is_found() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        for (text, named) in [
            (
                r#"{"status":"fail","dependencies":{"pg":{"status":"fail"}}}"#,
                Some("pg"),
            ),
            (
                r#" { "dependencies" : { "z" : { "ms":3, "status" : "fail" } , "b":{"status":"fail","error":"x: \"y\""}, "a":{"status":"pass"} } , "n":[1,-2.5e3,null,{}] } "#,
                Some("b"),
            ),
            (
                r#"{"dependencies":{"a":{"status":"fail","critical":false}}}"#,
                None,
            ),
            (
                r#"{"dependencies":{"a":{"status":"fail","critical":true}}}"#,
                Some("a"),
            ),
            (
                r#"{"dependencies":{"p\u0067\n":{"status":"fail"}}}"#,
                Some("pg\n"),
            ),
            (
                r#"{"dependencies":{"a":"fail","b":{"status":"warn"}}}"#,
                None,
            ),
            (r#"{"dependencies":{}}"#, None),
            (r#"{"status":"fail"}"#, None),
            (r#"{"dependencies":{"a":{"status":"fail"}}} x"#, None),
            (r#"{"dependencies":{"a":{"status":"fail"}}"#, None),
            (r#"{"dependencies":{"":{"status":"fail"}}}"#, None),
            (r#"[]"#, None),
            ("", None),
            (&deep, None),
        ] {
            let found = find(text.as_bytes());
            assert_eq!(found.as_deref(), named, "{}", &text[..text.len().min(80)]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = find(&bytes);
        }

        #[test]
        fn no_text_of_json_characters_makes_it_panic(text in r#"[{}\[\]":,\\utfalse0-9é ]{0,80}"#) {
            let _ = find(text.as_bytes());
        }

        /// Whatever the names, as a JSON library writes them.
        #[test]
        fn names_are_read_as_a_library_writes_them(
            names in prop::collection::btree_map("[ -~äß\u{0}-\u{1f}]{1,12}", any::<bool>(), 0..8),
        ) {
            let all: serde_json::Map<_, _> = names
                .iter()
                .map(|(name, failed)| {
                    let status = if *failed { "fail" } else { "pass" };
                    (name.clone(), serde_json::json!({"ms": 1, "status": status}))
                })
                .collect();
            let text = serde_json::json!({"status": "fail", "dependencies": all}).to_string();
            let first = names.iter().find(|(_, failed)| **failed).map(|(name, _)| name.clone());
            prop_assert_eq!(find(text.as_bytes()), first);
        }
    }
}
