//! `TraceContext`: the trace that a request belongs to.

use std::fmt;

/// The trace and the span of a request (W3C Trace Context): a request extension. A layer that begins or
/// continues a trace inserts it above the access log, which then shows `trace_id` and `span_id`.
///
/// `Display` writes the value of a `traceparent` field.
///
/// ```
/// use evenkeel::context::TraceContext;
///
/// let context = TraceContext::new([0xab; 16], [0x01; 8], true);
/// assert_eq!(
///     context.to_string(),
///     "00-abababababababababababababababab-0101010101010101-01",
/// );
/// assert_eq!(context.span_id_hex().to_string(), "0101010101010101");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// The id of the trace.
    pub trace_id: [u8; 16],
    /// The id of this request's span.
    pub span_id: [u8; 8],
    /// True if the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Makes the context of a request.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Self {
        Self {
            trace_id,
            span_id,
            sampled,
        }
    }

    /// Returns the id of the trace as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id_hex(&self) -> impl fmt::Display {
        Hex(self.trace_id)
    }

    /// Returns the id of the span as 16 hexadecimal digits.
    #[must_use]
    pub fn span_id_hex(&self) -> impl fmt::Display {
        Hex(self.span_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (Hex(self.trace_id), Hex(self.span_id));
        write!(f, "00-{trace}-{span}-{:02x}", u8::from(self.sampled))
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
