//! The status page: one HTML document that a server of any kind can send, with its style and its script
//! inside, and a policy that lets the browser run nothing else.

mod certificates;
mod html;
mod rows;
mod text;

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::status::Status;
use html::Escaped;

/// Returns the `Content-Security-Policy` of the page (CSP Level 3): its own style and script by their
/// digests, connections to its own origin, and nothing else.
pub(super) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            digest(STYLE),
            digest(SCRIPT)
        )
    })
}

/// Renders the page as it is before its script runs. It is complete without the script.
pub(super) fn render(status: &Status, takes_token: bool, has_metrics: bool) -> String {
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + 4_096);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(before);
        match name {
            "access" => page.push_str(access(status.writable, takes_token)),
            "certificate-heads" => certificates::heads(&mut page),
            "certificate-rows" => certificates::rows(&mut page, status),
            "certificates-hidden" if status.certificates.first.is_empty() => {
                page.push_str(" hidden")
            }
            "certificates-note" => page.push_str(&text::certificates_note(status)),
            "changes" => rows::changes(&mut page, status),
            "heads" => rows::heads(&mut page, status.writable),
            "metrics-link" if has_metrics => page.push_str("<a href=\"metrics\">metrics</a>"),
            "name" => page.push_str(&Escaped(&status.name).to_string()),
            "rows" => rows::backends(&mut page, status),
            "script" => page.push_str(SCRIPT),
            "style" => page.push_str(STYLE),
            "table-class" if status.writable => page.push_str(" writable"),
            "template" => rows::template(&mut page, status.writable),
            "tiles" => rows::tiles(&mut page, status),
            "time" => page.push_str(&status.time.time_of_day()),
            "title" => page.push_str(&Escaped(&text::title(status)).to_string()),
            "window" => page.push_str(&text::window(status.pool.rates.window_seconds)),
            _ => {}
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

fn access(writable: bool, takes_token: bool) -> &'static str {
    match (writable, takes_token) {
        (false, _) => "<p class=\"access muted\">Read-only: no token is configured</p>",
        (true, false) => "<p class=\"access muted\">Orders are accepted from authorized users</p>",
        (true, true) => TOKEN_FORM,
    }
}

/// The script keeps the token in its own memory: a reload asks for it again. The field has no name, so
/// that no form sends it.
const TOKEN_FORM: &str = "<form class=\"access scripted\" id=\"token-form\" autocomplete=\"off\">\
    <label for=\"token\">Token</label>\
    <input id=\"token\" type=\"password\" size=\"18\" autocomplete=\"off\" spellcheck=\"false\">\
    <button>Use</button><span class=\"muted\" id=\"token-state\">none: read-only</span></form>";
const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

#[cfg(test)]
mod tests;
