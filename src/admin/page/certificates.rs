//! The table of certificates. `script.js` makes the same rows of an update.

use std::fmt::Write;

use super::{
    super::{certificates::CertificateStatus, status::Status},
    html::Escaped,
    text,
};

/// The name of each cell, and the title of its column.
const COLUMNS: [(&str, &str); 6] = [
    ("name", "Certificate"),
    ("state", "State"),
    ("until", "Valid until (UTC)"),
    ("listener", "Listener"),
    ("key", "Key"),
    ("issuer", "Issuer"),
];

pub(super) fn heads(page: &mut String) {
    for (_, title) in COLUMNS {
        put(
            page,
            format_args!("<th role=\"columnheader\" scope=\"col\">{title}</th>"),
        );
    }
}

/// Writes the rows; none hides the section.
pub(super) fn rows(page: &mut String, status: &Status) {
    for certificate in &status.certificates.first {
        row(page, certificate);
    }
}

fn row(page: &mut String, certificate: &CertificateStatus) {
    put(
        page,
        format_args!("<tr role=\"row\" class=\"{}\">", certificate.expiry),
    );
    for (name, title) in COLUMNS {
        let (tag, role, scope) = match name {
            "name" => ("th", "rowheader", " scope=\"row\""),
            _ => ("td", "cell", ""),
        };
        put(
            page,
            format_args!("<{tag} role=\"{role}\"{scope} data-label=\"{title}\">"),
        );
        for (class, text) in cell(certificate, name) {
            put(
                page,
                format_args!(
                    "<span class=\"{class}\" data-c=\"{name}\">{}</span>",
                    Escaped(&text)
                ),
            );
        }
        put(page, format_args!("</{tag}>"));
    }
    page.push_str("</tr>");
}

/// Returns the lines of a cell, each with its class.
fn cell(certificate: &CertificateStatus, name: &str) -> Vec<(&'static str, String)> {
    match name {
        "name" => vec![
            ("id", certificate.name.clone()),
            ("sub", text::other_names(certificate)),
            ("sub", text::source(certificate)),
        ],
        "state" => vec![
            ("badge", text::expiry(certificate.expiry).into()),
            ("sub", text::left(certificate)),
        ],
        "until" => vec![("", text::until(certificate))],
        "listener" => vec![("", certificate.listener.clone())],
        "key" => vec![("", certificate.key.into())],
        _ => vec![
            ("", certificate.issuer.clone()),
            ("sub", text::serial(certificate)),
        ],
    }
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = page.write_fmt(text);
}
