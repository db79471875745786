//! The head of an answer, and how its body is framed (RFC 9112 §6 and §7.1).

use http::{StatusCode, header, response::Parts};
use http_body::SizeHint;

use crate::{
    server::date,
    wire::{line, number},
};

/// What is left of the body, as it was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked,
    Length(u64),
}

/// Why a response cannot be sent as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit(pub(super) &'static str);

/// The body, as far as the head depends on it.
pub(super) struct Announced {
    pub(super) is_head: bool,
    pub(super) is_empty: bool,
    pub(super) size: SizeHint,
}

/// Writes the head; `keep` is taken back where the response says so.
pub(super) fn write(
    parts: &Parts,
    body: &Announced,
    keep: &mut bool,
    out: &mut Vec<u8>,
) -> Result<Framing, Unfit> {
    let status = parts.status;
    if status.is_informational() {
        return Err(Unfit("a status of 1xx, which is no answer"));
    }
    status_line(parts, out);
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let sends = !bodiless && !body.is_head;
    let mut declared = None;
    let mut dated = false;
    for (name, value) in &parts.headers {
        match *name {
            header::CONTENT_LENGTH => {
                let value = value.as_bytes();
                let length = length(value).ok_or(Unfit("a bad Content-Length"))?;
                if declared.is_some_and(|(other, _)| other != length) {
                    return Err(Unfit("two lengths in Content-Length"));
                }
                declared = Some((length, value));
                continue;
            }
            // How the body goes is decided here.
            header::TRANSFER_ENCODING => continue,
            header::TRAILER if !sends => continue,
            header::CONNECTION => *keep &= !closes(value.as_bytes()),
            header::DATE => dated = true,
            _ => {}
        }
        line(out, name.as_str(), value.as_bytes());
    }
    let framing = framing(body, sends, bodiless, declared, out);
    if !*keep && !parts.headers.contains_key(header::CONNECTION) {
        line(out, "connection", b"close");
    }
    if !dated {
        date::with(|now| line(out, "date", now.as_bytes()));
    }
    out.extend_from_slice(b"\r\n");
    Ok(framing)
}

fn status_line(parts: &Parts, out: &mut Vec<u8>) {
    let custom = match parts.extensions.is_empty() {
        true => None,
        false => parts.extensions.get::<hyper::ext::ReasonPhrase>(),
    };
    if parts.status == StatusCode::OK && custom.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    let reason = parts.status.canonical_reason().unwrap_or("<none>");
    out.extend_from_slice(custom.map_or(reason.as_bytes(), |reason| reason.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Announces the length where it is known, and chunks where it is not (RFC 9112 §6.3).
fn framing(
    body: &Announced,
    sends: bool,
    bodiless: bool,
    declared: Option<(u64, &[u8])>,
    out: &mut Vec<u8>,
) -> Framing {
    let known = if body.is_empty {
        Some(0)
    } else {
        body.size.exact()
    };
    let announced = match (declared.map(|(length, _)| length), known) {
        // What a GET would have had.
        (Some(length), _) if body.is_head => Some(length),
        // None came, whatever was declared.
        (_, Some(0)) if !body.is_head => (!bodiless).then_some(0),
        (Some(length), _) => Some(length),
        (None, Some(0)) => None,
        (None, known) => known.filter(|_| !bodiless),
    };
    if let Some(length) = announced {
        announce(length, declared, out);
    }
    match announced {
        _ if !sends => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None => {
            line(out, "transfer-encoding", b"chunked");
            Framing::Chunked
        }
    }
}

/// Writes the length, in the words in which it was declared where that is the one.
fn announce(length: u64, declared: Option<(u64, &[u8])>, out: &mut Vec<u8>) {
    match declared {
        Some((same, value)) if same == length => line(out, "content-length", value),
        _ => {
            out.extend_from_slice(b"content-length: ");
            number(length, 10, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Reads a length: digits and no more.
fn length(value: &[u8]) -> Option<u64> {
    let mut length = (!value.is_empty()).then_some(0_u64)?;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(digit.into())?;
    }
    Some(length)
}

fn closes(value: &[u8]) -> bool {
    let mut options = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    options.any(|option| option.eq_ignore_ascii_case(b"close"))
}
