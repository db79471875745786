//! Membership: where the backends of a [`Pool`](crate::Pool) come from.
//!
//! The module has one source so far: a list in text, as it comes from a command line, an
//! environment variable or a configuration file. Its backends go into
//! [`Pool::new`](crate::Pool::new), and into [`Pool::replace`](crate::Pool::replace) whenever the
//! list changes. A backend that stays in the list keeps its health, its mode and its counters.
//! Sources that watch by themselves (a file, DNS) are not here yet.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Pool, discover};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new(discover::list("a=http://10.0.0.1:9001, b=http://10.0.0.2:9001")?)?;
//! pool.replace(discover::list("b=http://10.0.0.2:9001, c=http://10.0.0.3:9001")?)?;
//! let snapshot = pool.snapshot();
//! let ids: Vec<_> = snapshot.backends().iter().map(|backend| backend.id()).collect();
//! assert_eq!(ids, ["b", "c"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Before the pool. The functions read text and return; no task goes on afterwards.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | id of a backend without one | host and port of its URL, as they are written there |
//!
//! # When it fails
//!
//! The functions return a [`ConfigError`] that names the entry. The pool is unchanged.
//!
//! # Cost
//!
//! None on the request path. Each backend of a list is compared with those before it.

use crate::{error::ConfigError, pool::Backend};

/// Reads backends from text: entries of the form `id=url` or `url`, separated by commas or white
/// space. A text without entries is an empty list.
///
/// # Errors
///
/// When an entry is not a valid id and URL (see [`Backend::new`]), or two entries have the same id.
pub fn list(text: &str) -> Result<Vec<Backend>, ConfigError> {
    let mut backends: Vec<Backend> = Vec::new();
    let entries = text.split(|c: char| c == ',' || c.is_whitespace());
    for text in entries.filter(|entry| !entry.is_empty()) {
        let backend = entry(text)?;
        if backends.iter().any(|b| b.id() == backend.id()) {
            return Err(ConfigError::new(
                "backends",
                format!("{text:?}: another entry has the id {:?}", backend.id()),
            ));
        }
        backends.push(backend);
    }
    Ok(backends)
}

/// Reads one backend: `id=url`, or `url` alone. The id is then the host and the port, as the URL
/// has them.
///
/// ```
/// use evenkeel::discover;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// assert_eq!(discover::entry("a=https://10.0.0.1/base")?.id(), "a");
/// assert_eq!(discover::entry("http://10.0.0.1:9001")?.id(), "10.0.0.1:9001");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// When the id or the URL is not valid (see [`Backend::new`]).
pub fn entry(text: &str) -> Result<Backend, ConfigError> {
    let text = text.trim();
    let (id, url) = match text.split_once('=') {
        // A URL may have an equals sign in its path.
        Some((id, url)) if !id.contains("://") => (id.trim(), url.trim()),
        _ => (authority_of(text), text),
    };
    Backend::new(id, url)
        .map_err(|error| ConfigError::new("backends", format!("{text:?}: {error}")))
}

/// Returns the authority of a URL, or the text itself if it is none.
fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let backend = entry("http://h:1/x").unwrap();
        assert_eq!(backend.id(), "h:1");
        let id = "host and port of its URL".to_owned();
        let compared = [("id of a backend without one", id)];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }

    #[test]
    fn entries_name_backends() {
        // The entry, its id, host, port and base path.
        let table = [
            ("a=http://h:1", "a", "h", 1, ""),
            (" a = https://h/base/ ", "a", "h", 443, "/base"),
            ("http://h:1/x", "h:1", "h", 1, "/x"),
            ("http://h:1/x=y", "h:1", "h", 1, "/x=y"),
            ("a=http://h:1/x=y", "a", "h", 1, "/x=y"),
            ("http://[::1]:9", "[::1]:9", "::1", 9, ""),
        ];
        for (text, id, host, port, base) in table {
            let backend = entry(text).unwrap();
            let got = (
                backend.id(),
                backend.host(),
                backend.port(),
                backend.base_path(),
            );
            assert_eq!(got, (id, host, port, base), "{text}");
        }
    }

    #[test]
    fn a_bad_entry_is_named() {
        for bad in [
            "",
            "a",
            "a=",
            "a=ftp://h",
            "=http://h",
            "a b=http://h",
            "a=http://h:0",
        ] {
            let error = entry(bad).unwrap_err();
            assert!(error.message().contains(bad), "{error} must name {bad:?}");
        }
        let error = list("a=http://h:1 a=http://h:2").unwrap_err();
        assert!(error.message().contains("a=http://h:2"), "{error}");
    }

    #[test]
    fn a_list_feeds_a_pool_whose_members_keep_their_state() {
        let pool = Pool::new(list("a=http://h:1,b=http://h:2").unwrap()).unwrap();
        pool.start_maintenance("b").unwrap();
        pool.replace(list("\n b=http://h:2\n c=http://h:3,\n").unwrap())
            .unwrap();
        let snapshot = pool.snapshot();
        let ids: Vec<_> = snapshot.backends().iter().map(Backend::id).collect();
        assert_eq!(ids, ["b", "c"]);
        assert!(
            !snapshot.get("b").unwrap().is_usable(),
            "a backend that stays keeps its mode"
        );
        assert_eq!(list("").unwrap().len(), 0);
    }
}
