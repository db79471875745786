//! [`AccessLogLayer`]: the sink, and what lines show.
//!
//! A layer is one `Arc` of its settings. A setter copies the settings if a service shares them
//! (`Arc::make_mut`), so that services made before keep what they were made with. `warned_order` is
//! not copied: a layer with other settings may warn again.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

use http::HeaderName;
use tower_layer::Layer;

use super::{
    AccessLog, Entry, FieldLimits, FieldNames, RefusedEntry, Sink, Truncated,
    fields::{check_client, cut_text},
    json,
    request_id::{REQUEST_ID, Trust, is_taken},
    truncated::Field,
};
use crate::{
    context::{ConnectionEvent, ConnectionEvents},
    error::ConfigError,
};

/// Logs each request as one structured line; see the [module](super).
///
/// Clones share the sink. The layer is also a [`ConnectionEvents`] that logs connections which end
/// without a request: `evenkeel::serve(listener, service).events(layer.clone())`.
#[derive(Clone)]
#[must_use]
pub struct AccessLogLayer {
    pub(super) config: Arc<Config>,
}

pub(super) struct Config {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) node: Option<Box<str>>,
    /// The same as JSON, as it follows the time in each line.
    pub(super) node_json: Box<[u8]>,
    pub(super) names: FieldNames,
    pub(super) limits: FieldLimits,
    pub(super) query: Option<Redact>,
    pub(super) referer: bool,
    pub(super) client_fingerprint: bool,
    pub(super) trust: Trust,
    pub(super) pass_request_id: bool,
    pub(super) return_request_id: bool,
    pub(super) request_id_field: HeaderName,
    pub(super) warned_order: AtomicBool,
}

/// Returns the part of a query that may be logged.
pub(super) type Redact = Arc<dyn Fn(&str) -> String + Send + Sync>;

impl AccessLogLayer {
    /// Logs to this sink.
    pub fn new(sink: impl Sink) -> Self {
        Self {
            config: Arc::new(Config {
                sink: Arc::new(sink),
                node: None,
                node_json: json::header(FieldNames::Own, None),
                names: FieldNames::Own,
                limits: FieldLimits::new(),
                query: None,
                referer: false,
                client_fingerprint: false,
                trust: Trust::Nothing,
                pass_request_id: false,
                return_request_id: false,
                request_id_field: REQUEST_ID,
                warned_order: AtomicBool::new(false),
            }),
        }
    }

    /// Names this balancer in each line, so that a collector of the lines of several instances can
    /// distinguish them.
    ///
    /// Default: no name.
    pub fn node(mut self, node: impl Into<String>) -> Self {
        let node: String = node.into();
        let config = self.config_mut();
        // Formatted here and in `field_names`, so that a line copies it: both setters may come in
        // either order.
        config.node_json = json::header(config.names, Some(&node));
        config.node = Some(node.into());
        self
    }

    /// Names the fields of a line in another vocabulary. The [module](super) has a table of all three.
    ///
    /// A sink of your own gets the choice as [`Entry::names`].
    ///
    /// Default: [`FieldNames::Own`].
    pub fn field_names(mut self, names: FieldNames) -> Self {
        let config = self.config_mut();
        config.names = names;
        config.node_json = json::header(names, config.node.as_deref());
        self
    }

    /// Limits the length of the fields that clients choose.
    ///
    /// Default: [`FieldLimits::new`].
    pub fn field_limits(mut self, limits: FieldLimits) -> Self {
        self.config_mut().limits = limits;
        self
    }

    /// Logs the query of the target as `redact` returns it. Queries often carry tokens, names and
    /// addresses: remove what the readers of the log must not see.
    ///
    /// `redact` runs once for each request that has a query, on the thread of the request.
    ///
    /// Default: queries are not logged.
    pub fn query(mut self, redact: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.config_mut().query = Some(Arc::new(redact));
        self
    }

    /// Logs the `Referer` field. It may carry the query of the page that the client came from.
    ///
    /// Default: off.
    pub fn referer(mut self, on: bool) -> Self {
        self.config_mut().referer = on;
        self
    }

    /// Logs the SHA-256 fingerprint of the certificate with which a client authenticated itself, beside
    /// its subject. Two certificates of one subject differ in it. 64 characters a line.
    ///
    /// Default: off.
    pub fn client_fingerprint(mut self, on: bool) -> Self {
        self.config_mut().client_fingerprint = on;
        self
    }

    /// Takes the id of a request from its `X-Request-Id`, from any sender. The field counts if there
    /// is one of 1 to 128 visible ASCII characters; the backend gets it unchanged.
    ///
    /// Use it only behind a proxy or a layer that sets the field on every request. Otherwise a
    /// client can give its requests the id of another client's.
    ///
    /// Default: off. An `X-Request-Id` that is not trusted is removed from the request, so that the
    /// backend and the log never show different ids.
    ///
    /// See also [`trust_request_id_from`](Self::trust_request_id_from); the later call counts.
    pub fn trust_request_id(mut self, on: bool) -> Self {
        self.config_mut().trust = if on { Trust::AllPeers } else { Trust::Nothing };
        self
    }

    /// Takes the id of a request from its `X-Request-Id`, from senders whose address `accepts`
    /// returns true for. The sender is the last hop, the proxy in front, and not the client that it
    /// forwards for.
    ///
    /// `accepts` runs for each request that has one valid `X-Request-Id`, on the thread of the
    /// request.
    ///
    /// Default: no sender is trusted.
    ///
    /// See also [`trust_request_id`](Self::trust_request_id); the later call counts.
    pub fn trust_request_id_from(
        mut self,
        accepts: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.config_mut().trust = Trust::Senders(Arc::new(accepts));
        self
    }

    /// Gives the request's id to the backend in `X-Request-Id` even if this layer made it, so that
    /// one id finds a request in this log and in the backend's. A trusted id goes to the backend in
    /// any case.
    ///
    /// Costs 32 bytes in each request, and an allocation of 4 KiB for every 128th id.
    ///
    /// Default: off in the library; on in settings with an `[access_log]` section.
    pub fn pass_request_id(mut self, on: bool) -> Self {
        self.config_mut().pass_request_id = on;
        self
    }

    /// Gives the request's id to the client, in the response, so that a user can name it in a report.
    /// It replaces a field of that name from the backend. A response that a layer outside the log makes
    /// has none, and so have responses if the sink is not enabled.
    ///
    /// Costs 32 bytes in each response, and an allocation of 4 KiB for every 128th id.
    ///
    /// Default: off.
    pub fn return_request_id(mut self, on: bool) -> Self {
        self.config_mut().return_request_id = on;
        self
    }

    /// Names the field with the id of a request: from a trusted sender, to the backend and back to the
    /// client.
    ///
    /// Default: `X-Request-Id`.
    ///
    /// # Errors
    ///
    /// Returns an error that names `request_id_field` for a field that HTTP or the log gives another
    /// meaning, such as `Host` or `Authorization`.
    pub fn request_id_field(mut self, name: HeaderName) -> Result<Self, ConfigError> {
        if is_taken(&name) {
            let why = format!("{name}: a field without another meaning is accepted");
            return Err(ConfigError::new("request_id_field", why));
        }
        self.config_mut().request_id_field = name;
        Ok(self)
    }

    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl Clone for Config {
    fn clone(&self) -> Self {
        Self {
            sink: self.sink.clone(),
            node: self.node.clone(),
            node_json: self.node_json.clone(),
            names: self.names,
            limits: self.limits,
            query: self.query.clone(),
            referer: self.referer,
            client_fingerprint: self.client_fingerprint,
            trust: self.trust.clone(),
            pass_request_id: self.pass_request_id,
            return_request_id: self.return_request_id,
            request_id_field: self.request_id_field.clone(),
            warned_order: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for AccessLogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogLayer")
            .field("node", &self.config.node)
            .field("names", &self.config.names)
            .field("query", &self.config.query.is_some())
            .field("referer", &self.config.referer)
            .field("client_fingerprint", &self.config.client_fingerprint)
            .field("pass_request_id", &self.config.pass_request_id)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> AccessLog<S> {
        AccessLog::new(inner, self.config.clone())
    }
}

impl ConnectionEvents for AccessLogLayer {
    fn connection_ended(&self, event: &ConnectionEvent) {
        if !self.config.sink.enabled() {
            return;
        }
        // It has just ended, and began that long ago.
        let time = SystemTime::now().checked_sub(event.duration);
        let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
        let limit = self.config.limits.path;
        let path = event.path.as_deref();
        let mut truncated = Truncated::default();
        if path.is_some_and(|path| path.len() > limit) {
            truncated.add(Field::Path);
        }
        check_client(Some(&event.conn), &mut truncated);
        // Whole, and not by `open` and `close`: there was no request to keep anything of.
        self.config.sink.record(&Entry {
            node: self.config.node.as_deref(),
            listener: Some(*event.conn.local()),
            peer: Some(*event.conn.peer()),
            client: event.conn.client(),
            tls: event.conn.tls(),
            tls_failure: event.handshake_failure,
            server_name: event.server_name.as_deref(),
            client_fingerprint: self.config.client_fingerprint,
            status: event.status.map(|status| status.as_u16()),
            refused: event.status.map(|_| RefusedEntry {
                method: event.method.as_ref(),
                path: path.map(|path| cut_text(path, limit)),
            }),
            detail: Some(&event.detail)
                .filter(|detail| !detail.is_empty())
                .map(|d| &**d),
            truncated,
            names: self.config.names,
            ..Entry::new(time, event.duration, event.kind.as_str())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::{
        Format, TracingSink,
        lines::{CLOSING_LIMIT, INTERVAL, QUEUED_BYTES, QUEUED_LINES},
    };

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let config = AccessLogLayer::new(TracingSink::new()).config;
        assert!(config.node.is_none() && config.query.is_none() && !config.referer);
        assert_eq!(config.names, FieldNames::Own);
        let limits = config.limits;
        assert_eq!(limits.path, limits.query);
        assert!(matches!(config.trust, Trust::Nothing) && !config.pass_request_id);
        assert!(!config.return_request_id && !config.client_fingerprint);
        let queued = format!("{},{:03}", QUEUED_LINES / 1_000, QUEUED_LINES % 1_000);
        let text = str::to_owned;
        let compared = [
            ("node", text("no name")),
            ("names of fields", text("those of this crate")),
            ("longest host", format!("{} bytes", limits.host)),
            ("longest path", format!("{} KiB", limits.path / 1_024)),
            (
                "longest user agent",
                format!("{} KiB", limits.user_agent / 1_024),
            ),
            ("longest referer", format!("{} KiB", limits.referer / 1_024)),
            ("query", text("off")),
            ("referer", text("off")),
            ("fingerprint", text("off")),
            ("request id of the client", text("not trusted, and removed")),
            ("request id to the backend", text("a trusted one")),
            ("request id to the client", text("not returned")),
            (
                "field of the request id",
                format!("`{}`", config.request_id_field),
            ),
            ("lines queued by", format!("{queued} a thread")),
            (
                "format of",
                format!("{:?}", Format::default()).to_uppercase(),
            ),
            (
                "bytes queued by",
                format!("{} MiB a thread", QUEUED_BYTES >> 20),
            ),
            (
                "wait for a stalled output",
                format!("{} s", CLOSING_LIMIT.as_secs()),
            ),
            ("written out", format!("{} ms", INTERVAL.as_millis())),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
