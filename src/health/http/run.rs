//! How one HTTP check runs: the connection, the request and the report.
//!
//! ```text
//!   kept connection? ─▶ ask ──▶ answered ──────────────────▶ judge ─▶ report
//!         │             └ closed before a byte came ─┐
//!         └ none ────────────────────────────────────┴▶ connect ─▶ ask ─▶ judge ─▶ report
//! ```
//!
//! Each step ends at the target's deadline; the prober has the same deadline around all of it, and
//! would call the check late without saying at which step. Without pooling the request says
//! `connection: close`, so that the backend does not wait for a second one.
//!
//! `Protocol::Auto` is checked over HTTP/1.1: ALPN would let the backend choose, and a check would
//! prove a path that requests may not take.

use http::{HeaderValue, Method, header};
use tokio::time::timeout_at;

use super::{
    HttpCheck, USER_AGENT, can_http2,
    expectation::Answer,
    http1::{self, CheckRequest, Failed},
};
use crate::{
    connect::Connected,
    health::{CheckReport, Target, check_connection::Connection},
    pool::{Backend, Protocol},
    wire::{framing::anticipates_content, write_field},
};

impl HttpCheck {
    pub(super) async fn run(&self, target: &Target) -> CheckReport {
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

    /// Begins HTTP/2 if ALPN chose it or the backend's protocol is HTTP/2.
    #[cfg(all(feature = "proxy", feature = "http2"))]
    async fn open(&self, target: &Target, connected: Connected) -> Result<Connection, CheckReport> {
        if !connected.is_http2() {
            return Ok(Connection::http1(connected));
        }
        let open = crate::health::http2_exchange::Connection::open(connected.into_stream());
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

    /// A connection is kept only after a pass: after a failure the next check is to prove that a
    /// new one works.
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

    /// The same request in HTTP/2. The connection is returned even if the body was not read to its
    /// end: only its stream is reset.
    #[cfg(all(feature = "proxy", feature = "http2"))]
    async fn ask_http2(
        &self,
        target: &Target,
        mut connection: crate::health::http2_exchange::Connection,
        backend: &Backend,
    ) -> Result<Exchanged, Failed> {
        use std::mem;

        use super::expectation::UseOfBody;

        let uri = format!(
            "{}://{}{}{}",
            self.check_connector
                .target_override
                .scheme_of(backend)
                .as_str(),
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
        fields.extend(self.fields.iter().cloned());
        fields
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT));
        let failed = |failed| match failed {
            crate::health::http2_exchange::Failed::Broken(why) => Failed::Broken(why),
            crate::health::http2_exchange::Failed::Unanswered(why) => Failed::Unanswered(why),
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

    /// The configured host, else the backend's authority.
    fn host_of<'a>(&'a self, backend: &'a Backend) -> &'a HeaderValue {
        self.host.as_ref().unwrap_or_else(|| backend.authority())
    }

    /// A check has no body. The fields of the user follow ours, and `User-Agent` gives way to
    /// theirs.
    fn head(&self, backend: &Backend) -> Vec<u8> {
        let mut head = Vec::with_capacity(256);
        for part in [
            self.method.as_str(),
            " ",
            backend.base_path(),
            self.path.as_str(),
            " HTTP/1.1\r\n",
        ] {
            // Valid in a request line: the path was parsed by the setter, the base path with the
            // backend's URL.
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
        // RFC 9110 §8.6: a server may wait for the body of a POST that names no length.
        if anticipates_content(&self.method) {
            write_field(&mut head, "content-length", b"0");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// An answer, and the connection where it can carry more.
type Exchanged = (Answer, Option<Connection>);
