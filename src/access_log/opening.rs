//! [`Opening`]: a request that arrives, and what is kept of it until its end.
//!
//! The request moves on into the inner service and is gone when the line ends. Each sink therefore
//! chooses in `open` what is kept, and `close` finds it in the closing:
//!
//! | the sink keeps | cost at the arrival | alive until the end |
//! |---|---|---|
//! | JSON ([`Opening::write_json`]) | the text, into a recycled buffer | the text |
//! | fields ([`Opening::keep_fields`]) | clones of references | the buffer of the request's head |
//! | extensions of the response | a clone, at the head | what they hold |
//! | nothing | none | nothing |
//!
//! A tee calls each sink in turn, so that several may be kept, each once.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

use super::{
    FieldLimits, FieldNames, RequestEntry, RequestId, Truncated,
    fields::{Fields, cut_text, cut_value},
    json::{Buffer, since_1970},
};
use crate::context::{ConnInfo, TraceContext};

/// A request that arrives. In [`Sink::open`](super::Sink::open) a sink says what it needs again at
/// the request's end, because the request itself has moved on to the backend by then.
///
/// # Example
///
/// A sink that counts requests by tenant, which the service names in an extension of its response:
///
/// ```
/// use std::{convert::Infallible, sync::{Arc, Mutex}};
///
/// use evenkeel::access_log::{AccessLogLayer, Entry, Opening, Sink};
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty, Full};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Tenant(&'static str);
///
/// #[derive(Default)]
/// struct Tenants(Mutex<Vec<&'static str>>);
///
/// impl Sink for Tenants {
///     fn open(&self, opening: &mut Opening<'_>) {
///         // Nothing of the request is kept, so that it costs nothing.
///         opening.keep_response_extensions();
///     }
///
///     fn record(&self, entry: &Entry<'_>) {
///         let tenant = entry.extensions.and_then(|all| all.get::<Tenant>());
///         self.0.lock().unwrap().extend(tenant.map(|tenant| tenant.0));
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let tenants = Arc::new(Tenants::default());
/// let service = AccessLogLayer::new(tenants.clone()).layer(service_fn(|_: Request<_>| async {
///     let mut response = Response::new(Full::new("hello".as_bytes()));
///     response.extensions_mut().insert(Tenant("acme"));
///     Ok::<_, Infallible>(response)
/// }));
/// let response = service.oneshot(Request::new(Empty::<&[u8]>::new())).await?;
/// response.into_body().collect().await?;
/// assert_eq!(*tenants.0.lock().unwrap(), ["acme"]);
/// # Ok(())
/// # }
/// ```
pub struct Opening<'a> {
    pub(super) facts: &'a OpeningFacts<'a>,
    pub(super) limits: &'a FieldLimits,
    pub(super) fields: &'a Fields<'a>,
    pub(super) kept_json: &'a mut Buffer,
    pub(super) kept_fields: &'a mut Option<KeptFields>,
    pub(super) keeps_extensions: &'a mut bool,
}

/// The part of a line that is known when the request arrives.
pub(super) struct OpeningFacts<'a> {
    pub(super) began: Instant,
    /// What follows the time, as `json::header` makes it.
    pub(super) node: &'a [u8],
    pub(super) conn: Option<&'a ConnInfo>,
    pub(super) trace: Option<TraceContext>,
    pub(super) request: RequestEntry<'a>,
    /// The line shows the fingerprint of the client's certificate.
    pub(super) client_fingerprint: bool,
    pub(super) names: FieldNames,
}

impl Opening<'_> {
    /// Returns the request.
    #[must_use]
    pub fn request(&self) -> &RequestEntry<'_> {
        &self.facts.request
    }

    /// Returns the trace and the span, if a layer above the log inserted them.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.facts.trace
    }

    /// Keeps the extensions of the response as they pass the log, so that
    /// [`Closing::entry`](super::Closing::entry) has them. Clones them at the response's head, which
    /// costs an allocation for the table and what each value's clone costs; a response without
    /// extensions costs nothing.
    pub fn keep_response_extensions(&mut self) {
        *self.keeps_extensions = true;
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
        let OpeningFacts {
            conn,
            trace,
            request,
            client_fingerprint,
            ..
        } = self.facts;
        *self.kept_fields = Some(KeptFields {
            time: UNIX_EPOCH + since_1970(self.facts.began),
            conn: conn.cloned(),
            trace: *trace,
            client_fingerprint: *client_fingerprint,
            // Values are kept whole and cut at the end: a cut copy would cost an allocation, and the
            // whole one none.
            limits: *self.limits,
            id: match request.id {
                RequestId::Made(id) => id,
                RequestId::Given(_) => 0,
            },
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
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
            self.kept_json.add_opening(self.facts);
        }
    }
}

impl fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("request", &self.facts.request)
            .finish_non_exhaustive()
    }
}

/// What is kept of a request until its end, as the sinks asked for it.
///
/// The memory is recycled with the line: `json` keeps its buffer, all else is dropped at the end.
#[derive(Default)]
pub(super) struct KeptRequest {
    /// The first part of the line; empty if no sink writes JSON.
    pub(super) json: Buffer,
    pub(super) fields: Option<KeptFields>,
    /// The query as the log may show it, if `fields` are kept.
    pub(super) query: Option<String>,
    /// The extensions of the response are to be kept.
    pub(super) keeps_extensions: bool,
    pub(super) truncated: Truncated,
}

/// The request as it came.
pub(super) struct KeptFields {
    pub(super) time: SystemTime,
    pub(super) conn: Option<ConnInfo>,
    pub(super) trace: Option<TraceContext>,
    pub(super) client_fingerprint: bool,
    limits: FieldLimits,
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
        let limits = &self.limits;
        let cut = |value: &'a Option<HeaderValue>, limit| {
            value
                .as_ref()
                .map(|value| cut_value(value.as_bytes(), limit))
        };
        let authority = self.uri.authority().map(|a| a.as_str().as_bytes());
        RequestEntry {
            id: match &self.request_id {
                Some(id) => RequestId::Given(id.as_bytes()),
                None => RequestId::Made(self.id),
            },
            method: &self.method,
            uri: &self.uri,
            path: cut_text(self.uri.path(), limits.path),
            version: self.version,
            host: match authority {
                Some(authority) => Some(cut_value(authority, limits.host)),
                None => cut(&self.host, limits.host),
            },
            query,
            user_agent: cut(&self.user_agent, limits.user_agent),
            referer: cut(&self.referer, limits.referer),
        }
    }
}
