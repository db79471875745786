//! [`Opening`]: a request that arrives, and what is kept of it until its end.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

use super::{
    RequestEntry, RequestId,
    fields::Fields,
    json::{Buffer, since_1970},
};
use crate::context::ConnInfo;

/// A request that arrives. In [`Sink::open`](super::Sink::open) a sink says what it needs again at
/// the request's end, because the request itself has moved on to the backend by then.
pub struct Opening<'a> {
    pub(super) began: Instant,
    /// The name of the balancer, as [`json::node`] makes it.
    pub(super) node: &'a [u8],
    pub(super) conn: Option<&'a ConnInfo>,
    pub(super) request: RequestEntry<'a>,
    pub(super) fields: &'a Fields<'a>,
    pub(super) kept_json: &'a mut Buffer,
    pub(super) kept_fields: &'a mut Option<KeptFields>,
}

impl Opening<'_> {
    /// Returns the request.
    #[must_use]
    pub fn request(&self) -> &RequestEntry<'_> {
        &self.request
    }

    /// Keeps the connection and the fields of the request, so that
    /// [`Closing::entry`](super::Closing::entry) has them. Clones the method, the target and the
    /// header values: reference counts where they share a buffer, as those of a server do. The
    /// buffer, 4 KiB or more under `evenkeel::serve`, then lives until the request's end.
    pub fn keep_fields(&mut self) {
        // In a tee, another sink may have asked for them already.
        if self.kept_fields.is_some() {
            return;
        }
        *self.kept_fields = Some(KeptFields {
            time: UNIX_EPOCH + since_1970(self.began),
            conn: self.conn.cloned(),
            id: match self.request.id {
                RequestId::Made(id) => id,
                RequestId::Given(_) => 0,
            },
            method: self.request.method.clone(),
            uri: self.request.uri.clone(),
            version: self.request.version,
            host: self.fields.host.cloned(),
            user_agent: self.fields.user_agent.cloned(),
            referer: self.fields.referer.cloned(),
            request_id: self.fields.request_id.cloned(),
        });
    }

    /// Writes the first part of the line as JSON, so that the request's fields need not be kept.
    pub(super) fn write_json(&mut self) {
        // In a tee, another sink may have written it already.
        if self.kept_json.written().is_empty() {
            self.kept_json
                .add_opening(self.began, self.node, self.conn, &self.request);
        }
    }
}

impl fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What is kept of a request until its end, as the sinks asked for it.
#[derive(Default)]
pub(super) struct KeptRequest {
    /// The first part of the line; empty if no sink writes JSON.
    pub(super) json: Buffer,
    pub(super) fields: Option<KeptFields>,
    /// The query as the log may show it, if `fields` are kept.
    pub(super) query: Option<String>,
}

/// The request as it came.
pub(super) struct KeptFields {
    pub(super) time: SystemTime,
    pub(super) conn: Option<ConnInfo>,
    id: u128,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl KeptFields {
    pub(super) fn entry<'a>(&'a self, query: Option<&'a str>) -> RequestEntry<'a> {
        RequestEntry {
            id: match &self.request_id {
                Some(id) => RequestId::Given(id.as_bytes()),
                None => RequestId::Made(self.id),
            },
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            host: self.host.as_ref().map(HeaderValue::as_bytes),
            query,
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
        }
    }
}
