//! The names of one certificate.

use std::{fmt, sync::Arc};

use rustls::pki_types::DnsName;

use crate::{
    connect::{crypto::sha256, x509::hex},
    error::ConfigError,
};

/// The names of one certificate, in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    names: Arc<[Box<str>]>,
    /// The last segment of this certificate's keys in the store.
    id: Arc<str>,
}

impl Names {
    pub(super) fn new<N: AsRef<str>>(
        given: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::new("domains", why);
        let mut names: Vec<Box<str>> = Vec::new();
        for name in given {
            let name = name.as_ref().to_ascii_lowercase();
            let plain = name.strip_prefix("*.").unwrap_or(&name);
            if plain.ends_with('.') || DnsName::try_from(plain).is_err() {
                return Err(bad(format!(
                    "{name:?}: a DNS name such as \"a.example\" or \"*.a.example\" is accepted"
                )));
            }
            if names.contains(&name.as_str().into()) {
                return Err(bad(format!("{name:?} is there twice")));
            }
            names.push(name.into());
        }
        if names.is_empty() || names.len() > MAX_NAMES {
            let number = names.len();
            return Err(bad(format!("{number} names; 1 to 100 are accepted")));
        }
        let mut sorted = names.clone();
        sorted.sort();
        let digest = hex(&sha256(sorted.join("\n").as_bytes())[..8]);
        // For people that look into the store; the digest tells certificates apart.
        let shown = sorted
            .first()
            .map_or_else(String::new, |name| name.replace('*', "_"));
        Ok(Self {
            id: format!("{shown}-{digest}").into(),
            names: names.into(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn shared(&self) -> Arc<[Box<str>]> {
        self.names.clone()
    }

    pub(super) fn has_wildcard(&self) -> bool {
        self.iter().any(|name| name.starts_with("*."))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

/// What Let's Encrypt accepts.
const MAX_NAMES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::check_key;

    #[test]
    fn names_of_the_dns_are_accepted() {
        let long = format!("{}.test", ["a".repeat(60).as_str(); 3].join("."));
        for given in [
            &["a.test"][..],
            &["A.Test", "b.test"],
            &["*.a.test", "a.test"],
            &["localhost"],
            &["xn--bcher-kva.example"],
            &[&long],
        ] {
            let names = Names::new(given).unwrap();
            assert_eq!(names.iter().next().unwrap(), given[0].to_lowercase());
            assert!(check_key(names.id()).is_ok(), "{}", names.id());
        }
    }

    #[test]
    fn other_names_are_refused() {
        let many: Vec<_> = (0..101).map(|n| format!("{n}.test")).collect();
        for (given, part) in [
            (vec![], "0 names"),
            (vec!["192.0.2.1"], "\"192.0.2.1\""),
            (vec!["a.test."], "\"a.test.\""),
            (vec!["a..test"], "\"a..test\""),
            (vec!["*"], "\"*\""),
            (vec!["*.*.test"], "\"*.*.test\""),
            (vec!["a.*.test"], "\"a.*.test\""),
            (vec!["a test"], "\"a test\""),
            (vec![""], "\"\""),
            (vec!["a.test", "A.TEST"], "twice"),
            (many.iter().map(String::as_str).collect(), "101 names"),
        ] {
            let error = Names::new(&given).unwrap_err();
            assert_eq!(error.field(), "domains");
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn the_order_of_names_does_not_make_another_certificate() {
        let id = |names: &[&str]| Names::new(names).unwrap().id().to_owned();
        let one = id(&["a.test", "b.test"]);
        assert_eq!(one, id(&["b.test", "a.test"]));
        assert_ne!(one, id(&["a.test"]));
        assert!(one.starts_with("a.test-"), "{one}");
    }
}
