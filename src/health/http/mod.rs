//! A check by a request.

mod expectation;
mod failed_dependency;
mod http1;

use std::{ops::RangeInclusive, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};
use tokio::time::timeout_at;

pub(super) use self::http1::{Fields, Http1};
use self::{
    expectation::{Answer, Expectation, Predicate},
    http1::{CheckRequest, Failed},
};
use super::{
    CheckReport,
    check::{CheckFuture, HealthCheck, Target},
    check_connection::{CheckConnector, Connection},
};
use crate::{
    connect::{Connected, Connector, TargetOverride},
    error::ConfigError,
    pool::{AttachmentKey, Backend, Protocol},
    wire::{framing::anticipates_content, write_field},
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
/// HTTP/1.1, or HTTP/2 where the backend's [`Protocol`] is that (features `proxy` and `http2`).
/// A redirect is not followed; it is not healthy.
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

    /// Asks at another port, address, scheme or certificate name than the backend's own.
    ///
    /// Default: where the backend is.
    pub fn elsewhere(mut self, elsewhere: TargetOverride) -> Self {
        self.check_connector.elsewhere = elsewhere;
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

    async fn run(&self, target: &Target) -> CheckReport {
        let backend = match (can_http2(), target.backend().configured_protocol()) {
            (false, _) | (_, Protocol::Auto) => target.backend().clone().protocol(Protocol::Http1),
            _ => target.backend().clone(),
        };
        if let Some(connection) = self.check_connector.idle(&backend) {
            match self.ask(target, connection, &backend).await {
                // It was closed while it was idle: that says nothing.
                Err(Failed::Unanswered(_)) => {}
                asked => return self.conclude(asked, &backend),
            }
        }
        let connected = match self.check_connector.connect(target, &backend).await {
            Ok(connected) => connected,
            Err(report) => return report,
        };
        let connection = match self.open(target, connected).await {
            Ok(connection) => connection,
            Err(why) => return why.for_request(&self.described(&backend)),
        };
        let asked = self.ask(target, connection, &backend).await;
        self.conclude(asked, &backend)
    }

    #[cfg(all(feature = "proxy", feature = "http2"))]
    async fn open(&self, target: &Target, connected: Connected) -> Result<Connection, CheckReport> {
        if !connected.is_http2() {
            return Ok(Connection::http1(connected));
        }
        let open = super::http2::Connection::open(connected.into_stream());
        match timeout_at(target.deadline(), open).await {
            Ok(Ok(connection)) => Ok(Connection::Http2(connection)),
            Ok(Err(why)) => Err(CheckReport::fail("L7RSP", why)),
            Err(_) => Err(CheckReport::fail("L7TOUT", "no HTTP/2 in time")),
        }
    }

    #[cfg(not(all(feature = "proxy", feature = "http2")))]
    #[expect(clippy::unused_async, reason = "with HTTP/2 there is a handshake")]
    async fn open(&self, _: &Target, connected: Connected) -> Result<Connection, CheckReport> {
        Ok(Connection::http1(connected))
    }

    fn conclude(&self, asked: Result<Exchanged, Failed>, backend: &Backend) -> CheckReport {
        let report = match asked {
            Ok((answer, connection)) => {
                let report = self.expect.judge(&answer, backend);
                if let Some(connection) = connection.filter(|_| report.is_pass()) {
                    self.check_connector.keep(backend, connection);
                }
                report
            }
            Err(Failed::Local(why)) => CheckReport::local("SOCKERR", why),
            Err(Failed::TimedOut) => CheckReport::fail("L7TOUT", "no whole response in time"),
            Err(Failed::Broken(why) | Failed::Unanswered(why)) => CheckReport::fail("L7RSP", why),
        };
        report.for_request(&self.described(backend))
    }

    /// What a reader of the log may see of the request: a query may hold a secret.
    fn described(&self, backend: &Backend) -> String {
        format!(
            "{} {}{}",
            self.method,
            backend.base_path(),
            self.path.path()
        )
    }

    /// Asks once; returns the connection, too, where it can carry more.
    async fn ask(
        &self,
        target: &Target,
        connection: Connection,
        backend: &Backend,
    ) -> Result<Exchanged, Failed> {
        let asking = async {
            match connection {
                Connection::Http1(conn) => {
                    let question = CheckRequest {
                        head: self.head(backend),
                        is_head: self.method == Method::HEAD,
                        limit: self.limit,
                        expect: &self.expect,
                        deadline: target.deadline(),
                    };
                    let (answer, left) = http1::exchange(conn, question).await?;
                    Ok((answer, left.map(Connection::Http1)))
                }
                #[cfg(all(feature = "proxy", feature = "http2"))]
                Connection::Http2(connection) => self.ask_http2(target, connection, backend).await,
            }
        };
        match timeout_at(target.deadline(), asking).await {
            Ok(asked) => asked,
            Err(_) => Err(Failed::TimedOut),
        }
    }

    #[cfg(all(feature = "proxy", feature = "http2"))]
    async fn ask_http2(
        &self,
        target: &Target,
        mut connection: super::http2::Connection,
        backend: &Backend,
    ) -> Result<Exchanged, Failed> {
        use std::mem;

        use self::expectation::UseOfBody;

        let uri = format!(
            "{}://{}{}{}",
            self.check_connector.elsewhere.scheme_of(backend).as_str(),
            self.host_of(backend).to_str().unwrap_or_default(),
            backend.base_path(),
            self.path
        );
        let mut request = http::Request::new(bytes::Bytes::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri
            .parse()
            .map_err(|e: http::uri::InvalidUri| Failed::Broken(e.to_string()))?;
        let fields = request.headers_mut();
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        fields.extend(self.fields.iter().cloned());
        let failed = |failed| match failed {
            super::http2::Failed::Broken(why) => Failed::Broken(why),
            super::http2::Failed::Unanswered(why) => Failed::Unanswered(why),
        };
        let mut answered = connection.ask(request).await.map_err(failed)?;
        let (status, headers) = (answered.status, mem::take(&mut answered.headers));
        let use_of_body = self.expect.use_of_body(status, &headers);
        let reading = async {
            let read = answered.read(self.limit).await.map_err(failed);
            read.map(|(body, _)| body)
        };
        let body = match use_of_body {
            UseOfBody::Decides => reading.await?,
            UseOfBody::Explains => http1::explanation(target.deadline(), reading).await,
            UseOfBody::None => bytes::Bytes::new(),
        };
        let answer = Answer {
            status,
            headers,
            body,
        };
        Ok((answer, Some(Connection::Http2(connection))))
    }

    fn host_of<'a>(&'a self, backend: &'a Backend) -> &'a HeaderValue {
        self.host.as_ref().unwrap_or_else(|| backend.authority())
    }

    fn head(&self, backend: &Backend) -> Vec<u8> {
        let mut head = Vec::with_capacity(256);
        for part in [
            self.method.as_str(),
            " ",
            backend.base_path(),
            self.path.as_str(),
            " HTTP/1.1\r\n",
        ] {
            head.extend_from_slice(part.as_bytes());
        }
        write_field(&mut head, "host", self.host_of(backend).as_bytes());
        if !self.check_connector.is_pooled() {
            write_field(&mut head, "connection", b"close");
        }
        if !self
            .fields
            .iter()
            .any(|(name, _)| name == header::USER_AGENT)
        {
            write_field(&mut head, "user-agent", USER_AGENT.as_bytes());
        }
        for (name, value) in &self.fields {
            write_field(&mut head, name.as_str(), value.as_bytes());
        }
        if anticipates_content(&self.method) {
            write_field(&mut head, "content-length", b"0");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// An answer, and the connection where it can carry more.
type Exchanged = (Answer, Option<Connection>);

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
