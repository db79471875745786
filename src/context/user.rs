//! `User`: the user that an application has authenticated.

/// The user of a request, as an application's own authentication knows it: an extension. The access log
/// shows it as `user`.
///
/// A layer above the log inserts it into the request, any other into the response. A layer or a handler
/// below the log that has no response yet calls [`Exchange::set_user`](super::Exchange::set_user).
///
/// ```
/// use evenkeel::context::User;
///
/// let mut response = http::Response::new("hello");
/// response.extensions_mut().insert(User::new("ada"));
/// assert_eq!(response.extensions().get::<User>().unwrap().name(), "ada");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: Box<str>,
}

impl User {
    /// Makes the extension of a user. The name stands in the log: an account's name or number, never
    /// credentials.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into() }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
