//! A whole line, of an entry.
//!
//! It writes what `Sink::record` gets: connections without a request, and lines of a sink that opened
//! nothing. The functions are those of the two halves, so that a whole line and one in two parts are
//! equal to the byte (`two_json_sinks_write_the_same_line`).

use std::time::UNIX_EPOCH;

use super::{
    Cursor,
    end::write_end,
    opening::{
        write_addresses, write_failure, write_header, write_refused, write_request, write_tls,
    },
    vocabulary::Vocabulary,
};
use crate::access_log::{Entry, closing::End};

/// Writes `entry` as one line.
pub(super) fn write_entry<'a, V: Vocabulary>(
    entry: &Entry<'_>,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let cursor = cursor.key(V::START)?.time(since)?;
    let cursor = write_header::<V>(entry.node, cursor)?;
    let mut cursor = write_addresses::<V>(entry.listener, entry.client, entry.peer, cursor)?;
    if let Some(tls) = entry.tls {
        cursor = write_tls::<V>(tls, entry.client_fingerprint, cursor)?;
    }
    if let Some(failure) = entry.tls_failure {
        let server_name = entry.server_name.filter(|_| entry.tls.is_none());
        cursor = write_failure::<V>(failure, server_name, cursor)?;
    }
    if let Some(request) = &entry.request {
        cursor = write_request::<V>(request, entry.trace, entry.tls.is_some(), cursor)?;
    }
    if let Some(refused) = &entry.refused {
        cursor = write_refused::<V>(refused, cursor)?;
    }
    write_end::<V>(&end_of(entry), cursor)
}

fn end_of<'a>(entry: &Entry<'a>) -> End<'a> {
    End {
        status: entry.status,
        duration: entry.duration,
        ttfb: entry.ttfb,
        queued: entry.queued,
        bytes: entry.request.map(|_| (entry.received, entry.sent)),
        attempts: entry.attempts,
        decision: entry.decision,
        excluded: entry.excluded,
        sticky: entry.sticky,
        user: entry.user,
        auth: entry.auth,
        sample_rate: entry.sample_rate,
        outcome: entry.outcome,
        detail: entry.detail,
        fields: entry.fields,
        truncated: entry.truncated,
        names: entry.names,
    }
}
