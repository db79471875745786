//! `AuthFailure`: what an application's authentication reports to the access log.

/// Why authentication failed: a response extension that an application's own authentication inserts,
/// and that the access log reads. Without it the log derives the failure from 401, 403 and 407.
///
/// Do not put credentials into it: the log writes all of its fields.
///
/// ```
/// use evenkeel::context::AuthFailure;
///
/// let mut response = http::Response::new("sign in again");
/// let failure = AuthFailure::new("Bearer", "expired").user("ada");
/// response.extensions_mut().insert(failure);
/// assert_eq!(response.extensions().get::<AuthFailure>().unwrap().reason, "expired");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailure {
    /// The scheme, such as `Basic` or `Bearer`.
    pub scheme: String,
    /// The user, if the request names one.
    pub user: Option<String>,
    /// The reason in words, such as `expired` or `unknown user`.
    pub reason: String,
}

impl AuthFailure {
    /// Makes a failure of this scheme, for this reason.
    pub fn new(scheme: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            scheme: scheme.into(),
            user: None,
            reason: reason.into(),
        }
    }

    /// Adds the user that the request names.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }
}
