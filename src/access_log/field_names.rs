//! [`FieldNames`]: the vocabulary that a line's fields are named in.

/// The vocabulary that the fields of a line are named in; see
/// [`AccessLogLayer::field_names`](super::AccessLogLayer::field_names).
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
