//! [`FieldNames`]: the vocabulary that a line's fields are named in.

/// The vocabulary that the fields of a line are named in; see
/// [`AccessLogLayer::field_names`](super::AccessLogLayer::field_names).
///
/// The values keep their meaning in each vocabulary; a few change their form, as the other
/// vocabularies ask for it: a duration in nanoseconds in ECS, and a port apart from its address in
/// both.
///
/// ```
/// use evenkeel::access_log::{AccessLogLayer, FieldNames, Lines};
///
/// # fn main() -> std::io::Result<()> {
/// let layer = AccessLogLayer::new(Lines::stdout()?).field_names(FieldNames::Ecs);
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldNames {
    /// The names of this crate, such as `path` and `duration_ms`.
    #[default]
    Own,
    /// The names of the Elastic Common Schema, such as `url.path` and `event.duration`.
    Ecs,
    /// The names of OpenTelemetry's semantic conventions, such as `url.path` and
    /// `http.response.status_code`.
    OpenTelemetry,
}
