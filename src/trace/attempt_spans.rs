//! The spans of a request's attempts.
//!
//! Lifetimes: the record of the request holds this observer, the observer holds the request's span,
//! and the span must end with the last byte although a handler may keep the record for longer. So the
//! observer lets go of the span when the request ends ([`AttemptSpans::close`]), and never holds the
//! record itself.
//!
//! The state is locked for a look-up or a push. A subscriber is called without the lock, because it
//! may log, and is code of the program.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};
use tracing::{Span, field::Empty, info_span};

use super::{
    layer::SpanContext,
    propagate::{new_span_id, write_traceparent},
};
use crate::{
    context::{Attempt, AttemptObserver, Outcome, TraceContext},
    pool::Backend,
};

/// The spans of a request's attempts, which the record of the request announces.
pub(super) struct AttemptSpans {
    /// That of the request's span.
    context: TraceContext,
    span_context: Option<SpanContext>,
    state: Mutex<State>,
}

struct State {
    /// The request's span; `None` once it has ended.
    parent: Option<Span>,
    running: Vec<(usize, Span)>,
}

impl AttemptSpans {
    pub(super) fn new(
        parent: Span,
        context: TraceContext,
        span_context: Option<SpanContext>,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            span_context,
            state: Mutex::new(State {
                parent: Some(parent),
                running: Vec::new(),
            }),
        })
    }

    /// Lets go of the request's span, which ends once no handle of it is left. Attempts that begin later
    /// have no span.
    pub(super) fn close(&self) {
        let parent = self.state().parent.take();
        drop(parent);
    }

    fn running(&self, number: usize) -> Option<Span> {
        let state = self.state();
        let found = state.running.iter().find(|(other, _)| *other == number);
        found.map(|(_, span)| span.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the context of an attempt's span.
    fn context_of(&self, span: &Span) -> TraceContext {
        let tracer = self.span_context.as_ref();
        if let Some(context) = tracer.and_then(|context| context(span, None)) {
            return context;
        }
        let context = TraceContext {
            span_id: new_span_id(),
            ..self.context
        };
        record_ids(span, &context);
        context
    }
}

/// Writes the ids into the fields of a span that no tracer gave ids.
pub(super) fn record_ids(span: &Span, context: &TraceContext) {
    span.record("trace_id", tracing::field::display(context.trace_id_hex()));
    span.record("span_id", tracing::field::display(context.span_id_hex()));
}

// The lock is free while a subscriber is called.
impl AttemptObserver for AttemptSpans {
    fn begun(&self, number: usize, backend: &Backend, headers: &mut HeaderMap) {
        // An attempt that begins behind the end, such as one of a copy of the request, has no parent.
        let Some(parent) = self.state().parent.clone() else {
            return;
        };
        let span = info_span!(
            target: "evenkeel::trace",
            parent: &parent,
            "attempt",
            otel.kind = "client",
            otel.name = backend.id(),
            otel.status_code = Empty,
            otel.status_description = Empty,
            evenkeel.backend.id = backend.id(),
            evenkeel.attempt.outcome = Empty,
            server.address = backend.host(),
            server.port = i64::from(backend.port()),
            http.request.resend_count = resend_count(number),
            http.response.status_code = Empty,
            "error.type" = Empty,
            trace_id = Empty,
            span_id = Empty,
        );
        if span.is_disabled() {
            return;
        }
        // Over the one of the request's span: the backend's parent is this attempt.
        write_traceparent(headers, &self.context_of(&span));
        self.state().running.push((number, span));
    }

    fn answered(&self, number: usize, status: StatusCode) {
        let Some(span) = self.running(number) else {
            return;
        };
        span.record("http.response.status_code", i64::from(status.as_u16()));
        // To a client, 4xx are errors, too (OpenTelemetry, HTTP spans, Status).
        if status.is_client_error() || status.is_server_error() {
            span.record("error.type", status.as_str());
            span.record("otel.status_code", "ERROR");
        }
    }

    fn ended(&self, number: usize, attempt: &Attempt) {
        let mut state = self.state();
        let at = state.running.iter().position(|(other, _)| *other == number);
        let Some((_, span)) = at.map(|at| state.running.swap_remove(at)) else {
            return;
        };
        // Before the subscriber is called, by `record` and by the drop of the span.
        drop(state);
        let Some(outcome) = attempt.outcome else {
            return;
        };
        span.record("evenkeel.attempt.outcome", outcome.as_str());
        if let Outcome::Failed(kind) = outcome {
            span.record("error.type", kind.as_str());
            span.record("otel.status_code", "ERROR");
            if let Some(detail) = &attempt.detail {
                span.record("otel.status_description", &**detail);
            }
        }
    }
}

/// The first attempt has none (OpenTelemetry, HTTP spans).
fn resend_count(number: usize) -> Option<i64> {
    i64::try_from(number).ok().filter(|&count| count > 0)
}
