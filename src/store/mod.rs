//! Small values that outlive the process, and that several instances may share: certificates, account
//! keys, the answers to challenges, secrets.
//!
//! [`Store`] is the contract. Whatever needs a store takes any of them, so that one instance begins
//! with a folder and a fleet moves to a shared store without another change.
//!
//! # Example
//!
//! ```
//! use evenkeel::store::check_key;
//!
//! assert!(check_key("acme/certificates/a.test").is_ok());
//! let error = check_key("acme/../keys").unwrap_err();
//! assert!(error.to_string().starts_with("key: `acme/../keys`"), "{error}");
//! ```
//!
//! # Where it goes
//!
//! Beside the request path, never on it: a store may be slow, down, or empty after a restart. What is
//! built on a store serves on from what it has in memory, and reports the failure.
//!
//! `FileStore` (feature `acme`) is a store in a folder.
//!
//! # Defaults
//!
//! None.
//!
//! # When it fails
//!
//! Every method returns the error of the store. A value is written whole or not at all. A holder that
//! dies keeps its lock until the lease ends, and no longer.
//!
//! # Cost
//!
//! One boxed future a call.

#[cfg(feature = "__file_store")]
mod file;

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

#[cfg(feature = "__file_store")]
pub use self::file::FileStore;
use crate::error::{BoxError, ConfigError};

/// A place that keeps small values under keys.
///
/// A key is a path such as `acme/certificates/a.test`; [`check_key`] says which are accepted. A value has
/// at most [`MAX_VALUE`] bytes. Implementations refuse others with an error, and store nothing.
///
/// Every method may be cancelled: a dropped future has either done all of its work or none of it. No
/// method waits for longer than a few seconds: a store that does not answer is an error.
///
/// Secrets are among the values. An implementation keeps them from other users of the machine, and never
/// writes them to a log.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Reads a value; `None` if the key has none, or its lifetime has ended.
    ///
    /// What is there and was damaged, or written by another program, is an [`std::io::Error`] of the kind
    /// [`InvalidData`](std::io::ErrorKind::InvalidData): other errors may pass, and this one stays until
    /// the next [`put`](Self::put).
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>>;

    /// Writes a value in place of the one before. A reader sees the old value or the new one, never a
    /// part. With a lifetime, the value is gone after it; the store may remove it later than that, but
    /// never returns it.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> StoreFuture<'a, ()>;

    /// Removes a value, if there is one.
    fn remove<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()>;

    /// Takes the lock `name` for `holder` until the lease ends, and returns true; false if another
    /// holder has it. The holder that has it already extends its lease.
    ///
    /// `holder` is a text that no other holder uses, such as 128 random bits. Locks have names of their
    /// own: the lock `a` does not touch the value of the key `a`.
    ///
    /// A lock keeps two instances from the same work. It is no proof that another holder has stopped: a
    /// process that was frozen for longer than its lease still believes that it holds the lock.
    fn lock<'a>(&'a self, name: &'a str, holder: &'a str, lease: Duration)
    -> StoreFuture<'a, bool>;

    /// Gives the lock up, if `holder` has it.
    fn unlock<'a>(&'a self, name: &'a str, holder: &'a str) -> StoreFuture<'a, ()>;
}

/// The future of a [`Store`]'s method.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// The longest value that a [`Store`] accepts, in bytes: 1 MiB.
pub const MAX_VALUE: usize = 1 << 20;

/// The longest key that a [`Store`] accepts, in bytes.
pub const MAX_KEY: usize = 512;

/// Checks a key, or the name of a lock: segments of `a`–`z`, `0`–`9`, `.`, `-` and `_`, joined by `/`. No
/// segment is empty or begins with a dot. The key has at most [`MAX_KEY`] bytes.
///
/// # Errors
///
/// If the key is not such a path.
pub fn check_key(key: &str) -> Result<(), ConfigError> {
    let is_accepted = |segment: &str| {
        let is_of = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(is_of)
    };
    if key.len() <= MAX_KEY && key.split('/').all(is_accepted) {
        return Ok(());
    }
    Err(ConfigError::new(
        "key",
        format!(
            "`{key}`: segments of a-z, 0-9, `.`, `-` and `_`, joined by `/`, none of which begins with \
             a dot, {MAX_KEY} bytes in all, are accepted"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_are_keys() {
        for key in ["a", "a/b", "acme/certificates/_.a-b.test", "0/1_2"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        let long = "a".repeat(MAX_KEY + 1);
        for key in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "a/.b", "A", "a b", "a\0", "a\\b", "ä",
            "a:b", "*", &long,
        ] {
            assert!(check_key(key).is_err(), "{key}");
        }
    }
}
