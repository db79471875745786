//! The HTTP client of instant-acme, over the connector that backends have: its rustls, its provider.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use super::{failure::OrderError, renewal::DEFAULT_SUGGESTION};
use crate::{
    connect::{ClientTls, Connector},
    error::{BoxError, ConfigError},
    pool::{Backend, Protocol},
    wire::retry_after,
};

/// Opens a connection a request: an order has about fifteen, and the next one comes in weeks.
#[derive(Clone)]
pub(super) struct Client {
    connector: Connector,
}

tokio::task_local! {
    /// What the authority asked for when it refused a request of this order last. instant-acme does not
    /// pass it on, and other orders ask the same authority at the same time.
    static RETRY_AFTER: Cell<Option<Duration>>;
}

/// Runs an order. What its requests were refused with is known to [`failed`] within it alone.
pub(super) fn with_retry_after<F: Future>(order: F) -> impl Future<Output = F::Output> {
    RETRY_AFTER.scope(Cell::new(None), order)
}

/// Returns what an error of instant-acme means, with what the authority asked for.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn failed(error: Error) -> OrderError {
    let asked = RETRY_AFTER.try_with(Cell::take);
    OrderError::of(&error, asked.ok().flatten())
}

impl Client {
    pub(super) fn new(tls: ClientTls) -> Result<Self, ConfigError> {
        Ok(Self {
            connector: Connector::new().timeout(CONNECT_TIMEOUT)?.tls(tls),
        })
    }

    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, BoxError> {
        let path = request.uri().path().to_owned();
        let is_get = request.method() == Method::GET;
        let (mut head, body) = request.into_parts();
        let authority = head.uri.authority().ok_or("a URL without a host")?.clone();
        if head.uri.scheme_str() != Some("https") {
            return Err(format!("{}: no URL of https", head.uri).into());
        }
        let backend = Backend::new("authority", &format!("https://{authority}"))?;
        let backend = backend.protocol(Protocol::Http1);
        let connected = self.connector.connect(&backend).await?;
        let io = TokioIo::new(connected.into_stream());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        head.uri = target.parse()?;
        let host = HeaderValue::from_str(authority.as_str())?;
        head.headers.insert(header::HOST, host);
        let agent = const { HeaderValue::from_static(USER_AGENT) };
        head.headers.insert(header::USER_AGENT, agent);
        let response = sender.send_request(Request::from_parts(head, body)).await?;
        let (mut head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
        let asked = retry_after(&head.headers);
        if head.status.is_client_error() || head.status.is_server_error() {
            tracing::debug!(target: "evenkeel::tls", status = %head.status, path, "the authority refused");
            if asked.is_some() {
                // Outside of an order, nothing waits for it.
                let _ = RETRY_AFTER.try_with(|slot| slot.set(asked));
            }
        } else if is_get && asked.is_none() {
            // instant-acme refuses renewal information without the field (RFC 9773 §4.3.2), and reads
            // it in no other response to a GET.
            let seconds = HeaderValue::from(DEFAULT_SUGGESTION.as_secs());
            head.headers.insert(header::RETRY_AFTER, seconds);
        }
        Ok(BytesResponse::from(Response::from_parts(
            head,
            Full::new(body),
        )))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let sent = timeout(TIMEOUT, client.send(request)).await;
            sent.unwrap_or_else(|_| Err("no response within 30 s".into()))
                .map_err(|error| Error::Other(Unreachable(format!("{host}: {error}")).into()))
        })
    }
}

/// The authority could not be asked.
#[derive(Debug)]
pub(super) struct Unreachable(String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// Reads a delay or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let date = || {
        let date = httpdate::parse_http_date(retry_after::date(headers)?).ok()?;
        Some(date.duration_since(SystemTime::now()).unwrap_or_default())
    };
    retry_after::read(headers).or_else(date)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// A chain has a few KiB.
const MAX_BODY: usize = 1 << 20;
/// RFC 8555 §6.1 asks for the client and its library.
const USER_AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " instant-acme");
