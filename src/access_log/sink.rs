//! [`Sink`]: where lines go.
//!
//! The trait has two levels, so that a sink of a user needs one method and the built-in ones can begin
//! a line early. Before it had `open` and `close`, the layer recognized its own sink by a downcast,
//! and a sink inside an `Arc` or a wrapper silently took the slower way.

use std::sync::Arc;

use super::{Closing, Entry, Opening};

/// Takes the lines of a log.
///
/// A sink that implements [`record`](Self::record) alone gets each line whole, at the request's
/// end. [`open`](Self::open) and [`close`](Self::close) are for a sink that makes something of a
/// request when it arrives, as [`Lines`](super::Lines) does, and for one that wraps another
/// sink: it forwards all four methods.
///
/// Every method runs on the thread of the request, and must not block. [`close`](Self::close) runs
/// while the record of the request is locked: it must not call the request's
/// [`Exchange`](crate::context::Exchange), nor print one, or it waits for itself.
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
/// [`Tee`](super::Tee) hands each line to this sink and to a [`Lines`](super::Lines).
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

impl<T: Sink + ?Sized> Sink for Box<T> {
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
