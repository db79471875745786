//! [`Sink`]: where lines go.

use std::sync::Arc;

use super::{Closing, Entry, Opening, json::Buffer};

/// Takes the lines of a log.
///
/// A sink that implements [`record`](Self::record) alone gets each line whole, at the request's
/// end. [`open`](Self::open) and [`close`](Self::close) are for a sink that makes something of a
/// request when it arrives, as [`JsonLines`](super::JsonLines) does, and for one that wraps another
/// sink: it forwards all four methods.
///
/// Every method runs on the thread of the request, and must not block.
///
/// # Example
///
/// Count the responses of each class (`2xx`, `5xx`) and let another sink write the lines:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// use evenkeel::access_log::{Entry, Sink};
///
/// #[derive(Default)]
/// struct Classes([AtomicU64; 6]);
///
/// impl Sink for Classes {
///     fn record(&self, entry: &Entry<'_>) {
///         let class = usize::from(entry.status.unwrap_or(0) / 100);
///         if let Some(count) = self.0.get(class) {
///             count.fetch_add(1, Relaxed);
///         }
///     }
/// }
/// ```
///
/// [`Tee`] hands each line to this sink and to a [`JsonLines`](super::JsonLines).
pub trait Sink: Send + Sync + 'static {
    /// Returns false while the sink wants no lines. The layer asks at each request; without a line
    /// to write it does nothing else.
    ///
    /// Default: true.
    fn enabled(&self) -> bool {
        true
    }

    /// Called when a request arrives, if the sink is [enabled](Self::enabled): says what is kept of
    /// the request until its end.
    ///
    /// Default: [`Opening::keep_fields`].
    fn open(&self, opening: &mut Opening<'_>) {
        opening.keep_fields();
    }

    /// Called once for each request that was [opened](Self::open), at its true end.
    ///
    /// Default: [`record`](Self::record) with [`Closing::entry`].
    fn close(&self, closing: &Closing<'_>) {
        self.record(&closing.entry());
    }

    /// Takes one whole line: from [`close`](Self::close), and for a connection that ended without a
    /// request.
    fn record(&self, entry: &Entry<'_>);
}

impl<T: Sink + ?Sized> Sink for Arc<T> {
    fn enabled(&self) -> bool {
        (**self).enabled()
    }

    fn open(&self, opening: &mut Opening<'_>) {
        (**self).open(opening);
    }

    fn close(&self, closing: &Closing<'_>) {
        (**self).close(closing);
    }

    fn record(&self, entry: &Entry<'_>) {
        (**self).record(entry);
    }
}

/// Hands each line to two sinks. For more, make one of them a tee.
///
/// A tee is enabled while one of its sinks is; a sink that is not enabled at the request's end gets
/// no line.
///
/// # Example
///
/// ```
/// use evenkeel::access_log::{AccessLogLayer, JsonLines, Tee, TracingSink};
///
/// # fn main() -> std::io::Result<()> {
/// let layer = AccessLogLayer::new(Tee::new(JsonLines::stdout()?, TracingSink::new()));
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tee<A, B> {
    first: A,
    second: B,
}

impl<A: Sink, B: Sink> Tee<A, B> {
    /// Makes a sink of two.
    #[must_use]
    pub fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A: Sink, B: Sink> Sink for Tee<A, B> {
    fn enabled(&self) -> bool {
        self.first.enabled() || self.second.enabled()
    }

    fn open(&self, opening: &mut Opening<'_>) {
        self.first.open(opening);
        self.second.open(opening);
    }

    fn close(&self, closing: &Closing<'_>) {
        if self.first.enabled() {
            self.first.close(closing);
        }
        if self.second.enabled() {
            self.second.close(closing);
        }
    }

    fn record(&self, entry: &Entry<'_>) {
        if self.first.enabled() {
            self.first.record(entry);
        }
        if self.second.enabled() {
            self.second.record(entry);
        }
    }
}

/// Hands each line to `tracing`, as an event of level INFO under the target
/// `evenkeel::access_log`. The event has the fields `outcome`, `status` and `line`, which is the
/// JSON of [`JsonLines`](super::JsonLines).
///
/// A line costs an allocation, and what the subscriber costs.
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

    fn open(&self, opening: &mut Opening<'_>) {
        opening.write_json();
    }

    fn close(&self, closing: &Closing<'_>) {
        let Some(opening) = closing.json() else {
            return self.record(&closing.entry());
        };
        let end = &closing.end;
        emit(end.outcome, end.status, &Buffer::of_line(opening, end));
    }

    fn record(&self, entry: &Entry<'_>) {
        emit(entry.outcome, entry.status, &Buffer::of_entry(entry));
    }
}

fn emit(outcome: &str, status: Option<u16>, line: &Buffer) {
    let line = String::from_utf8_lossy(line.written());
    tracing::info!(
        target: "evenkeel::access_log",
        outcome,
        status,
        line = line.trim_end(),
    );
}
