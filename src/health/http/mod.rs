//! A check by a request.
//!
//! | file | content |
//! |---|---|
//! | `run` | one check: connection, request, report |
//! | `http1` | the exchange over HTTP/1.1, on the proxy's own code |
//! | `expectation` | what an answer means; pure |
//! | `failed_dependency` | the name of a dependency in a JSON answer; pure |

mod expectation;
mod failed_dependency;
mod http1;
mod run;

use std::{ops::RangeInclusive, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};

use self::expectation::{Expectation, Predicate};
pub(super) use self::http1::{Fields, Http1};
use super::{
    check::{CheckFuture, HealthCheck, Target},
    check_connection::CheckConnector,
};
use crate::{
    connect::{Connector, TargetOverride},
    error::ConfigError,
    pool::AttachmentKey,
};

/// Sends a request, and wants a response with a status that counts as healthy.
///
/// The head of the response decides, and the body is not waited for, unless it is to be judged
/// ([`body_matches`](Self::body_matches)). The body of a failure that may name a dependency is
/// waited for half of the time that is left; without it the failure is the same.
///
/// What a backend says of itself is heard, too. These fields of its answer have a meaning:
///
/// | field | meaning |
/// |---|---|
/// | `x-evenkeel-health: degraded=0.5` | it serves, and wants half of its weight; without a number a tenth |
/// | `x-evenkeel-health: drain` | no new traffic, with any status; sessions stay |
/// | `x-evenkeel-health: fail` | it does not serve, with any status |
/// | `x-envoy-degraded` | as `degraded` |
/// | `x-evenkeel-failed-dependency: postgres` | with a failure: what made it fail; of several names the first |
/// | `retry-after: 30` | with a failure: not before 30 s, when it is down; up to 60 s |
///
/// Without the field that names a dependency, the body is read as JSON, where its type is that:
/// `{"dependencies":{"postgres":{"status":"fail"}}}` (see [`endpoints`](crate::endpoints)).
///
/// HTTP/1.1, or HTTP/2 where the backend's [`Protocol`](crate::pool::Protocol) is that (features `proxy` and `http2`).
/// A redirect is not followed; it is not healthy.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, health::{HealthCheck, HttpCheck, Target}};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpListener, time::Instant};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// // A backend that wants half of its traffic.
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let backend = Backend::new("a", &format!("http://{}", listener.local_addr()?))?;
/// tokio::spawn(async move {
///     let (mut stream, _) = listener.accept().await.unwrap();
///     let _ = stream.read(&mut [0; 1024]).await;
///     let answer = "HTTP/1.1 200 OK\r\nx-evenkeel-health: degraded=0.5\r\ncontent-length: 2\r\n\r\nok";
///     stream.write_all(answer.as_bytes()).await.unwrap();
/// });
///
/// let check = HttpCheck::new().path("/ready")?.body_contains("ok");
/// let deadline = Instant::now() + Duration::from_secs(10);
/// let report = check.check(&Target::new(backend, deadline)).await;
/// assert!(report.is_pass());
/// assert_eq!(report.capacity(), 0.5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpCheck {
    method: Method,
    path: PathAndQuery,
    host: Option<HeaderValue>,
    fields: Vec<(HeaderName, HeaderValue)>,
    expect: Expectation,
    limit: usize,
    check_connector: CheckConnector,
}

impl HttpCheck {
    /// Makes the check: `GET /health`, 200 to 299 healthy.
    pub fn new() -> Self {
        Self {
            method: Method::GET,
            path: PathAndQuery::from_static(PATH),
            host: None,
            fields: Vec::new(),
            expect: Expectation {
                healthy: vec![200..=299],
                draining: Vec::new(),
                identity: Vec::new(),
                headers: Vec::new(),
                body: Vec::new(),
            },
            limit: BODY_LIMIT,
            check_connector: CheckConnector::default(),
        }
    }

    /// Sets the path, and the query if there is one; the base path of the backend's URL comes
    /// before it.
    ///
    /// Default: `/health`.
    ///
    /// # Errors
    ///
    /// When it does not begin with `/` or is not valid in a request target.
    pub fn path(mut self, path: &str) -> Result<Self, ConfigError> {
        let parsed = path.parse().ok().filter(|_| path.starts_with('/'));
        self.path = parsed.ok_or_else(|| {
            ConfigError::new(
                "health.path",
                format!("{path:?}: a path that begins with / is accepted"),
            )
        })?;
        Ok(self)
    }

    /// Sets the method. One that has side effects has them at every check.
    ///
    /// Default: GET.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Sets the Host field.
    ///
    /// Default: the authority of the backend's URL.
    ///
    /// # Errors
    ///
    /// When it is not valid in a header field.
    pub fn host(mut self, host: &str) -> Result<Self, ConfigError> {
        self.host = Some(authority(host)?);
        Ok(self)
    }

    /// Adds a header field to the request.
    ///
    /// # Errors
    ///
    /// When it would change the framing, the connection or the host of the request.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Result<Self, ConfigError> {
        const OURS: [HeaderName; 6] = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::EXPECT,
            header::HOST,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ];
        if OURS.contains(&name) {
            return Err(ConfigError::new(
                "health.header",
                format!("{name}: the check sets this field itself"),
            ));
        }
        self.fields.push((name, value));
        Ok(self)
    }

    /// Sets which statuses are healthy, in place of those before.
    ///
    /// Default: 200 to 299.
    ///
    /// # Errors
    ///
    /// When there is no range, or one is empty or not within 200 to 599.
    pub fn healthy(
        mut self,
        statuses: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<Self, ConfigError> {
        self.expect.healthy = statuses.into_iter().collect();
        ranges("health.healthy", &self.expect.healthy, false)?;
        Ok(self)
    }

    /// Sets which statuses ask for no new traffic, and let sessions stay: what HAProxy calls
    /// `disable-on-404`. They count as passes.
    ///
    /// Default: none; the header field `x-evenkeel-health: drain` says the same with any status.
    ///
    /// # Errors
    ///
    /// When a range is empty or not within 200 to 599.
    pub fn draining(
        mut self,
        statuses: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<Self, ConfigError> {
        self.expect.draining = statuses.into_iter().collect();
        ranges("health.draining", &self.expect.draining, true)?;
        Ok(self)
    }

    /// Wants this field in the answer, with this value: an address that another service has by
    /// now is noticed, whatever status it answers with. The report says `L7RSP`.
    ///
    /// Default: no field is wanted.
    pub fn identity(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.expect.identity.push((name, Some(value)));
        self
    }

    /// Wants this field in the answer, with the backend's id for its value; see
    /// [`identity`](Self::identity).
    pub fn identity_by_id(mut self, name: HeaderName) -> Self {
        self.expect.identity.push((name, None));
        self
    }

    /// Wants the header of a healthy answer to be so. May be called more than once; all must
    /// hold.
    pub fn headers_match(
        mut self,
        holds: impl Fn(&HeaderMap) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.expect.headers.push(Predicate::new(holds));
        self
    }

    /// Wants the body of a healthy answer to be so. It sees no more than
    /// [`body_limit`](Self::body_limit). May be called more than once; all must hold.
    pub fn body_matches(mut self, holds: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.expect.body.push(Predicate::new(holds));
        self
    }

    /// Wants these bytes somewhere in the body, within [`body_limit`](Self::body_limit).
    pub fn body_contains(self, wanted: impl Into<Vec<u8>>) -> Self {
        let wanted = wanted.into();
        self.body_matches(move |body| contains(body, &wanted))
    }

    /// Sets how much of a body is read. What is longer is cut, and costs a pooled connection.
    ///
    /// Default: 64 KiB.
    ///
    /// # Errors
    ///
    /// When it is 0 or over 16 MiB.
    pub fn body_limit(mut self, bytes: usize) -> Result<Self, ConfigError> {
        if !(1..=MOST_BODY).contains(&bytes) {
            return Err(ConfigError::new(
                "health.body_limit",
                format!("{bytes}: 1 to {MOST_BODY} bytes are accepted"),
            ));
        }
        self.limit = bytes;
        Ok(self)
    }

    /// Sets the connector. That of the proxy gives checks the TLS settings and the connect time-out of
    /// live traffic.
    ///
    /// Default: [`Connector::new`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.check_connector.connector = connector;
        self
    }

    /// Sends the checks to another port, address, scheme or certificate name than the backend's own.
    ///
    /// Default: where the backend is.
    pub fn target_override(mut self, target_override: TargetOverride) -> Self {
        self.check_connector.target_override = target_override;
        self
    }

    /// Keeps one connection to each backend from check to check, which saves a handshake and
    /// does not show whether new connections are taken. After a failure the next one is new.
    ///
    /// Default: each check has a connection of its own.
    pub fn pooled(mut self) -> Self {
        self.check_connector.pooled = Some(Arc::new(AttachmentKey::new()));
        self
    }
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthCheck for HttpCheck {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(self.run(target))
    }
}

pub(super) fn authority(host: &str) -> Result<HeaderValue, ConfigError> {
    let parsed = host.parse::<http::uri::Authority>().ok();
    let value = parsed.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    value.ok_or_else(|| {
        ConfigError::new("health.host", format!("{host:?}: host[:port] is accepted"))
    })
}

fn ranges(
    field: &'static str,
    ranges: &[RangeInclusive<u16>],
    may_be_empty: bool,
) -> Result<(), ConfigError> {
    let fits = |r: &RangeInclusive<u16>| !r.is_empty() && *r.start() >= 200 && *r.end() <= 599;
    if (ranges.is_empty() && !may_be_empty) || !ranges.iter().all(fits) {
        return Err(ConfigError::new(
            field,
            format!("{ranges:?}: ranges within 200 to 599 are accepted"),
        ));
    }
    Ok(())
}

/// Whether the bytes are there; an empty text is in every body.
pub(super) fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}

fn can_http2() -> bool {
    cfg!(all(feature = "proxy", feature = "http2"))
}

/// What frameworks and orchestrators call it most.
pub(super) const PATH: &str = "/health";
const USER_AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));
/// More than any status page that a check should ask for.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// A check that reads more is no check.
const MOST_BODY: usize = 16 * 1024 * 1024;
