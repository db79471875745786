//! The TCP check: connects, and optionally sends bytes and expects others.
//!
//! Codes as in HAProxy: `L4OK` for a connection, `L6OK` for a TLS session, `L7OK` for an answer
//! that was wanted. The check closes its connection at the end, and never keeps one.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout_at,
};

use super::{
    CheckReport,
    check::{CheckFuture, HealthCheck, Target},
    check_connection::CheckConnector,
    http::contains,
};
use crate::{
    connect::{Connector, Stream, TargetOverride},
    pool::{Backend, Protocol, Scheme},
};

/// A check that connects, with TLS if the backend's URL says `https`, and optionally sends bytes and
/// expects others.
///
/// ```
/// use evenkeel::health::TcpCheck;
///
/// let redis = TcpCheck::new().send("PING\r\n").expect("+PONG");
/// ```
///
/// A connection shows that a process listens, not that it answers requests: the kernel accepts
/// connections for a process that hangs. Prefer [`HttpCheck`](super::HttpCheck) if the backend speaks
/// HTTP.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TcpCheck {
    send: Bytes,
    expect: Option<Wanted>,
    check_connector: CheckConnector,
}

#[derive(Clone, Debug)]
enum Wanted {
    Prefix(Bytes),
    Somewhere(Bytes),
}

impl TcpCheck {
    /// Makes a check that passes if it can connect.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends these bytes once connected.
    ///
    /// Default: nothing.
    pub fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.send = bytes.into().into();
        self
    }

    /// Requires the answer to begin with these bytes.
    ///
    /// Default: nothing is waited for.
    pub fn expect(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.expect = Some(Wanted::Prefix(bytes.into().into()));
        self
    }

    /// Requires these bytes in the first 4 KiB of the answer. The check ends once it has found them.
    ///
    /// Default: nothing is waited for.
    pub fn expect_contains(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.expect = Some(Wanted::Somewhere(bytes.into().into()));
        self
    }

    /// Sets the connector. That of the proxy gives checks the TLS settings and the connect time-out of
    /// live traffic.
    ///
    /// Default: [`Connector::new`].
    pub fn connector(mut self, connector: Connector) -> Self {
        self.check_connector.connector = connector;
        self
    }

    /// Connects to another port, address, scheme or certificate name than the backend's own.
    ///
    /// Default: where the backend is.
    pub fn target_override(mut self, target_override: TargetOverride) -> Self {
        self.check_connector.target_override = target_override;
        self
    }

    async fn run(&self, target: &Target) -> CheckReport {
        // The check sends no HTTP, so ALPN offers no more than HTTP/1.1.
        let backend = target.backend().clone().protocol(Protocol::Http1);
        let stream = match self.check_connector.connect(target, &backend).await {
            Ok(connected) => connected.into_stream(),
            Err(report) => return report,
        };
        // The connection is the result, and closes with its drop.
        if self.send.is_empty() && self.expect.is_none() {
            return self.connected(&backend);
        }
        match timeout_at(target.deadline(), self.talk(stream)).await {
            Ok(Ok(())) => CheckReport::pass("L7OK", ""),
            Ok(Err(why)) => CheckReport::fail("L7RSP", why),
            Err(_) => CheckReport::fail("L7TOUT", "no answer in time"),
        }
    }

    fn connected(&self, backend: &Backend) -> CheckReport {
        match self.check_connector.target_override.scheme_of(backend) {
            Scheme::Http => CheckReport::pass("L4OK", ""),
            Scheme::Https => CheckReport::pass("L6OK", ""),
        }
    }

    async fn talk(&self, mut stream: Stream) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        stream.write_all(&self.send).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let Some(wanted) = &self.expect else {
            return Ok(());
        };
        let mut answer = BytesMut::with_capacity(MOST_ANSWER);
        loop {
            match wanted.judge(&answer) {
                Some(true) => return Ok(()),
                Some(false) => return Err("the answer is not what was wanted".into()),
                None => {}
            }
            // A server that sends less and waits would keep the check until its deadline, which is
            // then the failure.
            if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
                return Err("the connection was closed before the answer was whole".into());
            }
        }
    }
}

impl Wanted {
    /// Judges what came so far; `None` while more may decide.
    fn judge(&self, answer: &[u8]) -> Option<bool> {
        match self {
            Self::Prefix(wanted) => {
                let seen = answer.len().min(wanted.len());
                if answer[..seen] != wanted[..seen] {
                    return Some(false);
                }
                (seen == wanted.len()).then_some(true)
            }
            Self::Somewhere(wanted) => match contains(answer, wanted) {
                true => Some(true),
                false => (answer.len() >= MOST_ANSWER.max(wanted.len())).then_some(false),
            },
        }
    }
}

impl HealthCheck for TcpCheck {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(self.run(target))
    }
}

/// A greeting or a status line; more than that is a conversation.
const MOST_ANSWER: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_as_soon_as_it_can_be() {
        let prefix = Wanted::Prefix(Bytes::from_static(b"+PONG"));
        for (answer, verdict) in [
            ("", None),
            ("+PO", None),
            ("+PONG", Some(true)),
            ("+PONG\r\n", Some(true)),
            ("-", Some(false)),
            ("+PING", Some(false)),
        ] {
            assert_eq!(prefix.judge(answer.as_bytes()), verdict, "{answer}");
        }
        let somewhere = Wanted::Somewhere(Bytes::from_static(b"ready"));
        assert_eq!(somewhere.judge(b"220 rea"), None);
        assert_eq!(somewhere.judge(b"220 ready"), Some(true));
        assert_eq!(somewhere.judge(&[b'x'; MOST_ANSWER]), Some(false));
    }
}
