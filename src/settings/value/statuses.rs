//! Lists of statuses: numbers and ranges.
//!
//! The list is read as `toml::Value`, since TOML has one list with elements of two types here. Which
//! statuses exist, and that a range must not run backwards, is asked of the check that uses the list.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};

use super::refused;

/// Reads a list of statuses that may be absent.
pub(in crate::settings) fn optional<'de, D>(
    deserializer: D,
) -> Result<Option<Vec<RangeInclusive<u16>>>, D::Error>
where
    D: Deserializer<'de>,
{
    let given = Vec::<toml::Value>::deserialize(deserializer)?;
    let each = given.iter().map(|value| {
        range(value).ok_or_else(|| {
            refused(format!(
                "{}: a status such as 204, or a range such as \"200-299\", is accepted",
                shown(value)
            ))
        })
    });
    each.collect::<Result<_, _>>().map(Some)
}

fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::String(text) => format!("{text:?}"),
        other => other.type_str().to_owned(),
    }
}

fn range(value: &toml::Value) -> Option<RangeInclusive<u16>> {
    match value {
        toml::Value::Integer(status) => {
            let status = u16::try_from(*status).ok()?;
            Some(status..=status)
        }
        toml::Value::String(text) => {
            // A single status may be a text as well.
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let value = |text: &str| {
            toml::from_str::<toml::Table>(&format!("x = {text}")).unwrap()["x"].clone()
        };
        for (text, wanted) in [
            ("204", Some(204..=204)),
            ("\"204\"", Some(204..=204)),
            ("\"200-299\"", Some(200..=299)),
            ("\"200 - 299\"", Some(200..=299)),
            ("\"2xx\"", None),
            ("70000", None),
            ("true", None),
        ] {
            assert_eq!(range(&value(text)), wanted, "{text}");
        }
    }
}
