//! `tracestate` (W3C Trace Context §3.3): which members pass. Pure.

/// What becomes of the `tracestate` fields of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tracestate {
    /// They are one field that passes as it is, or none.
    Keep,
    /// They are malformed, and removed (§3.3).
    Remove,
    /// They become one field with this value (RFC 9110 §5.3).
    Replace(Vec<u8>),
}

impl Tracestate {
    /// Decides by the values of the fields, in their order. The list passes whole if it is well formed
    /// and has at most 32 members and 512 bytes. Of a longer one, members of more than 128 bytes are
    /// left out first, then those at its end (§3.3.1.5). Members whose key stands there twice pass: the
    /// list belongs to others, and only its form counts here.
    pub(super) fn of<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut members, mut lines, mut length) = (Vec::new(), 0, 0);
        for line in fields {
            lines += 1;
            length += line.len();
            for member in line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if member.is_empty() {
                    continue;
                }
                // A list with one bad member is removed as a whole: what it means is not ours to
                // guess.
                if members.len() == MAX_MEMBERS || !is_member(member) {
                    return Self::Remove;
                }
                members.push(member);
            }
        }
        match lines {
            0 => Self::Keep,
            _ if members.is_empty() => Self::Remove,
            // The field passes byte for byte, and nothing is allocated for it but the list.
            1 if length <= MAX_LENGTH => Self::Keep,
            _ => Self::Replace(joined(members)),
        }
    }
}

/// Joins the members that fit.
fn joined(mut members: Vec<&[u8]>) -> Vec<u8> {
    let length = |members: &[&[u8]]| members.iter().map(|m| m.len() + 1).sum::<usize>();
    let mut excess = length(&members).saturating_sub(MAX_LENGTH + 1);
    // From the front, and no more than needed: a long member at the end may stay.
    members.retain(|member| {
        let leaves = excess > 0 && member.len() > LONG_MEMBER;
        if leaves {
            excess = excess.saturating_sub(member.len() + 1);
        }
        !leaves
    });
    while length(&members) > MAX_LENGTH + 1 {
        members.pop();
    }
    members.join(&b","[..])
}

/// Returns true for a key and a value of the right form (§3.3.1.3).
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|&byte| byte == b'=') else {
        return false;
    };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let begins = |first: &u8| first.is_ascii_lowercase() || first.is_ascii_digit();
    let is_value_byte = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'=';
    (1..=MAX_PART).contains(&key.len())
        && key.first().is_some_and(begins)
        && key.iter().all(is_key_byte)
        && (1..=MAX_PART).contains(&value.len())
        && value.iter().all(is_value_byte)
}

/// The most members of a list (§3.3.1.1).
pub(super) const MAX_MEMBERS: usize = 32;
/// What a system must pass at least (§3.3.1.5), and what this one passes at most: the list goes to
/// backends whose limits are not known.
pub(super) const MAX_LENGTH: usize = 512;
/// Members longer than this are left out first (§3.3.1.5).
const LONG_MEMBER: usize = 128;
/// The longest key and the longest value (§3.3.1.3).
const MAX_PART: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&str]) -> Tracestate {
        Tracestate::of(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn a_list_passes_if_its_form_is_right() {
        let members = |count: usize| vec!["a=1"; count].join(",");
        for (line, passes) in [
            ("a=1", true),
            ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", true),
            ("tenant@system=1 , b=x y", true),
            ("1a*/_-=!", true),
            ("a=1,,b=2,", true),
            ("a=\"quoted\";x", true),
            (&members(MAX_MEMBERS), true),
            (&members(MAX_MEMBERS + 1), false),
            ("", false),
            (",", false),
            ("a", false),
            ("a=", false),
            ("=1", false),
            ("A=1", false),
            ("@a=1", false),
            ("a b=1", false),
            ("a=1=2", false),
            ("a=\t1", false),
            ("a=é", false),
            (&format!("{}=1", "a".repeat(257)), false),
            (&format!("a={}", "1".repeat(257)), false),
        ] {
            let expected = if passes {
                Tracestate::Keep
            } else {
                Tracestate::Remove
            };
            assert_eq!(of(&[line]), expected, "{line:?}");
        }
        assert_eq!(of(&[]), Tracestate::Keep, "there is nothing to remove");
    }

    #[test]
    fn several_fields_become_one_in_their_order() {
        let joined = Tracestate::Replace(b"a=1,b=2,c=3".to_vec());
        assert_eq!(of(&["a=1 ,b=2", " c=3"]), joined);
        assert_eq!(
            of(&["a=1", "bad"]),
            Tracestate::Remove,
            "one list, one form"
        );
        assert_eq!(of(&["", "a=1"]), Tracestate::Replace(b"a=1".to_vec()));
    }

    #[test]
    fn of_a_long_list_the_long_members_leave_first_and_then_the_last() {
        let long = |key: &str, length: usize| format!("{key}={}", "x".repeat(length - 2));
        let (x, y) = (long("x", 200), long("y", 200));
        let short: Vec<String> = ["a", "b", "c", "d"].map(|key| long(key, 120)).into();
        let line = format!("{x},{},{y}", short.join(","));
        let left = Tracestate::Replace(short.join(",").into_bytes());
        assert_eq!(of(&[&line]), left);
        // One long member is enough; the other stays.
        let line = format!("{x},{y},{}", [long("a", 120), long("b", 120)].join(","));
        let left = format!("{y},{},{}", long("a", 120), long("b", 120));
        assert_eq!(of(&[&line]), Tracestate::Replace(left.into_bytes()));
        let line = vec![long("a", 100); 6].join(",");
        let left = vec![long("a", 100); 5].join(",");
        assert_eq!(of(&[&line]), Tracestate::Replace(left.into_bytes()));
    }

    proptest! {
        #[test]
        fn what_passes_is_bounded_and_well_formed(lines in prop::collection::vec("[a-z=,1 ]{0,300}", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            if let Tracestate::Replace(value) = of(&lines) {
                prop_assert!(value.len() <= MAX_LENGTH);
                let text = String::from_utf8(value).unwrap();
                prop_assert_eq!(of(&[&text]), Tracestate::Keep);
                let all = lines.join(",");
                prop_assert!(text.split(',').all(|member| all.contains(member)));
            }
        }
    }
}
