//! `TraceLayer`: whose traces are continued, and how many are begun.
//!
//! `None` in place of the settings makes a layer that does nothing and has the same type, so that
//! `LoadBalancer` has one type with and without traces.

use std::{fmt, sync::Arc};

use tower_layer::Layer;
use tracing::Span;

use super::Trace;
use crate::{
    context::{TraceContext, TrustedPeers},
    error::ConfigError,
};

/// A layer that continues or begins the trace of each request, and makes its spans; see the
/// [module](super).
///
/// ```
/// use evenkeel::{context::TrustedPeers, trace::TraceLayer};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// // A tenth of the traces that begin here is recorded; those of the own network go on as they are.
/// let own = TrustedPeers::new(["10.0.0.0/8"])?;
/// let layer = TraceLayer::new().trusted_peers(own).sampling_ratio(0.1)?;
/// # drop(layer);
///
/// let refused = TraceLayer::new().sampling_ratio(2.0).unwrap_err();
/// assert_eq!(refused.field(), "sampling_ratio");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TraceLayer {
    /// `None` passes requests on as they are.
    config: Option<Arc<Config>>,
}

#[derive(Clone)]
pub(super) struct Config {
    /// `None` stands for every sender.
    pub(super) trusted: Option<TrustedPeers>,
    pub(super) sampling_ratio: f64,
    pub(super) span_context: Option<SpanContext>,
}

/// Returns the ids under which a tracer exports a span.
pub(super) type SpanContext =
    Arc<dyn Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync>;

impl Default for Config {
    fn default() -> Self {
        Self {
            trusted: None,
            sampling_ratio: TraceLayer::SAMPLING_RATIO,
            span_context: None,
        }
    }
}

impl TraceLayer {
    /// The share of the traces begun here that is sampled by default: all of them.
    pub const SAMPLING_RATIO: f64 = 1.0;

    /// Makes a layer that continues the trace of every request that has one.
    pub fn new() -> Self {
        Self {
            config: Some(Arc::default()),
        }
    }

    /// Makes a layer that does nothing.
    #[cfg(feature = "proxy")]
    pub(crate) fn disabled() -> Self {
        Self { config: None }
    }

    /// Continues traces only from these senders: the addresses and networks of the proxies and services
    /// in front. The sender is the last hop, and not the client that it forwards for. The `traceparent`
    /// and `tracestate` of other senders are removed, and a trace begins here. With none, every trace
    /// begins here.
    ///
    /// Use it if anyone may send requests and recorded traces cost money: a client that sets the `sampled`
    /// flag in each request has all of them recorded, and one that repeats a trace id puts its spans
    /// into another's trace.
    ///
    /// Default: every sender's.
    pub fn trusted_peers(mut self, trusted: TrustedPeers) -> Self {
        self.config_mut().trusted = Some(trusted);
        self
    }

    /// Sets the share of the traces begun here that have the `sampled` flag, from 0 for none to 1 for
    /// all. Services below record by that flag. A trace that is continued keeps its flag.
    ///
    /// The id of the trace decides, so that several balancers with the same ratio decide the same. It
    /// counts for requests without a span of a tracer ([`span_context`](Self::span_context)); a tracer
    /// has a sampler of its own.
    ///
    /// Default: 1, as in OpenTelemetry's SDKs: with 0, services that follow their parent's flag would
    /// record nothing.
    ///
    /// # Errors
    ///
    /// Returns an error that names `sampling_ratio` for a number that is not from 0 to 1.
    pub fn sampling_ratio(mut self, ratio: f64) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&ratio) {
            let why = format!("{ratio}: a number from 0 to 1 is accepted");
            return Err(ConfigError::new("sampling_ratio", why));
        }
        self.config_mut().sampling_ratio = ratio;
        Ok(self)
    }

    /// Takes the ids of a span from the tracer that exports it, so that the access log and the
    /// backends name the same ids as the exported spans.
    ///
    /// `context` is called for each span that a subscriber wants, right after it was made: for the
    /// request's with the context to be continued, if there is one, and for each attempt's with `None`,
    /// as its parent is the request's span. It tells the tracer of the parent and returns the span's
    /// context; `None` if the tracer has none, and then the ids are made here. It runs on the request's
    /// thread. The [module](super#opentelemetry) has one for `tracing-opentelemetry`.
    ///
    /// Default: the ids are made here, and written into the span's fields `trace_id` and `span_id`.
    pub fn span_context<F>(mut self, context: F) -> Self
    where
        F: Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync + 'static,
    {
        self.config_mut().span_context = Some(Arc::new(context));
        self
    }

    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(self.config.get_or_insert_default())
    }
}

impl Default for TraceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("trusted", &self.trusted)
            .field("sampling_ratio", &self.sampling_ratio)
            .field("span_context", &self.span_context.is_some())
            .finish()
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace::new(inner, self.config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tracestate::{MAX_LENGTH, MAX_MEMBERS};

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let config = TraceLayer::new().config.unwrap();
        assert!(config.trusted.is_none() && config.span_context.is_none());
        let compared = [
            ("traces continued", "from every sender".to_owned()),
            (
                "sampled share",
                format!("{:.0} %", 100.0 * config.sampling_ratio),
            ),
            ("ids of spans", "made here".to_owned()),
            ("`tracestate`", format!("{MAX_MEMBERS} members")),
            ("`tracestate`", format!("{MAX_LENGTH} bytes")),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }

    #[test]
    fn a_ratio_out_of_range_is_refused_by_name() {
        for ratio in [-0.1, 1.01, f64::NAN, f64::INFINITY] {
            let error = TraceLayer::new().sampling_ratio(ratio).unwrap_err();
            assert!(error.to_string().contains("sampling_ratio"), "{error}");
        }
        for ratio in [0.0, 0.5, 1.0] {
            assert!(TraceLayer::new().sampling_ratio(ratio).is_ok());
        }
    }
}
