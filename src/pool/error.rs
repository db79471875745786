//! The error of calls that name a backend.
//!
//! An error of its own and no `ConfigError`: a call that names a wrong id made no mistake in a
//! setting, and the admin API answers it with 404.

use std::{error, fmt};

/// No member of the pool has this id. The call that returns it changed nothing.
///
/// ```
/// use evenkeel::{Backend, Pool};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let error = pool.start_maintenance("b").unwrap_err();
/// assert_eq!(error.id(), "b");
/// assert_eq!(error.to_string(), "no backend of the pool has the id \"b\"");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownBackend {
    id: Box<str>,
}

impl UnknownBackend {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.into() }
    }

    /// Returns the id that the call named.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no backend of the pool has the id {:?}", self.id)
    }
}

impl error::Error for UnknownBackend {}
