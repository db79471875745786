//! A check by gRPC's own health protocol.
//!
//! Written by hand instead of with a gRPC library: the request has one field, the answer another,
//! and a library would bring a code generator. An answer is judged by its status first, then by
//! `grpc-status` (in the head, if there is no message, else in the trailers), then by the message.
//!
//! | what came | report |
//! |---|---|
//! | `SERVING` | pass |
//! | `NOT_SERVING`, `UNKNOWN`, `SERVICE_UNKNOWN` | `L7STS` |
//! | a status of the call other than OK, or of HTTP other than 200 | `L7STS` |
//! | no `grpc-status`, a message that is malformed | `L7RSP` |

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use tokio::time::{error::Elapsed, timeout_at};

use super::{
    CheckReport,
    check::{CheckFuture, HealthCheck, Target},
    check_connection::{self, CheckConnector},
    check_report::ANSWERED,
    http2_exchange::{Connection, Failed},
};
use crate::{
    connect::{Connector, TargetOverride},
    error::ConfigError,
    pool::{AttachmentKey, Backend, Protocol},
};

/// Calls `grpc.health.v1.Health/Check` over HTTP/2, and wants `SERVING`.
///
/// The [protocol](https://github.com/grpc/grpc/blob/master/doc/health-checking.md) of gRPC's own
/// health service. Cleartext is HTTP/2 with prior knowledge, TLS selects it by ALPN. `NOT_SERVING`
/// fails with `L7STS`, as do `UNKNOWN`, a service that is not known there, and any other status of
/// the call; what is no gRPC answer fails with `L7RSP`.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct GrpcCheck {
    service: Bytes,
    host: Option<HeaderValue>,
    check_connector: CheckConnector,
}

impl GrpcCheck {
    /// Makes the check; it asks for the server as a whole.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for one service of the server, by its full name.
    ///
    /// Default: the server as a whole, which is the empty name.
    ///
    /// # Errors
    ///
    /// When it is over 256 bytes.
    pub fn service(mut self, name: &str) -> Result<Self, ConfigError> {
        if name.len() > LONGEST_NAME {
            return Err(ConfigError::new(
                "health.service",
                format!("{} bytes: up to {LONGEST_NAME} are accepted", name.len()),
            ));
        }
        self.service = Bytes::copy_from_slice(name.as_bytes());
        Ok(self)
    }

    /// Sets the authority of the request.
    ///
    /// Default: that of the backend's URL.
    ///
    /// # Errors
    ///
    /// When it is no authority.
    pub fn host(mut self, host: &str) -> Result<Self, ConfigError> {
        self.host = Some(super::http::authority(host)?);
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

    /// Keeps one connection to each backend from check to check. After a failure the next one is
    /// new.
    ///
    /// Default: each check has a connection of its own.
    pub fn pooled(mut self) -> Self {
        self.check_connector.pooled = Some(std::sync::Arc::new(AttachmentKey::new()));
        self
    }

    async fn run(&self, target: &Target) -> CheckReport {
        let backend = target.backend().clone().protocol(Protocol::Http2);
        if let Some(check_connection::Connection::Http2(connection)) =
            self.check_connector.idle(&backend)
        {
            match timeout_at(target.deadline(), self.ask(connection, &backend)).await {
                // It was closed while it was idle: that says nothing.
                Ok(Err(Failed::Unanswered(_))) => {}
                asked => return conclude(asked),
            }
        }
        let connected = match self.check_connector.connect(target, &backend).await {
            Ok(connected) => connected,
            Err(report) => return report,
        };
        let open = Connection::open(connected.into_stream());
        let connection = match timeout_at(target.deadline(), open).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(why)) => return CheckReport::fail("L7RSP", why).for_request(CALL),
            Err(_) => return CheckReport::fail("L7TOUT", "no HTTP/2 in time").for_request(CALL),
        };
        conclude(timeout_at(target.deadline(), self.ask(connection, &backend)).await)
    }

    async fn ask(
        &self,
        mut connection: Connection,
        backend: &Backend,
    ) -> Result<CheckReport, Failed> {
        let authority = self.host.as_ref().unwrap_or_else(|| backend.authority());
        let uri = format!(
            "{}://{}{PATH}",
            self.check_connector
                .target_override
                .scheme_of(backend)
                .as_str(),
            authority.to_str().unwrap_or_default()
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(
                header::USER_AGENT,
                concat!("evenkeel/", env!("CARGO_PKG_VERSION")),
            )
            .body(message(&self.service))
            .map_err(|error| Failed::Broken(error.to_string()))?;
        let mut answered = connection.ask(request).await?;
        let report = match judge_head(answered.status, &answered.headers) {
            Some(report) => report,
            None => {
                let (body, trailers) = answered.read(MOST_ANSWER).await?;
                judge(&answered.headers, &trailers, &body).map_err(Failed::Broken)?
            }
        };
        if report.is_pass() {
            self.check_connector
                .keep(backend, check_connection::Connection::Http2(connection));
        }
        Ok(report)
    }
}

impl HealthCheck for GrpcCheck {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(self.run(target))
    }
}

fn conclude(asked: Result<Result<CheckReport, Failed>, Elapsed>) -> CheckReport {
    let report = match asked {
        Ok(Ok(report)) => report,
        Ok(Err(Failed::Broken(why) | Failed::Unanswered(why))) => CheckReport::fail("L7RSP", why),
        Err(_) => CheckReport::fail("L7TOUT", "no whole response in time"),
    };
    report.for_request(CALL)
}

/// Returns a `HealthCheckRequest` as gRPC sends it: not compressed, its length, and the one field
/// `string service = 1`, which is left out when it is empty.
fn message(service: &[u8]) -> Bytes {
    let mut field = BytesMut::with_capacity(service.len() + 3);
    if !service.is_empty() {
        field.put_u8(1 << 3 | 2);
        // A varint; the name is at most 256 bytes.
        if service.len() < 128 {
            field.put_u8(service.len() as u8);
        } else {
            field.put_u8(service.len() as u8 | 0x80);
            field.put_u8((service.len() >> 7) as u8);
        }
        field.put_slice(service);
    }
    let mut message = BytesMut::with_capacity(field.len() + 5);
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.put(field);
    message.freeze()
}

/// Judges an answer by its head, where that is enough.
fn judge_head(status: StatusCode, headers: &HeaderMap) -> Option<CheckReport> {
    if status != StatusCode::OK {
        let code = format!("{ANSWERED}{}", status.as_u16());
        return Some(CheckReport::fail("L7STS", code).with_status(status));
    }
    // An answer without a message has its status in the header.
    call_status(headers).and_then(failed_call)
}

fn judge(headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Result<CheckReport, String> {
    let status = call_status(trailers).or_else(|| call_status(headers));
    let status = status.ok_or("there is no grpc-status")?;
    if let Some(failed) = failed_call(status) {
        return Ok(failed);
    }
    let serving = serving(body).ok_or("the message is no HealthCheckResponse")?;
    Ok(match serving {
        1 => CheckReport::pass("L7OK", "answered SERVING"),
        0 => CheckReport::fail("L7STS", "answered UNKNOWN"),
        2 => CheckReport::fail("L7STS", "answered NOT_SERVING"),
        3 => CheckReport::fail("L7STS", "answered SERVICE_UNKNOWN"),
        other => CheckReport::fail("L7STS", format!("{ANSWERED}serving status {other}")),
    })
}

/// `None` for 0 (OK).
fn failed_call(status: usize) -> Option<CheckReport> {
    let name = CALL_STATUS.get(status).copied().unwrap_or("?");
    let failed = || CheckReport::fail("L7STS", format!("{ANSWERED}gRPC status {status} ({name})"));
    (status != 0).then(failed)
}

/// `None` if the field is absent or not a number.
fn call_status(fields: &HeaderMap) -> Option<usize> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Reads `ServingStatus status = 1` of a `HealthCheckResponse`; absent, it is 0.
///
/// Skips fields that it does not know, by their wire type, as a newer server may add some.
fn serving(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    // Nothing was offered to compress it with.
    if head[0] != 0 || length as usize != message.len() {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// At most ten bytes; bits beyond 64 are dropped.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

const PATH: &str = "/grpc.health.v1.Health/Check";
/// The same, as a log shows it.
const CALL: &str = "grpc.health.v1.Health/Check";
/// Far beyond any package and service name.
const LONGEST_NAME: usize = 256;
/// The message is 7 bytes; what else a server adds to it is of no use here.
const MOST_ANSWER: usize = 4 * 1024;
/// Of <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>, by number.
const CALL_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_service_in_protobuf() {
        assert_eq!(message(b"")[..], [0, 0, 0, 0, 0]);
        assert_eq!(message(b"a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = message(&[b'x'; 200]);
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(
            GrpcCheck::new()
                .service(&"x".repeat(257))
                .unwrap_err()
                .field(),
            "health.service"
        );
    }

    #[test]
    fn a_response_tells_how_it_serves() {
        for (body, status) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\0", Some(0)),
            // Fields that are not known are passed over.
            (b"\0\0\0\0\x07\x12\x01x\x18\x05\x08\x01", Some(1)),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x08\x01", None),
            (b"\0\0\0\0\x01\x08", None),
            (b"\0\0", None),
            (b"", None),
        ] {
            assert_eq!(serving(body), status, "{body:?}");
        }
    }
}
