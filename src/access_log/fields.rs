//! The header fields of a request that a line shows, found in one pass.
//!
//! One pass over the header map in place of a look-up for each name, which would hash each name.
//!
//! The rules for the id, of which `tests/it/access_log/request_ids.rs` has each:
//!
//! | the client's field | trusted | `pass_request_id` | the line has | the backend gets |
//! |---|---|---|---|---|
//! | one, well formed | yes | any | it | it, unchanged |
//! | one | no | on | a made id | the made id in its place |
//! | one | no | off | a made id | no field |
//! | several | any | as for an untrusted one | a made id | as above |
//! | none | | on | a made id | the made id |
//! | none | | off | a made id | no field |
//!
//! The log and the backend never show different ids of one request: that is the invariant behind the
//! removals.

use http::{HeaderValue, Request, Uri, header};

use super::{
    FieldLimits, RequestEntry, RequestId, Truncated,
    field_limits::CLIENT_SUBJECT,
    layer::Config,
    request_id::{IdField, header_value},
    truncated::Field,
};
use crate::context::{ClientIdentity, ConnInfo};

/// The header fields of a request that a line shows. Of several with one name, the first counts.
pub(super) struct Fields<'a> {
    pub(super) host: Option<&'a HeaderValue>,
    pub(super) user_agent: Option<&'a HeaderValue>,
    pub(super) referer: Option<&'a HeaderValue>,
    /// The id that a trusted sender gave.
    pub(super) request_id: Option<&'a HeaderValue>,
    /// How many fields with an id there are, trusted or not.
    request_ids: usize,
    /// A line shows only its scheme.
    pub(super) authorization: Option<&'a HeaderValue>,
}

impl<'a> Fields<'a> {
    #[inline(always)]
    pub(super) fn find<B>(config: &Config, request: &'a Request<B>) -> Self {
        let mut fields = Self {
            host: None,
            user_agent: None,
            referer: None,
            request_id: None,
            request_ids: 0,
            authorization: None,
        };
        for (name, value) in request.headers() {
            let field = match *name {
                // The authority of the target takes precedence over `Host` (RFC 9112 §3.2.2), and
                // HTTP/2 has it there.
                header::HOST if request.uri().authority().is_none() => &mut fields.host,
                header::USER_AGENT => &mut fields.user_agent,
                // A field that no line shows is not kept: a sink that clones values would keep it
                // alive.
                header::REFERER if config.referer => &mut fields.referer,
                header::AUTHORIZATION => &mut fields.authorization,
                _ if *name == config.request_id_field => {
                    // All are counted: of two, neither is believed, as a proxy in front may have
                    // checked one.
                    fields.request_ids += 1;
                    &mut fields.request_id
                }
                _ => continue,
            };
            field.get_or_insert(value);
        }
        if fields.request_ids > 0 {
            fields.check_request_id(config, request);
        }
        fields
    }

    /// Drops an id that is not trusted, and one of several.
    #[inline(never)]
    fn check_request_id<B>(&mut self, config: &Config, request: &Request<B>) {
        let only = self.request_id.filter(|_| self.request_ids == 1);
        self.request_id = only.filter(|value| config.trust.accepts(value, request));
    }

    /// Returns the id that a trusted sender gave, or else `made`.
    pub(super) fn id(&self, made: u128) -> RequestId<'a> {
        match self.request_id {
            Some(id) => RequestId::Given(id.as_bytes()),
            None => RequestId::Made(made),
        }
    }

    /// Returns the value that the client gets back; `None` if it gets none.
    pub(super) fn returned_id(&self, config: &Config, made: u128) -> Option<HeaderValue> {
        match self.request_id {
            _ if !config.return_request_id => None,
            Some(id) => Some(id.clone()),
            None => header_value(made),
        }
    }

    /// Returns what the backend sees of ids; `made` is the request's id where no trusted sender
    /// gave one.
    pub(super) fn id_field(&self, config: &Config, made: u128) -> IdField {
        match (self.request_id, config.pass_request_id) {
            (Some(_), _) => IdField::Keep,
            (None, true) => IdField::Set(made),
            (None, false) if self.request_ids > 0 => IdField::Remove,
            (None, false) => IdField::Keep,
        }
    }
}

/// Returns the query as the log may show it, cut at its limit; `None` if queries are not logged.
///
/// `redact` is code of the application: it runs here, once a request, and its string is kept if a sink
/// needs it again at the end.
pub(super) fn redacted_query(
    config: &Config,
    uri: &Uri,
    truncated: &mut Truncated,
) -> Option<String> {
    let redact = config.query.as_ref()?;
    let mut query = redact(uri.query()?);
    if query.len() > config.limits.query {
        truncated.add(Field::Query);
        query.truncate(whole_characters(query.as_bytes(), config.limits.query));
    }
    Some(query)
}

/// Cuts the fields of a request that are longer than their limits.
///
/// Four comparisons for a request within its limits, and no call.
#[inline]
pub(super) fn cut_request(
    limits: &FieldLimits,
    request: &mut RequestEntry<'_>,
    truncated: &mut Truncated,
) {
    let is_over = |value: Option<&[u8]>, limit| value.is_some_and(|value| value.len() > limit);
    if request.path.len() > limits.path
        || is_over(request.host, limits.host)
        || is_over(request.user_agent, limits.user_agent)
        || is_over(request.referer, limits.referer)
    {
        cut_each(limits, request, truncated);
    }
}

/// Notes that the subject of the client's certificate is longer than a line shows.
#[inline]
pub(super) fn check_client(conn: Option<&ConnInfo>, truncated: &mut Truncated) {
    let tls = conn.and_then(ConnInfo::tls);
    let client = tls.and_then(|tls| tls.client.as_deref());
    if client.is_some_and(|client| client.subject.len() > CLIENT_SUBJECT) {
        truncated.add(Field::ClientSubject);
    }
}

/// Returns the subject of a client's certificate as a line shows it.
pub(super) fn client_subject(client: &ClientIdentity) -> &str {
    cut_text(&client.subject, CLIENT_SUBJECT)
}

#[cold]
#[inline(never)]
fn cut_each(limits: &FieldLimits, request: &mut RequestEntry<'_>, truncated: &mut Truncated) {
    if request.path.len() > limits.path {
        request.path = cut_text(request.path, limits.path);
        truncated.add(Field::Path);
    }
    for (value, limit, field) in [
        (&mut request.host, limits.host, Field::Host),
        (&mut request.user_agent, limits.user_agent, Field::UserAgent),
        (&mut request.referer, limits.referer, Field::Referer),
    ] {
        if let Some(whole) = value.filter(|value| value.len() > limit) {
            *value = Some(cut_value(whole, limit));
            truncated.add(field);
        }
    }
}

/// Returns at most the first `limit` bytes of a text.
pub(super) fn cut_text(text: &str, limit: usize) -> &str {
    match text.len() > limit {
        true => &text[..whole_characters(text.as_bytes(), limit)],
        false => text,
    }
}

/// Returns at most the first `limit` bytes of a value, which may be UTF-8.
pub(super) fn cut_value(value: &[u8], limit: usize) -> &[u8] {
    match value.len() > limit {
        true => &value[..whole_characters(value, limit)],
        false => value,
    }
}

/// Returns the largest index up to `limit` at which no character of UTF-8 is cut in two. `value` is
/// longer than `limit`.
#[cold]
fn whole_characters(value: &[u8], limit: usize) -> usize {
    let is_inside = |&at: &usize| value[at] & 0b1100_0000 == 0b1000_0000;
    // A character has at most three bytes after its first; more of them are no UTF-8.
    let before = limit.saturating_sub(3);
    let begins = (before..=limit).rev().find(|at| !is_inside(at));
    begins.unwrap_or(limit)
}

/// Returns the target that the client sent: axum's `nest` puts it into the extensions before it
/// shortens the target.
pub(super) fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_at_a_whole_character() {
        for text in ["abcdefgh", "aéaéaéaé", "€€€€", "𝄞𝄞𝄞"] {
            for limit in 0..=text.len() {
                let cut = cut_text(text, limit);
                assert_eq!(cut_value(text.as_bytes(), limit), cut.as_bytes());
                assert!(cut.len() <= limit && limit - cut.len() < 4, "{cut} {limit}");
            }
        }
        let invalid = [0x80_u8; 9];
        assert_eq!(
            cut_value(&invalid, 5).len(),
            5,
            "what is no UTF-8 is cut anywhere"
        );
    }
}
