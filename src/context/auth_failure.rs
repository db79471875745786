//! What an application's own auth layer tells the access log.

/// Why authentication failed; a response extension. Never carries credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailure {
    /// The scheme, such as `Basic` or `Bearer`.
    pub scheme: String,
    /// The user, where one was named.
    pub user: Option<String>,
    /// Why, for people: `expired`, `unknown user`.
    pub reason: String,
}

impl AuthFailure {
    /// Notes a failure of this scheme.
    pub fn new(scheme: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            scheme: scheme.into(),
            user: None,
            reason: reason.into(),
        }
    }

    /// Adds the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }
}
