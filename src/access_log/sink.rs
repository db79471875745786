//! Where lines go.

use std::sync::Arc;

use super::{
    Entry,
    json::{self, Buffer},
};

/// Takes what each line says. Called on the request's own thread: must not block.
pub trait Sink: Send + Sync + 'static {
    /// Returns false while nobody listens: then nothing is gathered for a request.
    fn enabled(&self) -> bool {
        true
    }

    /// Takes one line.
    fn record(&self, entry: &Entry<'_>);
}

impl<T: Sink + ?Sized> Sink for Arc<T> {
    fn enabled(&self) -> bool {
        (**self).enabled()
    }

    fn record(&self, entry: &Entry<'_>) {
        (**self).record(entry);
    }
}

/// Hands each line to `tracing`, as an event of level INFO under `evenkeel::access_log`; its
/// `line` field is the JSON. Costs an allocation a line, and what the subscriber costs.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingSink;

impl TracingSink {
    /// Makes the sink.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Sink for TracingSink {
    fn enabled(&self) -> bool {
        tracing::enabled!(target: "evenkeel::access_log", tracing::Level::INFO)
    }

    fn record(&self, entry: &Entry<'_>) {
        let line = Buffer::of(|cursor| json::write(entry, cursor));
        let line = String::from_utf8_lossy(line.written());
        tracing::info!(
            target: "evenkeel::access_log",
            outcome = entry.outcome,
            status = entry.status,
            line = line.trim_end(),
        );
    }
}
