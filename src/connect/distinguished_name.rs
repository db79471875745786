//! The distinguished names of certificates as text.

use std::fmt::Write;

use x509_parser::{
    objects::{oid_registry, oid2abbrev},
    x509::X509Name,
};

use super::x509;

/// Writes a name as RFC 4514 says: the last part first, and special characters escaped.
pub(crate) fn text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push(',');
        }
        for (n, attribute) in part.iter().enumerate() {
            if n > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type();
            let id = oid.to_id_string();
            match oid2abbrev(oid, oid_registry()) {
                Ok(abbreviation) if SHORT.contains(&abbreviation) => text.push_str(abbreviation),
                _ => text.push_str(&id),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => {
                    let _ = write!(text, "#{}", x509::hex(attribute.as_slice()));
                }
            }
        }
    }
    text
}

/// Escapes a value (RFC 4514 §2.4). Control characters are escaped as well: the text stands in logs.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (n, c) in value.chars().enumerate() {
        let is_edge = (n == 0 && matches!(c, ' ' | '#')) || (n == last && c == ' ');
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => text.extend(['\\', c]),
            c if is_edge => text.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
}

/// The short names of RFC 4514 §3, and that of the e-mail address.
const SHORT: [&str; 10] = [
    "CN", "L", "ST", "O", "OU", "C", "STREET", "DC", "UID", "Email",
];
