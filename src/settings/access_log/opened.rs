//! [`LogOutputs`]: what `[access_log]` opened.

use std::{fmt, sync::Arc};

use super::OutputPart;
use crate::{
    access_log::{Closing, Entry, Lines, Opening, Sink},
    settings::{SettingsError, draft::Draft},
};

/// The open outputs of `[access_log]`, as one sink. Clones share them.
#[derive(Clone)]
pub struct LogOutputs {
    inner: Arc<Inner>,
}

struct Inner {
    sink: Box<dyn Sink>,
    /// One for each output.
    lines: Vec<Lines>,
    parts: Vec<OutputPart>,
}

impl LogOutputs {
    pub(super) fn open(parts: &[OutputPart], draft: &Draft) -> Result<Self, SettingsError> {
        let opened = parts.iter().map(|part| part.open(draft));
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        let (lines, mut sinks): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let sink = match sinks.len() {
            1 => sinks.remove(0),
            _ => Box::new(sinks),
        };
        let parts = parts.to_vec();
        Ok(Self {
            inner: Arc::new(Inner { sink, lines, parts }),
        })
    }

    /// Opens all files again by their paths, after another program has moved them: commonly at
    /// SIGHUP. See [`Lines::reopen`].
    pub fn reopen(&self) {
        self.inner.lines.iter().for_each(Lines::reopen);
    }

    /// Waits until each output has the lines that were recorded before this call; returns false if
    /// one of them takes longer than 2 s. Blocks the calling thread. See [`Lines::flush`].
    #[must_use = "false means that lines wait still"]
    pub fn flush(&self) -> bool {
        // An output that stalls keeps none of the others from its lines.
        let flushed = self.inner.lines.iter().filter(|lines| lines.flush());
        flushed.count() == self.inner.lines.len()
    }

    /// Returns how many lines all outputs took so far. With two outputs, a request has two.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner.lines.iter().map(Lines::written).sum()
    }

    /// Returns how many lines were lost so far, in all outputs.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.lines.iter().map(Lines::dropped).sum()
    }

    /// Visits `evenkeel_log_lines_total`: the lines that the outputs took and lost, by `result`. For
    /// [`MetricsService::source`](crate::metrics::MetricsService::source).
    #[cfg(feature = "metrics")]
    pub fn visit(&self, visitor: &mut dyn crate::metrics::Visitor) {
        use crate::metrics::{Family, Value};

        visitor.family(&Family::counter(
            "evenkeel_log_lines",
            "Lines of the access log, for each output.",
        ));
        visitor.sample(&[("result", "written")], &Value::Counter(self.written()));
        visitor.sample(&[("result", "dropped")], &Value::Counter(self.dropped()));
    }
}

impl Sink for LogOutputs {
    fn enabled(&self) -> bool {
        self.inner.sink.enabled()
    }

    fn open(&self, opening: &mut Opening<'_>) {
        self.inner.sink.open(opening);
    }

    fn close(&self, closing: &Closing<'_>) {
        self.inner.sink.close(closing);
    }

    fn record(&self, entry: &Entry<'_>) {
        self.inner.sink.record(entry);
    }
}

/// Shows what is configured.
impl fmt::Debug for LogOutputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogOutputs")
            .field(&self.inner.parts)
            .finish()
    }
}
