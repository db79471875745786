//! [`Tee`], and lists of sinks: each line goes to all of them.
//!
//! Each sink is asked again at the end whether it is enabled: a subscriber may have changed its filter
//! while the request ran. A sink that was enabled in between gets a line whose opening it never saw,
//! and writes it from the entry (`a_sink_that_opened_nothing_still_closes_with_valid_json`).

use super::{Closing, Entry, Opening, Sink};

/// Hands each line to two sinks. For a list of sinks that is known at run time only, use a
/// `Vec<Box<dyn Sink>>`, which is a sink, too.
///
/// A tee is enabled while one of its sinks is; a sink that is not enabled at the request's end gets
/// no line.
/// It opens each request at all of them, so a sink may be opened while it is not enabled, and then not
/// closed.
///
/// # Example
///
/// ```
/// use evenkeel::access_log::{AccessLogLayer, Lines, Tee, TracingSink};
///
/// # fn main() -> std::io::Result<()> {
/// let layer = AccessLogLayer::new(Tee::new(Lines::stdout()?, TracingSink::new()));
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

/// Hands each line to all sinks, as [`Tee`] does; an empty list is not enabled.
impl<T: Sink> Sink for Vec<T> {
    fn enabled(&self) -> bool {
        self.iter().any(Sink::enabled)
    }

    fn open(&self, opening: &mut Opening<'_>) {
        self.iter().for_each(|sink| sink.open(opening));
    }

    fn close(&self, closing: &Closing<'_>) {
        let enabled = self.iter().filter(|sink| sink.enabled());
        enabled.for_each(|sink| sink.close(closing));
    }

    fn record(&self, entry: &Entry<'_>) {
        let enabled = self.iter().filter(|sink| sink.enabled());
        enabled.for_each(|sink| sink.record(entry));
    }
}
