//! What a line says of the request, read as it comes.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use tokio::time::Instant;

use super::{
    entry::{RequestEntry, RequestId},
    format,
    layer::Config,
    pen::Buffer,
    time::since_1970,
};
use crate::context::ConnInfo;

/// The fields of a request that a line shows.
pub(super) struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    user_agent: Option<&'a HeaderValue>,
    referer: Option<&'a HeaderValue>,
    request_id: Option<&'a HeaderValue>,
    /// Only its scheme is ever shown.
    pub(super) authorization: Option<&'a HeaderValue>,
}

impl<'a> Fields<'a> {
    /// Finds them in one pass; the first of a name counts.
    #[inline(always)]
    pub(super) fn read<B>(config: &Config, request: &'a Request<B>) -> Self {
        let mut fields = Self {
            host: None,
            user_agent: None,
            referer: None,
            request_id: None,
            authorization: None,
        };
        for (name, value) in request.headers() {
            let place = match *name {
                header::HOST if request.uri().authority().is_none() => &mut fields.host,
                header::USER_AGENT => &mut fields.user_agent,
                header::REFERER if config.referer => &mut fields.referer,
                header::AUTHORIZATION => &mut fields.authorization,
                _ if config.trust_request_id && *name == REQUEST_ID && value.len() <= MAX_ID => {
                    &mut fields.request_id
                }
                _ => continue,
            };
            place.get_or_insert(value);
        }
        fields
    }

    /// Writes the line as far as it is known when the request comes.
    #[inline]
    pub(super) fn open<B>(
        &self,
        config: &Config,
        began: Instant,
        request: &Request<B>,
        out: &mut Buffer,
    ) {
        if !self.write(config, began, request, out) {
            open_again(config, began, request, out);
        }
    }

    #[inline(always)]
    fn write<B>(
        &self,
        config: &Config,
        began: Instant,
        request: &Request<B>,
        out: &mut Buffer,
    ) -> bool {
        let conn = ConnInfo::of(request.extensions());
        let told = conn.and_then(|conn| conn.told(|| format::conn(conn)));
        let tls = conn.is_some_and(|conn| conn.tls().is_some());
        let uri = original_uri(request);
        let query = query(config, uri);
        let entry = RequestEntry {
            id: match self.request_id {
                Some(id) => RequestId::Given(id.as_bytes()),
                None => RequestId::Made(fastrand::u128(..)),
            },
            method: request.method(),
            uri,
            version: request.version(),
            host: self.host.map(HeaderValue::as_bytes),
            query: query.as_deref(),
            user_agent: self.user_agent.map(HeaderValue::as_bytes),
            referer: self.referer.map(HeaderValue::as_bytes),
        };
        out.add(
            #[inline(always)]
            |pen| {
                let pen = pen.moment(began)?.word(&config.named)?;
                let pen = match (told, conn) {
                    (Some(told), _) => pen.word(told)?,
                    (None, Some(conn)) => format::write_conn(conn, pen)?,
                    (None, None) => pen,
                };
                format::write_request(&entry, tls, pen)
            },
        )
    }
}

/// Where there was no room for the opening.
#[cold]
#[inline(never)]
fn open_again<B>(config: &Config, began: Instant, request: &Request<B>, out: &mut Buffer) {
    let fields = Fields::read(config, request);
    while !fields.write(config, began, request, out) {}
}

/// The request as it came, for a sink that wants more than a line of JSON.
pub(super) struct Original {
    pub(super) time: SystemTime,
    pub(super) conn: Option<ConnInfo>,
    id: u128,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    query: Option<String>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl Original {
    pub(super) fn new<B>(
        config: &Config,
        fields: &Fields<'_>,
        began: Instant,
        request: &Request<B>,
    ) -> Self {
        let uri = original_uri(request);
        Self {
            time: UNIX_EPOCH + since_1970(began),
            conn: ConnInfo::of(request.extensions()).cloned(),
            id: fastrand::u128(..),
            method: request.method().clone(),
            uri: uri.clone(),
            version: request.version(),
            host: fields.host.cloned(),
            query: query(config, uri),
            user_agent: fields.user_agent.cloned(),
            referer: fields.referer.cloned(),
            request_id: fields.request_id.cloned(),
        }
    }

    pub(super) fn entry(&self) -> RequestEntry<'_> {
        RequestEntry {
            id: match &self.request_id {
                Some(id) => RequestId::Given(id.as_bytes()),
                None => RequestId::Made(self.id),
            },
            method: &self.method,
            uri: &self.uri,
            version: self.version,
            host: self.host.as_ref().map(HeaderValue::as_bytes),
            query: self.query.as_deref(),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
        }
    }
}

fn query(config: &Config, uri: &Uri) -> Option<String> {
    let redact = config.query.as_ref()?;
    uri.query().map(|query| redact(query))
}

/// The target as the client sent it: axum's `nest` keeps it aside.
fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ones are not ids.
const MAX_ID: usize = 128;
