//! The end of a line: what is known once the request has ended, from the status on.
//!
//! Fields that few requests have stand in cold functions behind one test (`has_rare_fields`), so that
//! the code of a usual line is short and straight. The order of the fields is fixed: it is part of the
//! schema as far as people read lines, and `a_line_is_written_to_the_byte_as_readers_know_it` holds
//! it.

use std::time::Duration;

use super::{Cursor, vocabulary::Vocabulary, written};
use crate::{
    access_log::{FieldNames, closing::End, entry::answering},
    context::{Attempt, AuthFailure, LogFields, LogValue},
    pool::Backend,
};

/// Writes the rest of a line, from the status on.
#[inline(always)]
pub(super) fn write_end<'a, V: Vocabulary>(
    end: &End<'_>,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    if let Some(status) = end.status {
        cursor = cursor.key(V::STATUS.bare)?;
        cursor = match status {
            200 => cursor.put(b"200")?,
            _ => cursor.number(status.into())?,
        };
    }
    cursor = cursor.key(V::DURATION.bare)?;
    cursor = match V::NAMES {
        FieldNames::Ecs => cursor.number(nanos(end.duration))?,
        FieldNames::Own | FieldNames::OpenTelemetry => cursor.millis(end.duration)?,
    };
    if let Some(ttfb) = end.ttfb {
        cursor = cursor.key(V::TTFB.bare)?.millis(ttfb)?;
    }
    if let Some(queued) = end.queued {
        cursor = cursor.key(V::QUEUE.bare)?.millis(queued)?;
    }
    if let Some((received, sent)) = end.bytes {
        cursor = cursor.number_field(&V::RECEIVED, received)?;
        cursor = cursor.number_field(&V::SENT, sent)?;
    }
    if let Some(attempt) = answering(end.attempts) {
        cursor = write_backend::<V>(&attempt.backend, cursor)?;
        cursor = write_phases::<V>(attempt, cursor)?;
        if end.attempts.len() > 1 {
            cursor = write_attempts::<V>(end.attempts, cursor)?;
        }
    }
    if let Some((strategy, candidates)) = end.decision {
        cursor = cursor
            .key(V::STRATEGY.text)?
            .put_slice(strategy.as_bytes())?
            .put(b"\"")?
            .number_field(&V::CANDIDATES, candidates as u64)?;
    }
    if let Some(sticky) = end.sticky {
        cursor = cursor
            .key(V::STICKY.text)?
            .put_slice(sticky.as_str().as_bytes())?
            .put(b"\"")?;
    }
    if end.has_rare_fields() {
        cursor = write_rare_fields::<V>(end, cursor)?;
    }
    write_outcome::<V>(end, cursor)
}

#[inline(always)]
fn write_outcome<'a, V: Vocabulary>(end: &End<'_>, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    // Compared as text: a sink may hand on an entry with an outcome of its own.
    let is_ok = end.outcome == "ok" && end.detail.is_none();
    let mut cursor = cursor.key(V::OUTCOME.text)?;
    if is_ok && V::NAMES != FieldNames::Ecs {
        return cursor.put(b"ok\"}\n");
    }
    cursor = match is_ok {
        true => cursor.put(b"ok\"")?,
        false => write_failure::<V>(end, cursor)?,
    };
    if V::NAMES == FieldNames::Ecs {
        cursor = cursor.put(br#","event.outcome":""#)?;
        cursor = cursor.put_slice(ecs_outcome(end).as_bytes())?.put(b"\"")?;
    }
    cursor.put(b"}\n")
}

#[cold]
#[inline(never)]
fn write_failure<'a, V: Vocabulary>(end: &End<'_>, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let mut cursor = cursor.put_slice(end.outcome.as_bytes())?.put(b"\"")?;
    if V::HAS_ERROR && end.outcome != "ok" {
        cursor = cursor.put(br#","error.type":""#)?;
        cursor = cursor.put_slice(end.outcome.as_bytes())?.put(b"\"")?;
    }
    match end.detail.filter(|detail| !detail.is_empty()) {
        Some(detail) => cursor.text_field(&V::DETAIL, detail.as_bytes()),
        None => Some(cursor),
    }
}

/// Returns the outcome as ECS has it. A client that goes away is neither a success nor a failure.
fn ecs_outcome(end: &End<'_>) -> &'static str {
    match (end.outcome, end.status) {
        ("client_abort", _) => "unknown",
        ("ok", Some(..=399) | None) => "success",
        _ => "failure",
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes the fields of a backend, which are formatted once and cached with the backend.
#[inline]
fn write_backend<'a, V: Vocabulary>(backend: &Backend, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let compute = || written(|cursor| format_backend::<V>(backend, cursor));
    // Keyed by the vocabulary: two logs with other names share the backends. `None` means that its
    // slots are taken by other layers; the text is then formatted each time.
    match backend.slots().get_or_init(V::backend_slot(), compute) {
        Some(text) => cursor.put_slice(text),
        None => format_backend::<V>(backend, cursor),
    }
}

pub(super) fn format_backend<'a, V: Vocabulary>(
    backend: &Backend,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor
        .text_field(&V::BACKEND, backend.id().as_bytes())?
        .key(V::BACKEND_ADDRESS.text)?;
    let cursor = match backend.configured_unix_socket() {
        Some(path) => cursor.text(path.as_os_str().as_encoded_bytes())?,
        None => cursor.text(backend.shown_address().to_string().as_bytes())?,
    };
    let cursor = cursor.put(b"\"")?;
    match backend.configured_locality() {
        Some(locality) => cursor.text_field(&V::LOCALITY, locality.to_string().as_bytes()),
        None => Some(cursor),
    }
}

#[inline(always)]
fn write_phases<'a, V: Vocabulary>(
    attempt: &Attempt,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let phases = attempt.phase_micros();
    if let Some(connect) = phases.connect {
        cursor = cursor.key(V::CONNECT.bare)?.micros(connect)?;
        if let Some(tls) = phases.tls {
            cursor = cursor.key(V::TLS.bare)?.micros(tls)?;
        }
    }
    if let Some(head) = phases.head {
        cursor = cursor.key(V::HEAD.bare)?.micros(head)?;
    }
    match phases.body {
        Some(body) => cursor.key(V::BODY.bare)?.micros(body),
        None => Some(cursor),
    }
}

/// Writes the list of all attempts.
#[cold]
#[inline(never)]
fn write_attempts<'a, V: Vocabulary>(
    attempts: &[Attempt],
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let mut cursor = cursor.key(V::ATTEMPTS.bare)?;
    for (i, attempt) in attempts.iter().enumerate() {
        cursor = match i {
            0 => cursor.put(br#"[{"backend":""#)?,
            _ => cursor.put(br#",{"backend":""#)?,
        };
        cursor = cursor
            .text(attempt.backend.id().as_bytes())?
            .put(br#"","outcome":""#)?
            .put_slice(attempt.outcome.map_or("running", |o| o.as_str()).as_bytes())?
            .put(b"\"")?;
        if let Some(duration) = attempt.duration {
            cursor = cursor.put(br#","duration_ms":"#)?.millis(duration)?;
        }
        if let Some(detail) = &attempt.detail {
            cursor = cursor.put(br#","detail":""#)?.text(detail.as_bytes())?;
            cursor = cursor.put(b"\"")?;
        }
        cursor = cursor.put(b"}")?;
    }
    cursor.put(b"]")
}

impl End<'_> {
    #[inline]
    fn has_rare_fields(&self) -> bool {
        self.user.is_some()
            || self.auth.is_some()
            || self.fields.is_some()
            || self.sample_rate.is_some()
            || !self.excluded.is_empty()
            || !self.truncated.is_empty()
    }
}

#[cold]
#[inline(never)]
fn write_rare_fields<'a, V: Vocabulary>(
    end: &End<'_>,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    if !end.excluded.is_empty() {
        cursor = cursor.key(V::EXCLUDED.bare)?;
        for (i, (reason, count)) in end.excluded.counts().enumerate() {
            cursor = cursor.put_slice(if i == 0 { b"{\"" } else { b",\"" })?;
            cursor = cursor.put_slice(reason.as_bytes())?.put(b"\":")?;
            cursor = cursor.number(count.into())?;
        }
        cursor = cursor.put(b"}")?;
    }
    if let Some(user) = end.user {
        cursor = cursor.text_field(&V::USER, user.as_bytes())?;
    }
    if let Some(auth) = end.auth {
        cursor = write_auth::<V>(auth, cursor)?;
    }
    if let Some(fields) = end.fields {
        cursor = write_own_fields(fields, cursor.key(V::FIELDS.bare)?)?;
    }
    if let Some(rate) = end.sample_rate {
        cursor = cursor.key(V::SAMPLE_RATE.bare)?.display(rate)?;
    }
    if !end.truncated.is_empty() {
        cursor = cursor.key(V::TRUNCATED.bare)?;
        for (i, name) in end.truncated.names().enumerate() {
            cursor = cursor.put_slice(if i == 0 { b"[\"" } else { b",\"" })?;
            cursor = cursor.put_slice(name.as_bytes())?.put(b"\"")?;
        }
        cursor = cursor.put(b"]")?;
    }
    Some(cursor)
}

fn write_auth<'a, V: Vocabulary>(auth: &AuthFailure, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let mut cursor = cursor.text_field(&V::AUTH_SCHEME, auth.scheme.as_bytes())?;
    if let Some(user) = auth.user.as_deref() {
        cursor = cursor.text_field(&V::AUTH_USER, user.as_bytes())?;
    }
    match auth.reason.as_str() {
        "" => Some(cursor),
        reason => cursor.text_field(&V::AUTH_REASON, reason.as_bytes()),
    }
}

pub(super) fn write_own_fields<'a>(
    fields: &LogFields,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    for (i, (name, value)) in fields.iter().enumerate() {
        cursor = cursor.put_slice(if i == 0 { b"{\"" } else { b",\"" })?;
        // A name has no character that needs an escape.
        cursor = cursor.put_slice(name.as_bytes())?.put(b"\":")?;
        cursor = match value {
            LogValue::Bool(value) => cursor.display(value)?,
            LogValue::Float(value) if !value.is_finite() => cursor.put(b"null")?,
            // Large and small ones as 1e300, not with 300 digits.
            LogValue::Float(value) => cursor.display(format_args!("{value:?}"))?,
            LogValue::Integer(value) => cursor.display(value)?,
            LogValue::Text(text) => cursor.put(b"\"")?.text(text.as_bytes())?.put(b"\"")?,
            LogValue::Unsigned(value) => cursor.number(*value)?,
        };
    }
    cursor.put(b"}")
}
