//! What a line says of the request, read as it comes.

use std::{
    cell::RefCell,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use tokio::time::Instant;

use super::{
    entry::{RequestEntry, RequestId},
    json::{self, Buffer, hexadecimal, since_1970},
    layer::{Config, Trust},
};
use crate::context::ConnInfo;

/// The fields of a request that a line shows.
pub(super) struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    user_agent: Option<&'a HeaderValue>,
    referer: Option<&'a HeaderValue>,
    request_id: Option<&'a HeaderValue>,
    /// How many fields of that name there are.
    ids: usize,
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
            ids: 0,
            authorization: None,
        };
        for (name, value) in request.headers() {
            let place = match *name {
                header::HOST if request.uri().authority().is_none() => &mut fields.host,
                header::USER_AGENT => &mut fields.user_agent,
                header::REFERER if config.referer => &mut fields.referer,
                header::AUTHORIZATION => &mut fields.authorization,
                _ if *name == REQUEST_ID => {
                    fields.ids += 1;
                    &mut fields.request_id
                }
                _ => continue,
            };
            place.get_or_insert(value);
        }
        if fields.ids > 0 {
            fields.judge_id(config, request);
        }
        fields
    }

    /// Leaves an id that is believed, and no other.
    #[inline(never)]
    fn judge_id<B>(&mut self, config: &Config, request: &Request<B>) {
        let trusted = || match &config.trust {
            Trust::All => true,
            Trust::Nobody => false,
            Trust::Some(accepts) => sender(request).is_some_and(|sender| accepts(sender)),
        };
        let is_id = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=MAX_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        };
        let only = self.request_id.filter(|_| self.ids == 1);
        self.request_id = only.filter(is_id).filter(|_| trusted());
    }

    /// Returns what becomes of the fields with ids; `made` is the request's id where none was
    /// believed.
    pub(super) fn id_field(&self, config: &Config, made: u128) -> IdField {
        match (self.request_id, config.pass_request_id) {
            (Some(_), _) => IdField::Stays,
            (None, true) => IdField::Set(made),
            (None, false) if self.ids > 0 => IdField::Removed,
            (None, false) => IdField::Stays,
        }
    }

    /// Writes the line as far as it is known when the request comes.
    #[inline]
    pub(super) fn open<B>(
        &self,
        config: &Config,
        began: Instant,
        made: u128,
        request: &Request<B>,
        out: &mut Buffer,
    ) {
        if !self.write(config, began, made, request, out) {
            open_again(config, began, made, request, out);
        }
    }

    #[inline(always)]
    fn write<B>(
        &self,
        config: &Config,
        began: Instant,
        made: u128,
        request: &Request<B>,
        out: &mut Buffer,
    ) -> bool {
        let conn = ConnInfo::of(request.extensions());
        let cached = conn.and_then(json::conn_text);
        let tls = conn.is_some_and(|conn| conn.tls().is_some());
        let uri = original_uri(request);
        let query = query(config, uri);
        let entry = RequestEntry {
            id: match self.request_id {
                Some(id) => RequestId::Given(id.as_bytes()),
                None => RequestId::Made(made),
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
            |cursor| {
                let cursor = cursor.moment(began)?.put_slice(&config.named)?;
                let cursor = match (cached, conn) {
                    (Some(text), _) => cursor.put_slice(text)?,
                    (None, Some(conn)) => json::write_conn(conn, cursor)?,
                    (None, None) => cursor,
                };
                json::write_request(&entry, tls, cursor)
            },
        )
    }
}

/// Where there was no room for the opening.
#[cold]
#[inline(never)]
fn open_again<B>(
    config: &Config,
    began: Instant,
    made: u128,
    request: &Request<B>,
    out: &mut Buffer,
) {
    let fields = Fields::read(config, request);
    while !fields.write(config, began, made, request, out) {}
}

/// The last hop: it is trusted or not for what it sends, whatever client it speaks for.
fn sender<B>(request: &Request<B>) -> Option<IpAddr> {
    let extensions = request.extensions();
    let sender = match ConnInfo::of(extensions) {
        Some(conn) => conn.sender(),
        None => ConnInfo::peer_of(extensions),
    };
    sender.map(|sender| sender.ip())
}

/// What becomes of the request's fields with ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdField {
    Removed,
    Set(u128),
    Stays,
}

impl IdField {
    #[inline]
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::Removed => drop(headers.remove(REQUEST_ID)),
            Self::Set(id) => {
                if let Some(value) = id_value(id) {
                    headers.insert(REQUEST_ID, value);
                }
            }
            Self::Stays => {}
        }
    }
}

/// Returns an id as a field's value, in a block with others of this thread.
fn id_value(id: u128) -> Option<HeaderValue> {
    let digits = hexadecimal(id);
    // An error says that the thread is about to end.
    let shared = IDS.try_with(|ids| {
        let mut ids = ids.borrow_mut();
        if ids.capacity() < digits.len() {
            *ids = BytesMut::with_capacity(IDS_BLOCK);
        }
        ids.extend_from_slice(&digits);
        ids.split().freeze()
    });
    HeaderValue::from_maybe_shared(shared.ok()?).ok()
}

thread_local! {
    static IDS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
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
        made: u128,
        request: &Request<B>,
    ) -> Self {
        let uri = original_uri(request);
        Self {
            time: UNIX_EPOCH + since_1970(began),
            conn: ConnInfo::of(request.extensions()).cloned(),
            id: made,
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
/// Of a thread's ids: a value that is kept keeps this much.
const IDS_BLOCK: usize = 4_096;
