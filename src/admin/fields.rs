//! The fields of a request body: a JSON object or a form.
//!
//! A form, as `curl -d` sends it, and JSON. Both become the same list of texts, so that an order has
//! one reading of its fields. Strictness is deliberate: a misspelt field in an order (`weigth=0`) must
//! not be ignored while the order is carried out.

use http::{HeaderValue, header, request::Parts};
use serde_json::{Map, Value};

/// The fields of a body, by name, as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

/// Why a body is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadBody {
    /// A field has another value than those that are accepted, or is not known.
    Field { name: String, message: String },
    /// It is no JSON object, or no form.
    Malformed(String),
    /// `Content-Type` names another format.
    MediaType,
}

impl BadBody {
    pub(super) fn field(name: &str, message: impl Into<String>) -> Self {
        Self::Field {
            name: name.to_owned(),
            message: message.into(),
        }
    }
}

/// The formats of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Form,
    Json,
    /// No `Content-Type`: the body must be empty.
    None,
}

impl Format {
    pub(super) fn of(head: &Parts) -> Result<Self, BadBody> {
        let Some(field) = head.headers.get(header::CONTENT_TYPE) else {
            return Ok(Self::None);
        };
        let text = HeaderValue::to_str(field).unwrap_or_default();
        // Parameters such as a charset say nothing new: both formats are UTF-8 here.
        let media_type = text.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            Ok(Self::Json)
        } else if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Self::Form)
        } else {
            Err(BadBody::MediaType)
        }
    }
}

impl Fields {
    pub(super) fn parse(format: Format, body: &[u8]) -> Result<Self, BadBody> {
        match format {
            // `curl -X POST` sends no type; `curl -d ""` sends that of a form.
            _ if body.is_empty() => Ok(Self::default()),
            Format::Form => Self::form(body),
            Format::Json => Self::json(body),
            Format::None => Err(BadBody::MediaType),
        }
    }

    fn json(body: &[u8]) -> Result<Self, BadBody> {
        let object: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| BadBody::Malformed(format!("the body is no JSON object: {error}")))?;
        let mut fields = Vec::with_capacity(object.len());
        for (name, value) in object {
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Array(_) | Value::Bool(_) | Value::Null | Value::Object(_) => {
                    return Err(BadBody::field(&name, "a string or a number is accepted"));
                }
            };
            fields.push((name, text));
        }
        Ok(Self(fields))
    }

    fn form(body: &[u8]) -> Result<Self, BadBody> {
        let pairs = body.split(|&b| b == b'&').filter(|pair| !pair.is_empty());
        let mut fields = Vec::new();
        for pair in pairs {
            let at = pair.iter().position(|&b| b == b'=').unwrap_or(pair.len());
            let text = |bytes| {
                let message = "the form has an escape that is no UTF-8";
                percent_decode(bytes, true).ok_or_else(|| BadBody::Malformed(message.into()))
            };
            fields.push((
                text(&pair[..at])?,
                text(pair.get(at + 1..).unwrap_or_default())?,
            ));
        }
        Ok(Self(fields))
    }

    /// Takes the value of the one field that may be there; `None` if there is none.
    pub(super) fn only(self, accepted: Option<&str>) -> Result<Option<String>, BadBody> {
        // Duplicates are refused, as two readers might take the first and the last.
        let mut found = None;
        for (name, value) in self.0 {
            if accepted != Some(name.as_str()) {
                let message = match accepted {
                    Some(accepted) => format!("the field is not known; {accepted} is accepted"),
                    None => "the field is not known; no field is accepted".into(),
                };
                return Err(BadBody::field(&name, message));
            }
            if found.replace(value).is_some() {
                return Err(BadBody::field(&name, "the field is there twice"));
            }
        }
        Ok(found)
    }
}

/// Decodes `%XX`, and `+` as a blank in a form; `None` if an escape is incomplete or the result is no
/// UTF-8.
pub(super) fn percent_decode(bytes: &[u8], is_form: bool) -> Option<String> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if is_form => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(format: Format, body: &str) -> Result<Option<String>, BadBody> {
        Fields::parse(format, body.as_bytes())?.only(Some("weight"))
    }

    #[test]
    fn json_and_forms_say_the_same() {
        for (format, body) in [
            (Format::Json, r#"{"weight": 5}"#),
            (Format::Json, r#"{"weight":"5"}"#),
            (Format::Form, "weight=5"),
            (Format::Form, "&w%65ight=%35&"),
        ] {
            assert_eq!(only(format, body), Ok(Some("5".into())), "{body}");
        }
        for format in [Format::Json, Format::Form, Format::None] {
            assert_eq!(only(format, ""), Ok(None));
        }
        assert_eq!(only(Format::Json, "{}"), Ok(None));
    }

    #[test]
    fn a_bad_body_names_what_is_wrong() {
        for (format, body, named) in [
            (Format::Json, r#"{"weight":[5]}"#, Some("weight")),
            (Format::Json, r#"{"weight":true}"#, Some("weight")),
            (Format::Json, r#"{"wieght":5}"#, Some("wieght")),
            (Format::Form, "wieght=5", Some("wieght")),
            (Format::Form, "weight=5&weight=6", Some("weight")),
            (Format::Json, "[5]", None),
            (Format::Json, "{\"weight\":5", None),
            (Format::Form, "weight=%f", None),
            (Format::Form, "weight=%ff", None),
            (Format::None, "weight=5", None),
        ] {
            let error = only(format, body).unwrap_err();
            let name = match &error {
                BadBody::Field { name, .. } => Some(name.as_str()),
                BadBody::Malformed(_) | BadBody::MediaType => None,
            };
            assert_eq!(name, named, "{body}: {error:?}");
        }
    }
}
