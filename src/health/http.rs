//! A check by a request.

use std::ops::RangeInclusive;

use bytes::{Buf, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header, uri::PathAndQuery};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout_at,
};

use super::check::{CheckFuture, HealthCheck, Report, Target};
use crate::{
    connect::{Connector, Stream},
    error::ConfigError,
    pool::{Backend, Protocol},
};

/// Sends a request on a connection of its own, and wants a whole response with a status that
/// counts as healthy.
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
    healthy: Vec<RangeInclusive<u16>>,
    connector: Connector,
}

impl HttpCheck {
    /// Makes the check: `GET /health`, 200 to 299 healthy.
    pub fn new() -> Self {
        Self {
            method: Method::GET,
            path: PathAndQuery::from_static(PATH),
            host: None,
            fields: Vec::new(),
            healthy: vec![200..=299],
            connector: Connector::new(),
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
        let parsed = host.parse::<http::uri::Authority>().ok();
        let value = parsed.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        let bad = || ConfigError::new("health.host", format!("{host:?}: host[:port] is accepted"));
        self.host = Some(value.ok_or_else(bad)?);
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
        self.healthy = statuses.into_iter().collect();
        let fits = |r: &RangeInclusive<u16>| !r.is_empty() && *r.start() >= 200 && *r.end() <= 599;
        if self.healthy.is_empty() || !self.healthy.iter().all(fits) {
            return Err(ConfigError::new(
                "health.healthy",
                format!("{:?}: ranges within 200 to 599 are accepted", self.healthy),
            ));
        }
        Ok(self)
    }

    /// Connects as the proxy does: same TLS settings, same time-out.
    ///
    /// Default: [`Connector::new`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    async fn run(&self, target: &Target) -> Report {
        let backend = match (can_http2(), target.backend().http_protocol()) {
            (false, _) | (_, Protocol::Auto) => target.backend().clone().protocol(Protocol::Http1),
            _ => target.backend().clone(),
        };
        let connected = match timeout_at(target.deadline(), self.connector.connect(&backend)).await
        {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Report::not_connected(&error),
            Err(_) => return Report::fail("L4TOUT", "no connection in time"),
        };
        let http2 = connected.is_http2();
        let stream = connected.into_stream();
        let asked = async {
            if http2 {
                self.ask_http2(stream, &backend).await
            } else {
                self.ask(stream, &backend).await
            }
        };
        match timeout_at(target.deadline(), asked).await {
            Ok(Ok(status)) => self.judge(status),
            Ok(Err(why)) => Report::fail("L7RSP", why),
            Err(_) => Report::fail("L7TOUT", "no whole response in time"),
        }
    }

    fn judge(&self, status: StatusCode) -> Report {
        let code = status.as_u16();
        if self.healthy.iter().any(|range| range.contains(&code)) {
            Report::pass("L7OK", code.to_string())
        } else {
            Report::fail("L7STS", code.to_string())
        }
    }

    fn host_of<'a>(&'a self, backend: &'a Backend) -> &'a HeaderValue {
        self.host.as_ref().unwrap_or_else(|| backend.authority())
    }

    fn head(&self, backend: &Backend) -> Vec<u8> {
        let mut head = Vec::with_capacity(256);
        let mut line = |parts: &[&[u8]]| {
            parts.iter().for_each(|part| head.extend_from_slice(part));
            head.extend_from_slice(b"\r\n");
        };
        line(&[
            self.method.as_str().as_bytes(),
            b" ",
            backend.base_path().as_bytes(),
            self.path.as_str().as_bytes(),
            b" HTTP/1.1",
        ]);
        line(&[b"host: ", self.host_of(backend).as_bytes()]);
        line(&[b"connection: close"]);
        if !self
            .fields
            .iter()
            .any(|(name, _)| name == header::USER_AGENT)
        {
            line(&[b"user-agent: ", USER_AGENT.as_bytes()]);
        }
        for (name, value) in &self.fields {
            line(&[name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
        line(&[]);
        head
    }

    async fn ask(&self, mut stream: Stream, backend: &Backend) -> Result<StatusCode, String> {
        let failed = |error: std::io::Error| error.to_string();
        let head = self.head(backend);
        // A backend may answer and close before it read everything.
        let written = stream.write_all(&head).await.err();
        let mut reader = Reader {
            stream,
            buffer: BytesMut::with_capacity(READ),
        };
        let (status, length) = match reader.head().await {
            Ok(head) => head,
            Err(why) => return Err(written.map_or(why, failed)),
        };
        let bodiless = self.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless {
            reader.body(length).await?;
        }
        Ok(status)
    }

    #[cfg(all(feature = "proxy", feature = "http2"))]
    async fn ask_http2(&self, stream: Stream, backend: &Backend) -> Result<StatusCode, String> {
        use http_body_util::{BodyExt, Empty, Limited};
        use hyper_util::rt::{TokioExecutor, TokioIo};

        let uri = format!(
            "{}://{}{}{}",
            backend.scheme().as_str(),
            self.host_of(backend).to_str().unwrap_or_default(),
            backend.base_path(),
            self.path
        );
        let mut request = http::Request::new(Empty::<bytes::Bytes>::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri
            .parse()
            .map_err(|e: http::uri::InvalidUri| e.to_string())?;
        let fields = request.headers_mut();
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        fields.extend(self.fields.iter().cloned());
        let failed = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(failed)?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status();
            // A longer body is left; it says nothing more.
            match Limited::new(response.into_body(), BODY_LIMIT)
                .collect()
                .await
            {
                Err(error) if error.is::<hyper::Error>() => Err(error.to_string()),
                _ => Ok(status),
            }
        };
        tokio::select! {
            answer = exchange => answer,
            Err(error) = connection => Err(error.to_string()),
        }
    }

    #[cfg(not(all(feature = "proxy", feature = "http2")))]
    async fn ask_http2(&self, _: Stream, _: &Backend) -> Result<StatusCode, String> {
        Err("HTTP/2 needs the features proxy and http2".into())
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

/// A connection that reads one response.
struct Reader {
    stream: Stream,
    buffer: BytesMut,
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Chunked,
    Exact(u64),
    UntilClose,
}

impl Reader {
    /// Reads on; false at the end of the stream.
    async fn more(&mut self) -> Result<bool, String> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) => Ok(read > 0),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn head(&mut self) -> Result<(StatusCode, Length), String> {
        loop {
            let seen = &self.buffer[..self.buffer.len().min(HEAD_LIMIT)];
            if let Some((status, length, size)) = parse_head(seen)? {
                self.buffer.advance(size);
                // An interim response is followed by the final one (RFC 9110 §15.2).
                if !status.is_informational() {
                    return Ok((status, length));
                }
                continue;
            }
            if self.buffer.len() >= HEAD_LIMIT {
                return Err("the response head is longer than 32 KiB".into());
            }
            if !self.more().await? {
                return Err(match self.buffer.is_empty() {
                    true => "the connection was closed without a response".into(),
                    false => "the connection was closed within the response head".into(),
                });
            }
        }
    }

    /// Reads the body to its end, or to the limit: what is longer says nothing more.
    async fn body(&mut self, length: Length) -> Result<(), String> {
        let mut left = BODY_LIMIT;
        let mut chunks = Chunks::Size;
        loop {
            let ended = match length {
                Length::Exact(exact) => {
                    let read = (BODY_LIMIT - left + self.buffer.len()) as u64;
                    left = left.saturating_sub(self.buffer.len());
                    self.buffer.clear();
                    read >= exact
                }
                Length::Chunked => {
                    let before = self.buffer.len();
                    chunks = chunks.advance(&mut self.buffer)?;
                    left = left.saturating_sub(before - self.buffer.len());
                    chunks == Chunks::End || self.buffer.len() > HEAD_LIMIT
                }
                Length::UntilClose => {
                    left = left.saturating_sub(self.buffer.len());
                    self.buffer.clear();
                    false
                }
            };
            if ended || left == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return match length {
                    Length::UntilClose => Ok(()),
                    _ => Err("the connection was closed within the body".into()),
                };
            }
        }
    }
}

fn parse_head(buffer: &[u8]) -> Result<Option<(StatusCode, Length, usize)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut fields);
    let size = match response.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the response head is malformed: {error}")),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("the status is not within 100 to 999")?;
    let mut length = Length::UntilClose;
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        } else if field.name.eq_ignore_ascii_case("content-length") && length != Length::Chunked {
            let value = std::str::from_utf8(field.value).ok().map(str::trim);
            let exact = value.and_then(|value| value.parse().ok());
            let exact = Length::Exact(exact.ok_or("Content-Length is not a number")?);
            if length != Length::UntilClose && length != exact {
                return Err("there are two values of Content-Length".into());
            }
            length = exact;
        }
    }
    Ok(Some((status, length, size)))
}

/// Where in a chunked body the reader is (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// This much of a chunk, with the line end after it, is still to come.
    Data(u64),
    End,
    Size,
    Trailers,
}

impl Chunks {
    fn advance(mut self, buffer: &mut BytesMut) -> Result<Self, String> {
        loop {
            match self {
                Self::Data(0) => self = Self::Size,
                Self::Data(left) => {
                    let here = buffer
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    if here == 0 {
                        return Ok(self);
                    }
                    buffer.advance(here);
                    self = Self::Data(left - here as u64);
                }
                Self::End => return Ok(self),
                Self::Size => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((read, size))) => {
                        buffer.advance(read);
                        self = match size {
                            0 => Self::Trailers,
                            size => Self::Data(size.saturating_add(2)),
                        };
                    }
                    Ok(httparse::Status::Partial) => return Ok(self),
                    Err(_) => return Err("the size of a chunk is malformed".into()),
                },
                Self::Trailers => {
                    let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") else {
                        return Ok(self);
                    };
                    buffer.advance(end + 2);
                    if end == 0 {
                        self = Self::End;
                    }
                }
            }
        }
    }
}

fn can_http2() -> bool {
    cfg!(all(feature = "proxy", feature = "http2"))
}

/// What frameworks and orchestrators call it most.
pub(super) const PATH: &str = "/health";
const USER_AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));
/// As much as the proxy accepts.
const HEAD_LIMIT: usize = 32 * 1024;
/// More than any status page that a check should ask for.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
const READ: usize = 4 * 1024;
